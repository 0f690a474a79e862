"""Answers that are the same for as long as the process lives, ready in every coding."""

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import Executor

from falcon.asgi import Request, Response

from api import encodings
from api.cache.entries import Level


class Fixed:
    """Makes its answer when it is first asked for, in `threads`, and keeps it.

    Not in Redis, where it would outlive the code that it was made from. `tag` is for caches in front of us.
    """

    def __init__(self, make: Callable[[], bytes], *, media_type: str, tag: str, threads: Executor) -> None:
        self._make = make
        self._media_type = media_type
        self._tag = tag
        self._threads = threads
        self._bodies: dict[str, bytes] = {}

    async def give(self, req: Request, resp: Response) -> None:
        encoding = encodings.negotiate(req.get_header("Accept-Encoding"))
        level: Level = "l1" if encoding in self._bodies else "miss"
        if level == "miss":
            loop = asyncio.get_running_loop()
            self._bodies[encoding] = await loop.run_in_executor(self._threads, self._made, encoding)
        body = self._bodies[encoding]
        digest = hashlib.sha256(body).hexdigest()[:32]
        resp.set_header("ETag", f'"{digest}"')
        resp.set_header("Cache-Control", "public, no-cache")
        resp.append_header("Vary", "Accept-Encoding")
        resp.set_header("Surrogate-Key", self._tag)
        resp.set_header("X-Cache", level)
        if {"*", digest} & set(req.if_none_match or ()):
            resp.status = 304
            return
        if encoding != "identity":
            resp.set_header("Content-Encoding", encoding)
        resp.content_type = self._media_type
        resp.data = body

    def _made(self, encoding: str) -> bytes:
        return encodings.compress(self._make(), encoding)
