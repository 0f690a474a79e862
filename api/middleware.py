"""What holds for every request: its id and closing line, the size of its body, keys, and other origins."""

import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

import falcon.asgi
import structlog
from falcon.asgi import Request, Response

from api.access import Access
from api.problems import Problem
from api.schemas import parameters

log = structlog.get_logger()

LARGEST_BODY_BYTES = 1 << 20
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


class ApiRequest(falcon.asgi.Request):
    """A request with its id and the time it began, from its first moment: some end before any middleware.

    Its query string is left alone: Falcon would decode it where no error handler stands yet, and answer bad UTF-8
    with a 500.
    """

    def __init__(self, scope: dict[str, Any], *args: Any, **options: Any) -> None:
        super().__init__({**scope, "query_string": b""}, *args, **options)
        self.raw_query: bytes = scope["query_string"]
        given = self.get_header("X-Request-ID") or ""
        self.id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.began = time.perf_counter()


class Requests:
    """Reads each request's query, refuses large bodies, and writes the closing line into the log."""

    async def process_request(self, req: ApiRequest, resp: Response) -> None:
        structlog.contextvars.bind_contextvars(request_id=req.id)
        if (req.content_length or 0) > LARGEST_BODY_BYTES:
            raise Problem(413, f"A body holds at most {LARGEST_BODY_BYTES:,} bytes.")
        req.context.params = parameters(req.raw_query)

    async def process_response(self, req: ApiRequest, resp: Response, resource: object, succeeded: bool) -> None:
        resp.set_header("X-Request-ID", req.id)
        resp.set_header("X-Content-Type-Options", "nosniff")
        log.info(
            "request",
            method=req.method,
            path=req.path,  # without the query
            status=resp.status_code,
            duration_ms=round((time.perf_counter() - req.began) * 1000, 2),
            cache=resp.get_header("X-Cache"),
        )


class Keys:
    """Lets nobody without the right key near a resource, and so near a cached answer."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        if hasattr(resource, f"on_{req.method.lower()}"):  # the others are refused, or answered, by Falcon
            req.context.key = await self._access.check(req.auth, resource)


class Origins:
    """Lets pages of the allowed origins read with GET; a browser keeps all others out."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(allowed)

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        if not self._allowed:
            return
        resp.append_header("Vary", "Origin")
        origin = req.get_header("Origin")
        if origin not in self._allowed and "*" not in self._allowed:
            return
        resp.set_header("Access-Control-Allow-Origin", origin or "*")
        resp.set_header("Access-Control-Expose-Headers", "ETag, Last-Modified, X-Cache, X-Request-ID")
        if req.method == "OPTIONS" and req.get_header("Access-Control-Request-Method"):
            resp.set_header("Access-Control-Allow-Methods", "GET, HEAD")
            resp.set_header("Access-Control-Allow-Headers", "Authorization, If-None-Match, X-Request-ID")
            resp.set_header("Access-Control-Max-Age", "86400")
