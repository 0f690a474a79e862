"""Signed-in browsers over HTTP: the cookie, and which requests may come with it.

Nothing that another site makes a browser send counts as its user's: `SameSite=Strict` keeps the cookie out of it, and
where the request came from is looked at as well (OWASP's fetch metadata: `Sec-Fetch-Site`, else `Origin`).
"""

from datetime import UTC, datetime
from typing import Any

from falcon.asgi import Request, Response

from api.client import Proxies
from db import sign_ins

# The prefix binds it to this very host and to https: no neighbour below the same domain can set one (RFC 6265bis 4.1.3.2).
_COOKIE, _SECURE_COOKIE = "rollcall_session", "__Host-rollcall_session"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_OWN = ("same-origin", "none")
FOREIGN = (
    "This was sent by a page of another site, or doesn't say by which: Rollcall takes forms of its own pages only. "
    "Open the page here and send it again; a proxy in between must leave Host, Origin and Sec-Fetch-Site as they are."
)


def is_own(req: Request) -> bool:
    """Tell whether a page of this site sent a request, or the person at the browser. Who doesn't say so, didn't."""
    site = req.get_header("Sec-Fetch-Site")
    if site is not None:
        return site in _OWN
    origin = req.get_header("Origin")  # all that is said over plain http, but to loopback
    return origin is not None and _is_here(origin, req)


class Cookies:
    """The cookie that a signed-in browser has: `Secure` where the client came by https, as far as proxies are trusted."""

    def __init__(self, proxies: Proxies, *, lasts_s: int) -> None:
        self._proxies = proxies
        self._lasts_s = lasts_s

    def token(self, req: Request) -> str | None:
        """Return what the browser's cookie holds; None where there is none, or another site may have sent the request."""
        values = req.get_cookie_values(self._name(req)) or []
        is_one = len(values) == 1 and sign_ins.is_token(values[0])
        return values[0] if is_one and _may_bring_it(req) else None

    def set(self, req: Request, resp: Response, token: str) -> None:
        self._write(req, resp, token, max_age=self._lasts_s)

    def clear(self, req: Request, resp: Response) -> None:
        self._write(req, resp, "", expires=_LONG_AGO)  # Falcon leaves out a Max-Age of 0

    def _write(self, req: Request, resp: Response, value: str, **ends: Any) -> None:
        resp.set_cookie(
            self._name(req),
            value,
            path="/",
            secure=self._proxies.is_https(req),
            http_only=True,
            same_site="Strict",
            **ends,
        )

    def _name(self, req: Request) -> str:
        return _SECURE_COOKIE if self._proxies.is_https(req) else _COOKIE


def _may_bring_it(req: Request) -> bool:
    if req.method not in ("GET", "HEAD"):
        return is_own(req)
    site, origin = req.get_header("Sec-Fetch-Site"), req.get_header("Origin")
    if site is not None:
        # A link of a neighbour opens a page, and only its reader sees it.
        return site in _OWN or req.get_header("Sec-Fetch-Mode") == "navigate"
    return origin is None or _is_here(origin, req)


def _is_here(origin: str, req: Request) -> bool:
    host = req.get_header("Host") or "?"  # which no origin is
    return origin.partition("://")[2].lower() == host.lower()
