"""The one HTTP client: one deadline, one size limit and one table that turns a status into an error.

It makes one request per call: no retries (they live in `decide`), but for a token that was refused and is renewed, and
redirects within the host that was asked: credentials stay with the host they were meant for. Errors say what happened
in our own words: no URL, no secret, no piece of an answer.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct, structs
from pydantic import SecretStr
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from pipeline import tracing
from pipeline.errors import BadPage, Gone, NotAllowed, PlatformDown, RateLimited, ScrapeError, TimedOut
from pipeline.platforms import Platform, Token
from pipeline.records import Page
from workers.addresses import NotPublic
from workers.deadline import Pool, gated
from workers.request import Request, getting, posting, redirected
from workers.reset import Allowance, allowance, retry_at
from workers.tokens import TokenStore

LARGEST_BODY_BYTES = 8 * 1024 * 1024
_CONNECT_S = 5.0
_MOST_REDIRECTS = 3

# What a page says that wants a person: a bot check or a login. Nothing here tries to pass one.
_WALL = re.compile(
    rb"just a moment|cf-chl|challenge-platform|captcha|attention required|verify (?:that )?you are (?:a )?human"
    rb"|type=.?password|<title>[^<]*(?:log ?in|sign ?in)",
    re.IGNORECASE,
)
_WALL_WITHIN_BYTES = 65_536
_WALL_STATUSES = (200, 401, 403, 503)


class _Answer(Struct, frozen=True):
    """What came back, before it is judged. `fault` says what is wrong with the body, None where it is JSON."""

    page: Page
    content: bytes
    fault: ScrapeError | None


class HttpClient:
    """A `pipeline.platforms.Client`, bound to one platform. Cheap to make and safe to share between threads.

    `pool` (from `make_pool`) holds the kept-alive connections: one per process. `credentials` holds what is set, by
    environment name, and `label` says which set they are; `tokens` holds what they gave access to, for every client
    with the same ones. `heed` is told what each answer's headers say of the limit; `look` is shown each answer, but
    none that carries a token.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        pool: Pool,
        base_url: str,
        credentials: Mapping[str, SecretStr],
        deadline_s: float,
        user_agent: str,
        now: Callable[[], datetime],
        heed: Callable[[Allowance], None],
        label: str = "1",
        tokens: TokenStore | None = None,
        look: Callable[[Page], None] = lambda page: None,
    ) -> None:
        self._platform = platform
        self._pool = pool
        self._base_url = base_url.rstrip("/")
        self._credentials = credentials
        self._deadline_s = deadline_s
        self._user_agent = user_agent
        self._now = now
        self._heed = heed
        self._label = label
        self._tokens = tokens or TokenStore()
        self._look = look

    def credential(self, name: str) -> str | None:
        """Return the credential with this environment name, or None when it is not set."""
        secret = self._credentials.get(name)
        if secret is None:
            return None
        value = secret.get_secret_value().strip()
        if not _is_header_text(value):
            raise NotAllowed(self._platform.name, f"{name} holds characters that a header can't carry")
        return value

    def named(self, reason: str) -> str:
        """Return a reason with `_2`, `_3` and so on behind the names of credentials, where they are a further set."""
        platform = self._platform
        names = (*platform.needs, *platform.instead, *platform.uses)
        if self._label == "1" or not names:
            return reason
        return re.sub(rf"\b({'|'.join(names)})\b", rf"\1_{self._label}", reason)

    def token(self) -> str:
        """Return the access token of these credentials. Raises what its request meets."""
        return self._tokens.get(self._fetch_token, self._now)

    @property
    def secrets(self) -> Sequence[str]:
        """What mustn't be shown of an answer that echoes its request: credentials, and the token that they gave."""
        token = self._tokens.value
        return [*(one.get_secret_value().strip() for one in self._credentials.values()), *([token] if token else [])]

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
        base = self._base_url.replace("{host}", host)
        return self._call(getting(base + path, params, headers), expect)

    def post(
        self,
        path: str,
        params: Sequence[tuple[str, str]] = (),
        *,
        json: Any = None,
        form: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        expect: Sequence[int] = (200,),
    ) -> Page:
        """Send a JSON body, or a form where `json` is None; else as `get`."""
        return self._call(posting(self._base_url + path, params, json, form, headers), expect)

    def _fetch_token(self) -> Token:
        token = self._platform.fetch_token(self._post_for_token, self)
        if not _is_header_text(token.value):
            raise BadPage(self._platform.name, "an access token that a header can't carry")
        return token

    def _post_for_token(
        self,
        path: str = "",
        params: Sequence[tuple[str, str]] = (),
        *,
        json: Any = None,
        form: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        expect: Sequence[int] = (200,),
    ) -> Page:
        """Send to where tokens are given, without the headers that need one."""
        request = posting(self._token_url() + path, params, json, form, headers)
        try:
            with gated(None):  # the limit is on reading; what gives tokens has one of its own
                return self._judge(self._follow(request, expect), expect)
        except Gone as exc:  # no account was asked for
            raise BadPage(self._platform.name, "no access token where it should be") from exc

    def _token_url(self) -> str:
        token_url, base_url = self._platform.token_url, self._platform.base_url.rstrip("/")
        if token_url is None or self._base_url == base_url:
            return token_url or self._base_url
        return self._base_url + urlsplit(token_url).path

    def _call(self, request: Request, expect: Sequence[int]) -> Page:
        """Make a request that carries the platform's own headers; once more where its token was refused."""
        self._check_credentials()
        sent = self._with_own_headers(request)
        token = self._tokens.value
        answer = self._follow(sent, expect)
        if answer.page.status == 401 and token is not None:
            self._tokens.drop(token)
            answer = self._follow(self._with_own_headers(request), expect)
        if (allowed := allowance(answer.page.headers, answer.page.fetched_at)) is not None:
            self._heed(allowed)
        self._look(answer.page)
        return self._judge(answer, expect)

    def _check_credentials(self) -> None:
        if not any(self.credential(name) for name in self._platform.instead):
            lacking = [name for name in self._platform.needs if self.credential(name) is None]
            if lacking:
                raise NotAllowed(self._platform.name, f"needs {' and '.join(lacking)}")

    def _with_own_headers(self, request: Request) -> Request:
        return structs.replace(request, headers=dict(self._platform.headers(self)) | dict(request.headers))

    def _follow(self, request: Request, expect: Sequence[int]) -> _Answer:
        """Ask, and again where a redirect leads to the same host, all within one deadline."""
        ends_at = time.monotonic() + self._deadline_s
        answer = self._ask(request, ends_at)
        for _ in range(_MOST_REDIRECTS):
            onward = redirected(request, answer.page)
            if onward is None or answer.page.status in expect:
                break
            request = onward
            answer = self._ask(request, ends_at)
        return answer

    def _ask(self, request: Request, ends_at: float) -> _Answer:
        """Make one request and read the whole answer; say failures in the words of `pipeline.errors`."""
        with tracing.span(f"{request.method} {self._platform.name}", "client"):
            answer = self._asked(request, ends_at)
            tracing.tell({"http.response.status_code": answer.page.status})
            return answer

    def _asked(self, request: Request, ends_at: float) -> _Answer:
        name = self._platform.name
        too_late = TimedOut(name, f"no complete answer within {self._deadline_s:g} s")
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            raise too_late
        usual = {"User-Agent": self._user_agent, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        try:
            response = self._pool.request(
                request.method,
                request.url,
                body=request.body,
                headers=usual | dict(request.headers),
                timeout=Timeout(total=left_s, connect=min(_CONNECT_S, left_s)),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            return self._answer(response, self._read(response))
        except NotPublic as exc:
            raise NotAllowed(name, "its server is not on the public internet: see HTTP_ALLOW_PRIVATE_HOSTS") from exc
        except ProxyError as exc:
            raise TimedOut(name, "no connection could be made through HTTPS_PROXY") from exc
        except (ConnectTimeoutError, NewConnectionError) as exc:
            raise TimedOut(name, "no connection could be made") from exc
        except ReadTimeoutError as exc:
            raise too_late from exc
        except SSLError as exc:
            raise TimedOut(name, "no secure connection could be made") from exc
        except DecodeError as exc:
            raise BadPage(name, "a body that can't be decompressed") from exc
        except HTTPError as exc:  # the others: the connection was dropped, or the body is shorter than announced
            raise PlatformDown(name, "the answer broke off") from exc

    def _read(self, response: BaseHTTPResponse) -> bytes:
        body = bytearray()
        with response:  # a connection whose answer was read to its end has gone back to the pool by then
            for chunk in response.stream(decode_content=True):
                body += chunk
                if len(body) > LARGEST_BODY_BYTES:
                    raise BadPage(self._platform.name, f"a body of more than {LARGEST_BODY_BYTES >> 20} MiB")
        return bytes(body)

    def _answer(self, response: BaseHTTPResponse, content: bytes) -> _Answer:
        headers = {name.lower(): value for name, value in response.headers.itermerged()}
        body, fault = self._decoded(content)
        return _Answer(Page(response.status, headers, body, fetched_at=self._now()), content, fault)

    def _judge(self, answer: _Answer, expect: Sequence[int]) -> Page:
        """Return the answer as a page, or raise what it means."""
        page = answer.page
        if (error := self._explained(page)) is not None:
            raise error
        if _is_wall(page, answer.content):
            raise NotAllowed(self._platform.name, "a bot check or a login page stands before it")
        if page.status in expect and 300 <= page.status < 400:
            return page  # it needs no body
        # An error in HTML comes from a proxy before the platform, so a reader that expects its status can't read it.
        if page.status not in expect or (answer.fault and page.status != 200):
            raise self._by_status(page)
        if answer.fault:
            raise answer.fault
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
            keys = " and ".join(self._keys())
            return NotAllowed(name, f"refused ({status})" + (f": check {keys}" if keys else ""))
        if status in (404, 410):
            return Gone(name, "not found")
        if status == 429:
            return RateLimited(name, "too many requests", retry_at=retry_at(page.headers, page.fetched_at))
        if status >= 500:
            return PlatformDown(name, f"answered {status}")
        return BadPage(name, f"status {status}")

    def _keys(self) -> Sequence[str]:
        """Return the names of the credentials that a refusal is about."""
        if any(self.credential(name) is None for name in self._platform.needs):
            return [name for name in self._platform.instead if self.credential(name)]
        return self._platform.needs or self._platform.uses


def _is_header_text(value: str) -> bool:
    """Say whether a header carries a value; http.client would refuse another with an error that shows it."""
    return value.isascii() and value.isprintable()


def _is_wall(page: Page, content: bytes) -> bool:
    if page.body is not None or page.status not in _WALL_STATUSES:
        return False
    if page.headers.get("cf-mitigated") == "challenge":
        return True
    is_html = "html" in page.headers.get("content-type", "") or content.lstrip().startswith(b"<")
    return is_html and bool(_WALL.search(content[:_WALL_WITHIN_BYTES]))
