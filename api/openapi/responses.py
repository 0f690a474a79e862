"""What an operation may answer: every status with its headers, media types and schema."""

import http
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from api.cache.entries import Level
from api.encodings import CODINGS
from api.openapi.examples import example
from api.openapi.parameters import names_in
from api.openapi.schemas import Components, Schema
from api.operations import Operation
from api.problems import MEDIA_TYPE

JSON = "application/json"

# Each is a component; those that always come are required, so that a test can miss them.
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-ID": {
        "description": "What our log knows the request by: yours, or a new one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.:/+=-]{1,128}$"},
    },
    "ETag": {
        "description": "Stands for these very bytes: changes with the answer and with its coding.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[^"]+"$'},
    },
    "Last-Modified": {
        "description": "When the newest fact in the answer was read. An answer can change without a newer one (a note, a"
        " new name): ask again with `If-None-Match`, a date is no condition here.",
        "schema": {"type": "string"},
    },
    "Cache-Control": {
        "description": "`no-cache`: keep it, but ask each time whether it holds. `no-store`: don't keep it.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Vary": {
        "description": "Which request headers decide about the answer.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Content-Encoding": {
        "description": "The coding of the body, where it has one.",
        "schema": {"type": "string", "enum": [coding for coding in CODINGS if coding != "identity"]},
    },
    "Surrogate-Key": {
        "description": "The tags of what the answer shows, by which caches in front of us are purged.",
        "required": True,
        "schema": {"type": "string"},
    },
    "X-Cache": {
        "description": "Where the answer came from: this process's memory (l1), the cache that all share (l2), the database"
        " (miss), or an older answer that is given while a new one is made (stale).",
        "required": True,
        "schema": {"type": "string", "enum": list(get_args(Level))},
    },
    "WWW-Authenticate": {
        "description": "How to send a key.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "After how many seconds to ask again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimit-Policy": {
        "description": "The caller's limit as `requests;w=seconds`: a key's own, or that of the address.",
        "schema": {"type": "string", "pattern": "^[0-9]+;w=[0-9]+$"},
    },
    "RateLimit-Limit": {
        "description": "How many requests the caller may make in a window.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "RateLimit-Remaining": {
        "description": "How many of them are left in this window.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimit-Reset": {
        "description": "After how many seconds the next window begins.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
LIMITS = tuple(name for name in HEADERS if name.startswith("RateLimit-"))
_KEPT = ("ETag", "Cache-Control", "Vary", "Surrogate-Key", "X-Cache", "Last-Modified")
_OF_STATUS: Mapping[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_REASONS: Mapping[int, str] = {
    304: "What `If-None-Match` names still holds.",
    400: "The request is wrong: `errors` names each part and why.",
    401: "This needs a key, and the one given is unknown, revoked or missing.",
    403: "The key lacks the scope.",
    404: "There is nothing of this name.",
    408: "The body didn't come in time.",
    413: "The body is larger than 1 MiB.",
    414: "The address is longer than 8,190 bytes.",
    415: "The body says of itself that it isn't JSON, or that it is compressed.",
    429: "The limit of the key, or of the address, is reached.",
    503: "The database can't be read at the moment, or this took too long.",
}


def of_operation(
    operation: Operation, path: str, answer: Schema, components: Components, *, needs_key: bool, is_limited: bool
) -> dict[str, Any]:
    """Return the responses of an operation by status; `answer` is the schema of its JSON."""
    success: dict[str, Any] = {
        "headers": _of_success(operation) | dict(_own(operation)),
        "content": {media: _content(media, answer, components) for media in operation.media_types},
    }
    if operation.status == http.HTTPStatus.NO_CONTENT:
        del success["content"]
    found: dict[str, Any] = {
        str(status): {"description": _phrase(status), **success} for status in (operation.status, *operation.also)
    }
    if operation.kept_s is not None:
        found["304"] = {"description": _REASONS[304], "headers": _headers(*_KEPT, "X-Request-ID")}
    if names_in(path) or operation.query is not None:
        # Gunicorn's own, before the API sees anything (`limit_request_line`).
        found["414"] = {"description": _REASONS[414], "content": {"text/plain": {"schema": {"type": "string"}}}}
    for status, reason in sorted(_problems(operation, path, needs_key=needs_key, is_limited=is_limited).items()):
        found.setdefault(
            str(status), _problem(status, reason, may_be_kept=status == 404 and operation.kept_s is not None)
        )
    if is_limited:
        for code, response in found.items():
            if code != "414":
                response["headers"] = response["headers"] | _headers(*LIMITS)
    return dict(sorted(found.items()))


def _problems(operation: Operation, path: str, *, needs_key: bool, is_limited: bool) -> dict[int, str]:
    """Return when which problem comes: what follows from the operation, and what it adds."""
    said = {400}  # a query string can be wrong anywhere
    if needs_key:
        said.add(401)
    if operation.scope is not None:
        said.add(403)
    if names_in(path):
        said.add(404)
    if operation.body is not None:
        said |= {408, 413, 415}
    if is_limited:
        said.add(429)
    if not operation.always_open:
        said.add(503)
    return {status: _REASONS[status] for status in said} | dict(operation.problems)


def _problem(status: int, reason: str, *, may_be_kept: bool) -> dict[str, Any]:
    """Return the answer that says what is wrong. That there is nothing of a name is kept for a moment, too."""
    kept = _perhaps(*_KEPT, "Content-Encoding") if may_be_kept else _perhaps("Vary")
    return {
        "description": reason,
        "headers": kept | _headers("Cache-Control", "X-Request-ID", *_OF_STATUS.get(status, ())),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
    }


def _content(media_type: str, answer: Schema, components: Components) -> dict[str, Any]:
    if media_type == JSON:
        return {"schema": answer, "example": example(answer, components)} if answer else {"schema": answer}
    # Of a stream of events a schema would be that of each event's data (OpenAPI 3.2's itemSchema; 3.1 has none).
    is_text = media_type.startswith("text/") and media_type != "text/event-stream"
    return {"schema": {"type": "string"}} if is_text else {}


def _of_success(operation: Operation) -> dict[str, Any]:
    if operation.kept_s is not None:
        return _headers(*_KEPT, "Content-Encoding", "X-Request-ID")
    return _headers("Cache-Control", "Content-Encoding", "X-Request-ID") | _perhaps("Vary")


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _perhaps(*names: str) -> dict[str, Any]:
    return {name: {**HEADERS[name], "required": False} for name in names}


def _own(operation: Operation) -> Iterator[tuple[str, Any]]:
    for name, description in operation.headers.items():
        yield name, {"description": description, "schema": {"type": "string"}}


def _phrase(status: int) -> str:
    return http.HTTPStatus(status).phrase
