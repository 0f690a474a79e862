"""One request as it goes out, and where a redirect takes it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec
from msgspec import Struct, structs

from pipeline.records import Page

# The statuses of a redirect that a request may follow as it is.
_FOLLOWED = {"GET": (301, 302, 303, 307, 308), "POST": (307, 308)}

Pairs = Sequence[tuple[str, str]]


class Request(Struct, frozen=True):
    method: str
    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None


def getting(address: str, params: Pairs, headers: Mapping[str, str] | None) -> Request:
    return Request("GET", _url(address, params), headers or {})


def posting(address: str, params: Pairs, json: Any, form: Pairs, headers: Mapping[str, str] | None) -> Request:
    """Return a request that sends a JSON body, or a form where `json` is None."""
    kind = "application/x-www-form-urlencoded" if json is None else "application/json"
    body = urlencode(form).encode() if json is None else msgspec.json.encode(json)
    return Request("POST", _url(address, params), {"Content-Type": kind} | dict(headers or {}), body)


def redirected(request: Request, page: Page) -> Request | None:
    """Return the request as the redirect in `page` wants it, or None where it isn't one to follow.

    It stays with the host that it was meant for, since it carries credentials.
    """
    if page.status not in _FOLLOWED[request.method] or "location" not in page.headers:
        return None
    try:
        target = urljoin(request.url, page.headers["location"])
        return structs.replace(request, url=target) if _origin(target) == _origin(request.url) else None
    except ValueError:  # no address at all
        return None


def _url(address: str, params: Pairs) -> str:
    # Commas and colons are as good in a query as their codes (RFC 3986, 3.4), and a batch's ids stand between them:
    # where anything is coded, urllib3 looks at each character of the address anew, twice (0.3 ms for 100 ids).
    return address + (f"?{urlencode(params, safe=',:')}" if params else "")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
