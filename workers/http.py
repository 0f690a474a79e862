"""The one HTTP client: one deadline, one size limit and one table that turns a status into an error.

It makes one request per call: no retries (they live in `decide`) and no redirects (credentials stay with the host they
were meant for). Errors say what happened in our own words: no URL, no secret, no piece of an answer.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr
from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from pipeline.errors import BadPage, Gone, NotAllowed, PlatformDown, RateLimited, ScrapeError, TimedOut
from pipeline.platforms import Platform
from pipeline.records import Page
from workers.reset import Allowance, allowance, retry_at

LARGEST_BODY_BYTES = 20 * 1024 * 1024
_CONNECT_S = 5.0

# What a page says that wants a person: a bot check or a login. Nothing here tries to pass one.
_WALL = re.compile(
    rb"just a moment|cf-chl|challenge-platform|captcha|attention required|verify (?:that )?you are (?:a )?human"
    rb"|type=.?password|<title>[^<]*(?:log ?in|sign ?in)",
    re.IGNORECASE,
)
_WALL_WITHIN_BYTES = 65_536
_WALL_STATUSES = (200, 401, 403, 503)


class HttpClient:
    """A `pipeline.platforms.Client`, bound to one platform. Cheap to make and safe to share between threads.

    `pool` (from `make_pool`) holds the kept-alive connections: one per process. `credentials` holds what is set, by
    environment name. `heed` is told what each answer's headers say of the limit.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        pool: PoolManager,
        base_url: str,
        credentials: Mapping[str, SecretStr],
        deadline_s: float,
        user_agent: str,
        now: Callable[[], datetime],
        heed: Callable[[Allowance], None],
    ) -> None:
        self._platform = platform
        self._pool = pool
        self._base_url = base_url.rstrip("/")
        self._credentials = credentials
        self._timeout = Timeout(total=deadline_s, connect=min(_CONNECT_S, deadline_s))
        self._deadline_s = deadline_s
        self._user_agent = user_agent
        self._now = now
        self._heed = heed

    def credential(self, name: str) -> str | None:
        """Return the credential with this environment name, or None when it is not set."""
        secret = self._credentials.get(name)
        if secret is None:
            return None
        value = secret.get_secret_value().strip()
        if not (value.isascii() and value.isprintable()):
            # http.client would refuse it with an error that shows it.
            raise NotAllowed(self._platform.name, f"{name} holds characters that a header can't carry")
        return value

    def get(
        self,
        path: str,
        params: Sequence[tuple[str, str]] = (),
        *,
        host: str = "",
        headers: Mapping[str, str] | None = None,
        expect: Sequence[int] = (200,),
    ) -> Page:
        """Return the page for `path`, as `pipeline.platforms.Client` says. Raises every class of ScrapeError."""
        for name in self._platform.needs:
            if self.credential(name) is None:
                raise NotAllowed(self._platform.name, f"needs {name}")
        url = self._base_url.replace("{host}", host) + path + (f"?{urlencode(params)}" if params else "")
        sent = {"User-Agent": self._user_agent, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        answer, content = self._ask(url, sent | dict(self._platform.headers(self)) | dict(headers or {}))
        return self._judge(answer, content, expect)

    def _ask(self, url: str, headers: Mapping[str, str]) -> tuple[BaseHTTPResponse, bytes]:
        """Make the request and read the whole answer; say failures in the words of `pipeline.errors`."""
        name = self._platform.name
        try:
            answer = self._pool.request(
                "GET",
                url,
                headers=headers,
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            return answer, self._read(answer)
        except (ConnectTimeoutError, NewConnectionError) as exc:
            raise TimedOut(name, "no connection could be made") from exc
        except ReadTimeoutError as exc:
            raise TimedOut(name, f"no complete answer within {self._deadline_s:g} s") from exc
        except SSLError as exc:
            raise TimedOut(name, "no secure connection could be made") from exc
        except DecodeError as exc:
            raise BadPage(name, "a body that can't be decompressed") from exc
        except HTTPError as exc:  # the others: the connection was dropped, or the body is shorter than announced
            raise PlatformDown(name, "the answer broke off") from exc

    def _read(self, answer: BaseHTTPResponse) -> bytes:
        body = bytearray()
        with answer:  # a connection whose answer was read to its end has gone back to the pool by then
            for chunk in answer.stream(decode_content=True):
                body += chunk
                if len(body) > LARGEST_BODY_BYTES:
                    raise BadPage(self._platform.name, f"a body of more than {LARGEST_BODY_BYTES >> 20} MiB")
        return bytes(body)

    def _judge(self, answer: BaseHTTPResponse, content: bytes, expect: Sequence[int]) -> Page:
        """Return the answer as a page, or raise what it means."""
        headers = {name.lower(): value for name, value in answer.headers.itermerged()}
        body, fault = self._decoded(content)
        page = Page(answer.status, headers, body, fetched_at=self._now())
        if (allowed := allowance(headers, page.fetched_at)) is not None:
            self._heed(allowed)
        if (error := self._explained(page)) is not None:
            raise error
        if _is_wall(page, content):
            raise NotAllowed(self._platform.name, "a bot check or a login page stands before it")
        # An error in HTML comes from a proxy before the platform, so a reader that expects its status can't read it.
        if page.status not in expect or (fault and page.status != 200):
            raise self._by_status(page)
        if fault:
            raise fault
        return page

    def _explained(self, page: Page) -> ScrapeError | None:
        try:
            return self._platform.explain(page)
        except BadPage:
            return None  # not an error as documented: its status speaks, or the reader finds out

    def _decoded(self, content: bytes) -> tuple[Any, ScrapeError | None]:
        """Return the JSON body and None, or None and what is wrong with it."""
        name = self._platform.name
        start = content.lstrip()[:1]
        if not start:
            return None, PlatformDown(name, "an empty answer")
        try:
            # Not msgspec: it refuses a lone surrogate, which is left where a platform cut a text within an emoji.
            return json.loads(content), None
        except (ValueError, RecursionError):
            if start in b"{[":
                return None, PlatformDown(name, "the answer broke off")
            return None, BadPage(name, "a body that isn't JSON")

    def _by_status(self, page: Page) -> ScrapeError:
        """Return what a status means that the platform itself doesn't explain. This is the only such table."""
        name, status = self._platform.name, page.status
        if status in (401, 403):
            keys = " and ".join(self._platform.needs or self._platform.uses)
            return NotAllowed(name, f"refused ({status})" + (f": check {keys}" if keys else ""))
        if status in (404, 410):
            return Gone(name, "not found")
        if status == 429:
            return RateLimited(name, "too many requests", retry_at=retry_at(page.headers, page.fetched_at))
        if status >= 500:
            return PlatformDown(name, f"answered {status}")
        return BadPage(name, f"status {status}")


def _is_wall(page: Page, content: bytes) -> bool:
    if page.body is not None or page.status not in _WALL_STATUSES:
        return False
    if page.headers.get("cf-mitigated") == "challenge":
        return True
    is_html = "html" in page.headers.get("content-type", "") or content.lstrip().startswith(b"<")
    return is_html and bool(_WALL.search(content[:_WALL_WITHIN_BYTES]))
