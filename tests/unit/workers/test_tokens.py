"""Access tokens: asked for once for all threads, renewed in time, and once more when they are refused."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipeline.errors import BadPage, NotAllowed, PlatformDown, ScrapeError
from pipeline.platforms import Client, Token
from pipeline.records import Page
from workers.deadline import make_pool
from workers.http import HttpClient
from workers.platforms.base import Base
from workers.reset import Allowance
from workers.tokens import TokenStore

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECRET = "quay-secret"


class Clock:
    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Harbour(Base):
    """A platform made up for these tests: it gives tokens for a secret, at an address of their own."""

    name = "harbour"
    title = "Harbour"
    base_url = "https://harbour.example"
    token_url: str | None = "https://gate.harbour.example/gate/token"
    handle_pattern = r"\w+"
    urls = ()
    needs = ("HARBOUR_SECRET",)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://harbour.example/{handle}"

    def headers(self, http: Client) -> dict[str, str]:
        return {"Authorization": f"Bearer {http.token()}"}

    def fetch_token(self, post: Callable[..., Page], http: Client) -> Token:
        page = post(form=[("secret", http.credential("HARBOUR_SECRET") or "")])
        return Token(page.body["token"], page.body["lasts_s"])


class Gate:
    """A server of the platform: `/gate/token` gives token-1, token-2 …; `/ships` takes those that it hasn't revoked."""

    def __init__(self, server: HTTPServer, lasts_s: float = 3600) -> None:
        self.lasts_s = lasts_s
        self.given = 0
        self.revoked: set[str] = set()
        self.asked: list[Request] = []
        self.refuse: Response | None = None
        self.url = server.url_for("")
        server.expect_request("/gate/token", method="POST").respond_with_handler(self._give)
        server.expect_request("/ships").respond_with_handler(self._ships)

    def _give(self, request: Request) -> Response:
        request.get_data()
        self.asked.append(request)
        if self.refuse:
            return self.refuse
        self.given += 1
        body = f'{{"token": "token-{self.given}", "lasts_s": {self.lasts_s}}}'
        return Response(body, headers={"X-RateLimit-Remaining": "1"})

    def _ships(self, request: Request) -> Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        return Response(f'{{"token": "{token}"}}', 401 if token in self.revoked else 200)


@pytest.fixture
def gate(httpserver: HTTPServer) -> Gate:
    return Gate(httpserver)


def client(
    url: str,
    platform: Base | None = None,
    *,
    clock: Callable[[], datetime] = lambda: NOON,
    tokens: TokenStore | None = None,
    look: Callable[[Page], None] = id,
    heed: Callable[[Allowance], None] = id,
) -> HttpClient:
    return HttpClient(
        platform or Harbour(),
        pool=make_pool(),
        base_url=url,
        credentials={"HARBOUR_SECRET": SecretStr(SECRET)},
        deadline_s=10,
        user_agent="rollcall-tests/1",
        now=clock,
        heed=heed,
        tokens=tokens,
        look=look,
    )


def token_of(http: HttpClient) -> str:
    token: str = http.get("/ships").body["token"]
    return token


def test_a_token_is_asked_for_once_and_kept_for_every_client_of_its_credentials(gate: Gate) -> None:
    tokens = TokenStore()
    assert [token_of(client(gate.url, tokens=tokens)) for _ in range(3)] == ["token-1"] * 3
    (request,) = gate.asked
    assert request.form["secret"] == SECRET
    assert "Authorization" not in request.headers
    assert request.headers["User-Agent"] == "rollcall-tests/1"


def test_clients_of_other_credentials_have_tokens_of_their_own(gate: Gate) -> None:
    assert [token_of(client(gate.url, tokens=TokenStore())) for _ in range(2)] == ["token-1", "token-2"]


def test_a_token_is_renewed_a_minute_before_it_ends(gate: Gate) -> None:
    clock = Clock()
    http = client(gate.url, clock=clock)
    token_of(http)
    clock.advance(3600 - 61)
    assert token_of(http) == "token-1"
    clock.advance(1)
    assert token_of(http) == "token-2"


def test_a_token_that_lasts_a_minute_is_used_for_half_of_it(gate: Gate) -> None:
    clock = Clock()
    gate.lasts_s = 60
    http = client(gate.url, clock=clock)
    token_of(http)
    clock.advance(29)
    assert token_of(http) == "token-1"
    clock.advance(1)
    assert token_of(http) == "token-2"


def test_a_refused_token_is_renewed_and_the_request_repeated(gate: Gate) -> None:
    http = client(gate.url)
    token_of(http)
    gate.revoked.add("token-1")
    assert token_of(http) == "token-2"
    assert token_of(http) == "token-2"
    assert gate.given == 2


def test_a_post_is_repeated_with_its_body(gate: Gate, httpserver: HTTPServer) -> None:
    def answer(request: Request) -> Response:
        is_first = request.headers["Authorization"] == "Bearer token-1"
        return Response(request.get_data(), 401 if is_first else 200)

    httpserver.expect_request("/cargo", method="POST").respond_with_handler(answer)
    assert client(gate.url).post("/cargo", json={"crates": 3}).body == {"crates": 3}


def test_a_renewed_token_that_is_refused_as_well_is_not_allowed(gate: Gate, httpserver: HTTPServer) -> None:
    gate.revoked |= {"token-1", "token-2"}
    with pytest.raises(NotAllowed, match=r"refused \(401\): check HARBOUR_SECRET"):
        client(gate.url).get("/ships")
    assert gate.given == 2
    assert [request.path for request, _ in httpserver.log] == ["/gate/token", "/ships", "/gate/token", "/ships"]


def test_a_401_without_tokens_is_not_repeated(httpserver: HTTPServer) -> None:
    class Open(Harbour):
        def headers(self, http: Client) -> dict[str, str]:
            return {}

    httpserver.expect_request("/ships").respond_with_json({}, status=401)
    with pytest.raises(NotAllowed):
        client(httpserver.url_for(""), Open()).get("/ships")
    assert len(httpserver.log) == 1


@pytest.mark.parametrize(
    ("token_url", "path"),
    [
        ("https://gate.harbour.example/gate/token", "/proxy/gate/token"),
        ("https://harbour.example/gate/token/", "/proxy/gate/token/"),
        (None, "/proxy"),
    ],
)
def test_another_base_url_serves_the_path_of_the_token_url(
    httpserver: HTTPServer, token_url: str | None, path: str
) -> None:
    class Elsewhere(Harbour):
        pass

    Elsewhere.token_url = token_url
    httpserver.expect_request(path).respond_with_json({"token": "t", "lasts_s": 60})
    assert client(httpserver.url_for("/proxy/"), Elsewhere()).token() == "t"


def test_tokens_are_asked_for_at_the_platforms_own_token_url(httpserver: HTTPServer) -> None:
    class Here(Harbour):
        base_url = httpserver.url_for("/api")
        token_url = httpserver.url_for("/gate/token")

    Gate(httpserver)
    assert client(Here.base_url, Here()).token() == "token-1"


def test_a_platform_without_a_token_url_asks_below_its_base_url(httpserver: HTTPServer) -> None:
    class Below(Harbour):
        token_url = None

        def fetch_token(self, post: Callable[..., Page], http: Client) -> Token:
            page = post("/v2/token/", [("v", "2")], json={"secret": 1}, headers={"X-Extra": "yes"})
            return Token(page.body["token"], 60)

    expected = httpserver.expect_request(
        "/v2/token/", "POST", query_string="v=2", json={"secret": 1}, headers={"X-Extra": "yes"}
    )
    expected.respond_with_json({"token": "t"})
    assert client(httpserver.url_for(""), Below()).token() == "t"


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, NotAllowed, "refused (401): check HARBOUR_SECRET"),
        (404, BadPage, "not as documented: no access token where it should be"),
        (503, PlatformDown, "answered 503"),
    ],
)
def test_what_a_token_request_meets_is_said_as_of_any_other_but_no_account_is_gone(
    gate: Gate, status: int, kind: type, reason: str
) -> None:
    gate.refuse = Response("{}", status)
    with pytest.raises(ScrapeError) as caught:
        client(gate.url).get("/ships")
    assert (type(caught.value), caught.value.reason) == (kind, reason)


def test_no_token_is_shown_logged_or_counted_as_a_call(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[Page] = []
    heard: list[Allowance] = []
    http = client(gate.url, look=seen.append, heed=heard.append)
    http.get("/ships")
    assert [page.status for page in seen] == [200]
    assert heard == []
    assert "token-1" not in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize("value", ["to\\nken", "t\\u00f6ken"])
def test_a_token_that_no_header_carries_is_no_token_and_isn_t_shown(gate: Gate, value: str) -> None:
    gate.refuse = Response(f'{{"token": "{value}", "lasts_s": 60}}')
    with pytest.raises(BadPage, match="an access token that a header can't carry"):
        client(gate.url).get("/ships")


# The store by itself


def test_threads_that_need_a_token_at_once_ask_for_one() -> None:
    store, asked, asking = TokenStore(), [], threading.Event()

    def fetch() -> Token:
        asked.append(1)
        assert asking.wait(10)
        return Token("t", 3600)

    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(store.get, fetch, lambda: NOON) for _ in range(8)]
        asking.set()
        assert {one.result(10) for one in found} == {"t"}
    assert len(asked) == 1


def test_threads_that_wait_share_the_failure_and_the_next_one_asks_again() -> None:
    store, asked, looked, begun = TokenStore(), [], threading.Semaphore(0), threading.Event()
    store.get(lambda: Token("old", 60), lambda: NOON)

    def later() -> datetime:
        looked.release()
        return NOON + timedelta(hours=1)

    def fail() -> Token:
        asked.append(1)
        begun.set()
        # Twice by this thread, the third time by the other one, which thus waits for this one.
        assert all(looked.acquire(timeout=10) for _ in range(3))
        raise PlatformDown("harbour", "closed")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(store.get, fail, later)
        assert begun.wait(10)
        second = threads.submit(store.get, fail, later)
        for one in (first, second):
            with pytest.raises(PlatformDown):
                one.result(10)
    assert len(asked) == 1
    assert store.get(lambda: Token("new", 60), later) == "new"


def test_a_token_that_lasts_for_ever_is_renewed_every_day() -> None:
    store, clock = TokenStore(), Clock()
    tokens = iter(["first", "second"])
    found = []
    for _ in range(2):
        found.append(store.get(lambda: Token(next(tokens), 1e300), clock))
        clock.advance(86_400)
    assert found == ["first", "second"]


def test_a_refused_token_that_another_thread_has_renewed_already_is_not_renewed_again() -> None:
    store = TokenStore()
    tokens = iter(["old", "new", "newest"])

    def get() -> str:
        return store.get(lambda: Token(next(tokens), 3600), lambda: NOON)

    get()
    store.drop("old")
    assert get() == "new"
    store.drop("old")
    assert get() == "new"
