"""What holds for every request: its id and closing line, the size of its body, limits, keys, and what a browser may do."""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import structlog
from falcon import HTTPSeeOther
from falcon.asgi import Request, Response
from msgspec import Struct

from api import bodies
from api.access import Access
from api.cached import HTML
from api.client import Proxies, household
from api.closing import Closed, ClosingLines
from api.counting import endpoint_of
from api.limiting import UNCOUNTED, Allowance, Standing
from api.operations import Operation, operation_of
from api.problems import Problem
from api.request import ApiRequest
from api.schemas import parameters
from api.sessions import FOREIGN, Cookies, is_own
from db.keys import Key
from pipeline import tracing


class Requests:
    """Refuses large bodies, and writes the closing line into the log."""

    def __init__(self, lines: ClosingLines) -> None:
        self._lines = lines

    async def process_request(self, req: ApiRequest, resp: Response) -> None:
        structlog.contextvars.bind_contextvars(request_id=req.id)
        is_bounded = req.path not in bodies.BOUNDED_ELSEWHERE
        if is_bounded and (req.content_length or 0) > bodies.LARGEST_BODY_BYTES:
            raise bodies.too_large()

    async def process_response(self, req: ApiRequest, resp: Response, resource: object, succeeded: bool) -> None:
        resp.set_header("X-Request-ID", req.id)
        if req.is_warming:
            return
        ended = time.perf_counter()
        key: Key | None = getattr(req.context, "key", None)
        if tracing.is_on():
            _tell(req, resp)
        self._lines.write(
            Closed(
                ended,
                took_s=ended - req.began,
                request_id=req.id,
                method=req.method,
                path=req.path,  # without the query
                template=req.uri_template,
                status=resp.status_code,
                cache=resp.get_header("X-Cache"),
                key=key.key_id if key else None,
            )
        )


def _tell(req: ApiRequest, resp: Response) -> None:
    """Say in the request's span what its closing line says."""
    endpoint = endpoint_of(req.uri_template)
    said: tracing.Attributes = {
        "http.route": endpoint,
        "http.request.method": req.method,
        "http.response.status_code": resp.status_code,
        "rollcall.request_id": req.id,
        "rollcall.cache": resp.get_header("X-Cache"),
    }
    tracing.tell(said, name=f"{req.method} {endpoint}")


class Admitted(Struct, frozen=True):
    """Who may pass: the id of his key, and the headers of his limits."""

    key: str | None
    limits: Sequence[tuple[str, str]]


class Callers:
    """Lets nobody without the right key near a resource, and so near a cached answer, and nobody ask for too much.

    A key has an allowance of its own, everybody else that of the address. A key that isn't remembered yet is counted by
    its address first: else guesses would cost nothing. So is a browser that is signed in by one.

    A form of a page is taken from pages of this site only. Who has yet to sign in for a page is sent to do so.
    """

    def __init__(
        self,
        access: Access,
        proxies: Proxies,
        cookies: Cookies,
        *,
        of_addresses: Allowance | None,
        of_keys: Allowance | None,
    ) -> None:
        self._access = access
        self._proxies = proxies
        self._cookies = cookies
        self._of_addresses = of_addresses
        self._of_keys = of_keys

    async def process_request(self, req: ApiRequest, resp: Response) -> None:
        req.context.is_counted = req.is_warming or req.path in UNCOUNTED
        if req.context.is_counted:
            return
        key = self._access.known(req.auth) if self._of_keys else None
        if self._of_keys and key:
            _count(resp, self._of_keys, key.key_id)
            req.context.is_counted = True
        elif self._of_addresses:
            _count(resp, self._of_addresses, household(self._proxies.address(req)))

    def admit(self, authorization: str | None, operation: Operation, peer: str, forwarded: str) -> Admitted | None:
        """Let pass, and count, who may pass without waiting.

        None, and nothing is counted, where the long way has to decide.
        """
        key = self._access.known(authorization)
        if not self._access.passes(key, authorization, operation):
            return None
        key_id = key.key_id if key else None
        if self._of_keys and key_id:
            allowance, caller = self._of_keys, key_id
        elif self._of_addresses:
            allowance, caller = self._of_addresses, household(self._proxies.address_from(peer, forwarded))
        else:
            return Admitted(key_id, ())
        standing = allowance.spend(caller)
        return None if standing.is_over else Admitted(key_id, _limits(allowance, standing))

    def take_back(self, admitted: Admitted, peer: str, forwarded: str) -> None:
        """Count one call less: the long way counts it again."""
        if self._of_keys and admitted.key:
            self._of_keys.give_back(admitted.key)
        elif self._of_addresses:
            self._of_addresses.give_back(household(self._proxies.address_from(peer, forwarded)))

    async def process_resource(
        self, req: ApiRequest, resp: Response, resource: object, params: dict[str, Any]
    ) -> None:
        operation = operation_of(resource, req.method)
        if req.is_warming or operation is None:  # our own; or refused, or answered, by Falcon
            return
        is_page = HTML in operation.media_types
        if is_page and req.method == "POST" and not is_own(req):
            raise Problem(403, FOREIGN)
        try:
            key = await self._access.check(req.auth, operation, signed_in=self._cookies.token(req))
        except Problem as problem:
            if is_page and problem.status_code == 401 and req.auth is None:
                raise _sign_in_first(req, resource, params) from problem
            raise
        req.context.key = key
        if key and self._of_keys and not req.context.is_counted:
            if self._of_addresses:
                self._of_addresses.give_back(household(self._proxies.address(req)))
            _count(resp, self._of_keys, key.key_id)


def _sign_in_first(req: ApiRequest, resource: object, params: Mapping[str, str]) -> HTTPSeeOther:
    """Return the way to the sign-in page and from there back: to the page, or to the one that a form stands on."""
    place = req.path if req.method != "POST" else str(getattr(resource, "stands_on", "/")).format_map(params)
    query = f"?{req.raw_query.decode('latin-1')}" if req.raw_query and req.method != "POST" else ""
    after = urlencode({"next": quote(place, safe="/@:") + query})
    return HTTPSeeOther(f"/sign-in?{after}", headers={"Cache-Control": "no-store"})


def _count(resp: Response, allowance: Allowance, caller: str) -> None:
    standing = allowance.spend(caller)
    resp.set_headers(_limits(allowance, standing))
    if standing.is_over:
        raise Problem(
            429,
            f"At most {standing.limit:,} requests in {allowance.rate.period_s:,} seconds: wait {standing.reset_s:,}.",
            headers={"Retry-After": str(standing.reset_s)},
        )


def _limits(allowance: Allowance, standing: Standing) -> list[tuple[str, str]]:
    """Return the headers of a limit, named as ASGI has them."""
    return [
        ("ratelimit-policy", allowance.policy),
        ("ratelimit-limit", str(standing.limit)),
        ("ratelimit-remaining", str(standing.remaining)),
        ("ratelimit-reset", str(standing.reset_s)),
    ]


class Queries:
    """Takes the query apart, once it is clear that the caller may ask. It stands behind `Callers`."""

    async def process_resource(
        self, req: ApiRequest, resp: Response, resource: object, params: dict[str, Any]
    ) -> None:
        req.context.params = parameters(req.raw_query)


# What an answer is unless its resource says otherwise (a page has a policy of its own): nothing that runs, loads, may be
# framed, or may be drawn into another site's page as an image or script. CORS, below, isn't touched by the last.
_SAFE = [
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
]
_PERMISSIONS = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
_FRAMED = re.compile(r"frame-ancestors (?!'none')")


class Safety:
    """Tells browsers what an answer may not be used for; of https only where the client came by it."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies

    async def process_request(self, req: Request, resp: Response) -> None:
        resp.set_headers(_SAFE)

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        if (resp.content_type or "").startswith("text/html"):
            resp.set_header("Permissions-Policy", _PERMISSIONS)
            # What may be framed says by whom in its policy; this header couldn't.
            if not _FRAMED.search(resp.get_header("Content-Security-Policy") or ""):
                resp.set_header("X-Frame-Options", "DENY")
        if self._proxies.is_https(req):
            resp.set_header("Strict-Transport-Security", "max-age=31536000")


_EXPOSED = (
    "Content-Disposition, ETag, Last-Modified, Link, Location, Retry-After, X-Cache, X-Next-Cursor, X-Request-ID, "
    "X-Total-Count, RateLimit-Limit, RateLimit-Policy, RateLimit-Remaining, RateLimit-Reset"
)


class Origins:
    """Lets pages of the allowed origins read with GET; a browser keeps all others out.

    Never with credentials: a browser then sends none by itself, and a page that has a key says so in its request.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        if not self._allowed:
            return
        origin = "*"
        if "*" not in self._allowed:
            resp.append_header("Vary", "Origin")
            origin = req.get_header("Origin") or ""
            if origin not in self._allowed:
                return
        resp.set_header("Access-Control-Allow-Origin", origin)
        resp.set_header("Access-Control-Expose-Headers", _EXPOSED)
        if req.method == "OPTIONS" and req.get_header("Access-Control-Request-Method"):
            resp.set_header("Access-Control-Allow-Methods", "GET, HEAD")
            resp.set_header("Access-Control-Allow-Headers", "Authorization, If-None-Match, X-Request-ID")
            resp.set_header("Access-Control-Max-Age", "86400")
