"""The caches of others that stand before the API, and how each is told that what bears a tag is no more.

An answer's tags are its `Surrogate-Key`. Varnish purges by them with its module xkey (`deploy/varnish.vcl`), Fastly with
its API: https://www.fastly.com/documentation/reference/api/purging/
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote, urlsplit

from pydantic import SecretStr
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError, NewConnectionError, TimeoutError

from db.tags import EVERYTHING
from pipeline import proxy
from pipeline.settings import Settings

# The key that every answer bears beside those of its tags.
ALL = "rollcall"
_TIMEOUT = Timeout(connect=2, total=5)


def surrogate_keys(tags: Iterable[str]) -> str:
    """Return tags as they stand in `Surrogate-Key`, where blanks and commas part one from the next."""
    return " ".join(map(_surrogate_key, tags))


@lru_cache(4096)
def _surrogate_key(tag: str) -> str:
    return ALL if tag == EVERYTHING else quote(tag, safe=":/@")


class CdnError(Exception):
    """A CDN didn't take a purge. Says why in words that hold no secret."""


class Cdn(Protocol):
    """One cache that is told by itself. `name` is for logs and for Redis, `mend` says what to look at when it fails."""

    name: str
    mend: str

    def purge(self, tags: Sequence[str], *, soft: bool) -> None:
        """End the answers with these tags, or with `soft` have them refreshed while the old ones serve for a moment.

        At most 256 tags, of 8,000 characters together. Raises CdnError.
        """


class Varnish:
    """A Varnish that runs `deploy/varnish.vcl`."""

    mend = "start it with deploy/varnish.vcl, its `purgers` naming this machine, or correct CDN_VARNISH_URLS"

    def __init__(self, url: str, http: PoolManager) -> None:
        self.name = urlsplit(url).netloc
        self._url = f"{url.rstrip('/')}/"
        self._http = http

    def purge(self, tags: Sequence[str], *, soft: bool) -> None:
        header = "xkey-softpurge" if soft else "xkey-purge"
        answered = _ask(self._http, "PURGE", self._url, {header: surrogate_keys(tags)})
        if "xkey-purged" not in answered:
            raise CdnError("answers, but doesn't purge by tag")


class Fastly:
    """One service of Fastly."""

    mend = "correct CDN_FASTLY_SERVICE_ID, or give FASTLY_API_TOKEN the scope purge_select for it"

    def __init__(self, base_url: str, service_id: str, token: SecretStr, http: PoolManager) -> None:
        self.name = f"fastly:{service_id}"
        self._url = f"{base_url.rstrip('/')}/service/{service_id}/purge"
        self._token = token
        self._http = http

    def purge(self, tags: Sequence[str], *, soft: bool) -> None:
        headers = {"Fastly-Key": self._token.get_secret_value(), "Surrogate-Key": surrogate_keys(tags)}
        _ask(self._http, "POST", self._url, headers | ({"Fastly-Soft-Purge": "1"} if soft else {}))


def configured(settings: Settings) -> Sequence[Cdn]:
    """Return every CDN that the settings name. Connections open on first use."""
    usual = {"User-Agent": settings.user_agent, "Accept": "application/json"}
    cdns: list[Cdn] = [Varnish(url, PoolManager(headers=usual)) for url in settings.varnish_urls]
    if settings.cdn_fastly_service_id and settings.fastly_api_token:
        url = settings.cdn_fastly_url
        cdns.append(
            Fastly(url, settings.cdn_fastly_service_id, settings.fastly_api_token, proxy.pool(settings, url, usual))
        )
    return cdns


def _ask(http: PoolManager, method: str, url: str, headers: dict[str, str]) -> frozenset[str]:
    """Make a request and return the names of the answer's headers, in lower case; raise CdnError unless it is a 200."""
    try:
        answer = http.request(
            method, url, headers=dict(http.headers) | headers, timeout=_TIMEOUT, retries=False, redirect=False
        )
    except NewConnectionError:
        raise CdnError("can't be reached") from None
    except TimeoutError:
        raise CdnError("doesn't answer in time") from None  # the error's own text may quote a proxy's password
    except HTTPError as exc:
        raise CdnError(f"can't be reached ({type(exc).__name__})") from None
    if answer.status in (401, 403, 405):
        raise CdnError(f"refuses ({answer.status})")
    if answer.status != 200:
        raise CdnError(f"answers {answer.status}")
    return frozenset(name.lower() for name in answer.headers)
