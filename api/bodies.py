"""The body of a request: read within its limits, and turned into a record, or into a problem that says what is wrong."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from falcon import MultipartParseError
from falcon.asgi import Request
from falcon.asgi.multipart import MultipartForm
from falcon.asgi.reader import BufferedReader
from falcon.media.multipart import MultipartParseOptions
from falcon.util.mediatypes import parse_header
from msgspec import Struct

from api.problems import Fault, Problem, refuse

LARGEST_BODY_BYTES = 1 << 20
_MOST_FIELDS = 1_000
# Of UTF-8 JSON; a PATCH may name itself a merge patch (RFC 7396), which is what it is.
_JSON = re.compile(r'application/([\w.-]+\+)?json(;\s*charset="?utf-8"?)?', re.IGNORECASE)

# Addresses whose resources say by themselves what is too large: to people, who would lose what they sent.
BOUNDED_ELSEWHERE = frozenset({"/import"})
_MOST_PARTS = 20
_PIECE_BYTES = 1 << 18

Body = TypeVar("Body", bound=Struct)


def too_large(most_bytes: int = LARGEST_BODY_BYTES) -> Problem:
    return Problem(413, f"A body holds at most {most_bytes:,} bytes.")


async def read(req: Request, body_type: type[Body], *, within_s: float) -> Body:
    """Return the body as a record. Raises Problem: 400, 408 where it comes too slowly, 413, 415."""
    _check_type(req)
    return decoded(await _bytes(req, within_s), body_type)


async def read_parts(req: Request, *, most_bytes: int, within_s: float) -> dict[str, bytes]:
    """Return the parts of a form that may hold a file, by their names. Raises Problem: 400, 408, 413, 415."""
    kind, options = parse_header(req.content_type or "")
    boundary = options.get("boundary", "").rstrip()
    if kind.lower() != "multipart/form-data" or not (boundary.isascii() and 1 <= len(boundary) <= 70):
        raise Problem(415, "A form with a file comes as multipart/form-data, as browsers send it.")
    if (req.content_length or 0) > most_bytes:
        raise too_large(most_bytes)
    body = await _bytes(req, within_s, most_bytes)
    bounds = MultipartParseOptions()
    bounds.max_body_part_buffer_size, bounds.max_body_part_count = most_bytes, _MOST_PARTS
    form = MultipartForm(BufferedReader(_pieces(body)), boundary.encode(), len(body), bounds)
    try:
        pairs = [(part.name or "", await part.get_data()) async for part in form]
    except MultipartParseError as exc:
        raise refuse(Fault("$", f"is no form as a browser sends it: {exc.description}")) from exc
    return _once_each(pairs)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        await asyncio.sleep(0)  # to take a large form apart takes a while: others have their turn
        yield body[start : start + _PIECE_BYTES]


async def read_form(req: Request, *, within_s: float) -> dict[str, str]:
    """Return the fields of a page's form, without the space around them. Raises Problem: 400, 408, 413, 415."""
    kind = (req.content_type or "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded" or req.get_header("Content-Encoding") not in (None, "identity"):
        raise Problem(415, "A form comes as application/x-www-form-urlencoded, as browsers send it.")
    body = await _bytes(req, within_s)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError as exc:  # not percent-encoded UTF-8, or far more than any form has
        raise refuse(Fault("$", "is no form as a browser sends it")) from exc
    return {name: text.strip() for name, text in _once_each(pairs).items()}


def decoded(body: bytes, body_type: type[Body]) -> Body:
    """Return what JSON says. Raises Problem that names the place where it is not as documented."""
    try:
        record = msgspec.json.decode(body, type=body_type)
        json.loads(body, object_pairs_hook=_once_each)  # its depth is that of the record by now
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at ")
        raise refuse(Fault(path.strip("`").removeprefix("$.") or "$", reason)) from exc
    except ValueError as exc:  # not JSON, or not UTF-8
        raise refuse(Fault("$", f"is not JSON: {exc}")) from exc
    return record


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs: one name that says two things is a mistake, whichever a reader would pick."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise refuse(Fault(twice, "is given twice"))
    return found


def _check_type(req: Request) -> None:
    """Raise Problem for a body that says itself that it isn't JSON; one that says nothing is tried."""
    if req.content_type is not None and not _JSON.fullmatch(req.content_type.strip()):
        raise Problem(415, "A body is JSON here: send it with Content-Type: application/json.")
    if req.get_header("Content-Encoding") not in (None, "identity"):
        raise Problem(415, "A body comes as it is here, without Content-Encoding.")


async def _bytes(req: Request, within_s: float, most_bytes: int = LARGEST_BODY_BYTES) -> bytes:
    """Read the body, which may come in chunks of no announced length, as far and as long as it may go."""
    late = Problem(408, f"The body didn't come within {within_s:g} seconds.", headers={"Connection": "close"})
    body = bytearray()
    until = time.monotonic() + within_s
    try:
        async with asyncio.timeout(within_s):
            async for chunk in req.stream:
                body += chunk
                if len(body) > most_bytes:
                    raise too_large(most_bytes)
                # Looked at as well, since a chunk that comes at the moment of the timeout swallows it: Python 3.11's
                # wait_for, which gunicorn waits with, then returns the chunk (python/cpython#86296).
                if time.monotonic() > until:
                    raise late
    except TimeoutError as exc:
        raise late from exc
    return bytes(body)
