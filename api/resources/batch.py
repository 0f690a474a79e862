"""POST /api/batch: several reads in one request, each as if it had come by itself."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from falcon.asgi import Response
from msgspec import Struct

from api import bodies, encodings
from api.operations import Operation, Operations
from api.problems import MEDIA_TYPE, Problem, body_of
from api.request import ApiRequest
from api.room import Asgi, Room
from api.routes import Route
from api.schemas import BatchBody, BatchRequest, NoQuery, parse

# Parts under way at a time, of one batch: it must not take every thread that reads.
AT_A_TIME = 4
LARGEST_ANSWER_BYTES = 10 << 20
# What a part doesn't inherit of the batch's headers: they are about the batch's own body and answer.
_OWN = (b"accept", b"accept-encoding", b"if-none-match", b"if-modified-since", b"range", b"expect", b"connection")
_LEFT_OUT = ("content-length", "connection")
_NO_STREAM = "A stream can't be part of a batch: ask for it by itself."


class BatchResponse(Struct, frozen=True):
    """The answer to one request. `body` is JSON as it is, another text as a text, null where there is none."""

    id: str | None
    status: int
    headers: dict[str, str]
    body: Any


class BatchAnswer(Struct, frozen=True):
    """The answers, in the order of the requests."""

    responses: list[BatchResponse]


class Batch:
    """Sends each part through the app itself: routing, keys, limits, caches and errors are those of any request."""

    operations = Operations(
        post=Operation(summary="Up to 20 reads in one request.", query=NoQuery, body=BatchBody, answer=BatchAnswer)
    )

    def __init__(self, room: Room) -> None:
        self._app = room.app
        self._threads = room.threads
        self._body_s = room.settings.api_body_timeout_s

    async def on_post(self, req: ApiRequest, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        body = await bodies.read(req, BatchBody, within_s=self._body_s)
        room_left = _Space(LARGEST_ANSWER_BYTES)
        turn = asyncio.Semaphore(AT_A_TIME)

        async def answered(number: int, asked: BatchRequest) -> BatchResponse:
            async with turn:
                return await self._answer(req, number, asked, room_left)

        responses = await asyncio.gather(*(answered(i, asked) for i, asked in enumerate(body.requests, 1)))
        encoding = encodings.negotiate(req.get_header("Accept-Encoding"))
        loop = asyncio.get_running_loop()
        resp.data = await loop.run_in_executor(self._threads, _packed, BatchAnswer(responses), encoding)
        if encoding != "identity":
            resp.set_header("Content-Encoding", encoding)
        resp.append_header("Vary", "Accept-Encoding")
        resp.set_header("Cache-Control", "no-store")

    async def _answer(self, req: ApiRequest, number: int, asked: BatchRequest, space: "_Space") -> BatchResponse:
        try:
            scope = _scope(req, number, asked)
            part = _Part(space)
            await part.run(self._app, scope)
        except Problem as problem:
            headers = {"content-type": MEDIA_TYPE}
            return BatchResponse(asked.id, problem.status_code, headers, msgspec.Raw(body_of(problem)))
        return BatchResponse(asked.id, part.status, part.headers, part.content())


class _Space:
    """How many bytes the parts of a batch may still bring."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int) -> None:
        if size > self.left:
            raise Problem(413, f"The answers of a batch hold at most {LARGEST_ANSWER_BYTES:,} bytes: ask for less.")
        self.left -= size


class _Part:
    """One request to the app without a socket, and what it answers."""

    def __init__(self, space: _Space) -> None:
        self._space = space
        self._is_asked = False
        self._body: list[bytes] = []
        self.status = 0
        self.headers: dict[str, str] = {}

    async def run(self, app: Asgi, scope: Mapping[str, Any]) -> None:
        """Send the request. Raises Problem for an answer that can't be part of another."""
        await app(scope, self._receive, self._send)

    def content(self) -> Any:
        body = b"".join(self._body)
        if not body:
            return None
        is_json = self.headers.get("content-type", "").partition(";")[0].endswith("json")
        return msgspec.Raw(body) if is_json else body.decode(errors="replace")

    async def _receive(self) -> dict[str, Any]:
        if self._is_asked:
            await asyncio.Event().wait()  # nobody leaves in the middle of a batch
        self._is_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            self.headers = _text(event["headers"])
            if "content-length" not in self.headers and self.status not in (204, 304):
                raise Problem(400, _NO_STREAM)
            self._space.take(int(self.headers.get("content-length", 0)))
            self.headers = {name: value for name, value in self.headers.items() if name not in _LEFT_OUT}
        elif event["type"] == "http.response.body":
            self._body.append(bytes(event.get("body", b"")))


def _text(headers: Any) -> dict[str, str]:
    """Return headers by their names, several of one name as one list."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _scope(req: ApiRequest, number: int, asked: BatchRequest) -> dict[str, Any]:
    """Return the scope of a part: the caller's own connection and key. Raises Problem for what no part may be."""
    if asked.method != "GET":
        raise Problem(405, "A batch takes GET only.", headers={"Allow": "GET"})
    path, _, query = asked.path.partition("?")
    if not path.startswith("/api/") or not asked.path.isascii() or not asked.path.isprintable() or " " in asked.path:
        raise Problem(400, "The path of a part begins with /api/ and is written as in a URL, percent-encoded.")
    raw_path = unquote_to_bytes(path)
    if raw_path.startswith(
        (b"/api/export/", b"/api/live")
    ):  # before any of it is read; and a workbook, which has a length, too
        raise Problem(400, _NO_STREAM)
    outer = req.scope
    # Falcon's copy of the headers: those of the scope may have been read up.
    given = ((name.lower().encode(), value.encode("latin-1")) for name, value in req.headers.items())
    kept = [(name, value) for name, value in given if _is_inherited(name)]
    return {
        **{
            name: outer[name]
            for name in ("type", "asgi", "http_version", "scheme", "client", "server")
            if name in outer
        },
        "method": "GET",
        "path": raw_path.decode(errors="replace"),
        "raw_path": path.encode(),
        "query_string": query.partition("#")[0].encode(),
        "root_path": outer.get("root_path", ""),
        "headers": [*kept, (b"x-request-id", f"{req.id}/{number}".encode())],
    }


def _is_inherited(name: bytes) -> bool:
    return name not in _OWN and name != b"x-request-id" and not name.startswith((b"content-", b"transfer-"))


def _packed(answer: BatchAnswer, encoding: str) -> bytes:
    return encodings.compress(msgspec.json.encode(answer), encoding)


def routes(room: Room) -> Iterator[Route]:
    yield "/api/batch", Batch(room)
