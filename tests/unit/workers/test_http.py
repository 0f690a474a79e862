"""The HTTP client against servers that behave, and servers that don't: real sockets throughout."""

import gzip
import json
import logging
import socket
import socketserver
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipeline.errors import BadPage, Gone, NotAllowed, PlatformDown, RateLimited, ScrapeError, TimedOut
from pipeline.platforms import Client
from pipeline.records import Page
from workers import http as http_module
from workers.deadline import Pool, make_pool
from workers.http import HttpClient
from workers.platforms.base import Base
from workers.reset import Allowance

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
TOKEN = "tide-4711-secret"


class Harbour(Base):
    """A platform made up for these tests: a token in a header, and a word of its own for being closed."""

    name = "harbour"
    title = "Harbour"
    base_url = "https://harbour.example"
    handle_pattern = r"\w+"
    urls = ()
    needs = ("HARBOUR_TOKEN",)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://harbour.example/{handle}"

    def headers(self, http: Client) -> dict[str, str]:
        return {"Authorization": f"Bearer {http.credential('HARBOUR_TOKEN')}"}

    def explain(self, page: Page) -> ScrapeError | None:
        return Gone(self.name, "silted up") if page.body == {"closed": True} else None


def client(
    base_url: str,
    *,
    deadline_s: float = 10,
    token: str | None = TOKEN,
    heed: Callable = id,
    pool: Pool | None = None,
    **options: Any,
) -> HttpClient:
    return HttpClient(
        Harbour(),
        pool=pool or make_pool(),
        base_url=base_url,
        credentials={} if token is None else {"HARBOUR_TOKEN": SecretStr(token)},
        deadline_s=deadline_s,
        user_agent="rollcall-tests/1",
        now=lambda: NOW,
        heed=heed,
        **options,
    )


@contextmanager
def raw_server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one behaviour per connection, after the request has come in, byte by byte as the test wants it."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            received = b""
            while b"\r\n\r\n" not in received:
                received += self.request.recv(65_536)
            with suppress(OSError):  # the client hangs up, as it should
                behave(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def answering(content: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(content)


def recorder(server: HTTPServer, path: str) -> list[Request]:
    """Let the server answer `{}`; return the list that its requests are going to fill."""
    asked: list[Request] = []

    def answer(request: Request) -> Response:
        request.get_data()
        asked.append(request)
        return Response("{}", 200)

    server.expect_request(path).respond_with_handler(answer)
    return asked


def error_of(base_url: str, **options: Any) -> ScrapeError:
    with pytest.raises(ScrapeError) as caught:
        client(base_url, **options).get("/ships")
    return caught.value


def serve(server: HTTPServer, content: str | bytes, status: int = 200, **headers: str) -> str:
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    server.expect_request("/ships").respond_with_response(Response(content, status, given))
    return server.url_for("")


# What is asked


def test_the_request_carries_parameters_agent_and_credential_where_they_belong(httpserver: HTTPServer) -> None:
    asked = recorder(httpserver, "/tide.example/ships")
    http = client(httpserver.url_for("/{host}/"))
    http.get(
        "/ships", [("id[]", "1"), ("id[]", "2"), ("q", "a b&c")], host="tide.example", headers={"X-Extra": "yes"}
    )

    (request,) = asked
    assert request.args.getlist("id[]") == ["1", "2"]
    assert request.args["q"] == "a b&c"
    assert request.headers["User-Agent"] == "rollcall-tests/1"
    assert request.headers["X-Extra"] == "yes"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in request.url


def test_the_ids_of_a_batch_are_asked_for_as_they_are(httpserver: HTTPServer) -> None:
    asked = recorder(httpserver, "/ships")
    client(httpserver.url_for("/")).get("/ships", [("ids", "1,2"), ("actors", "did:plc:a"), ("q", "a=b&c#d%2C")])

    (request,) = asked
    assert request.query_string == b"ids=1,2&actors=did:plc:a&q=a%3Db%26c%23d%252C"
    assert request.args["q"] == "a=b&c#d%2C"


def test_a_missing_credential_is_said_before_anything_is_asked() -> None:
    error = error_of("http://127.0.0.1:1", token=None)
    assert (type(error), error.reason) == (NotAllowed, "needs HARBOUR_TOKEN")


class Twofold(Harbour):
    """Wants a name and a word together, or a pass alone."""

    needs = ("HARBOUR_NAME", "HARBOUR_WORD")
    instead = ("HARBOUR_PASS",)

    def headers(self, http: Client) -> dict[str, str]:
        return {}


def twofold(base_url: str, *names: str) -> HttpClient:
    return HttpClient(
        Twofold(),
        pool=make_pool(),
        base_url=base_url,
        credentials={name: SecretStr("x") for name in names},
        deadline_s=10,
        user_agent="rollcall-tests/1",
        now=lambda: NOW,
        heed=id,
    )


@pytest.mark.parametrize(
    ("names", "needed"),
    [((), "HARBOUR_NAME and HARBOUR_WORD"), (("HARBOUR_NAME",), "HARBOUR_WORD")],
)
def test_all_that_is_missing_is_said_together(names: tuple[str, ...], needed: str) -> None:
    with pytest.raises(NotAllowed, match=f"^needs {needed}$"):
        twofold("http://127.0.0.1:1", *names).post("/ships", json={})


@pytest.mark.parametrize(
    ("names", "blamed"),
    [
        (("HARBOUR_NAME", "HARBOUR_WORD"), "HARBOUR_NAME and HARBOUR_WORD"),
        (("HARBOUR_PASS",), "HARBOUR_PASS"),
        (("HARBOUR_PASS", "HARBOUR_WORD"), "HARBOUR_PASS"),
    ],
)
def test_one_credential_may_do_alone_and_a_refusal_names_what_was_used(
    httpserver: HTTPServer, names: tuple[str, ...], blamed: str
) -> None:
    with pytest.raises(NotAllowed, match=rf"^refused \(403\): check {blamed}$"):
        twofold(serve(httpserver, "{}", 403), *names).get("/ships")


@pytest.mark.parametrize("token", ["tide\nsecret", "tide€secret"])
def test_a_credential_that_no_header_carries_is_refused_without_being_shown(token: str) -> None:
    error = error_of("http://127.0.0.1:1", token=token)
    assert isinstance(error, NotAllowed)
    assert "HARBOUR_TOKEN" in error.reason
    assert "tide" not in error.reason


def test_a_line_end_that_came_along_with_a_credential_does_no_harm(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/ships", headers={"Authorization": f"Bearer {TOKEN}"}).respond_with_json({})
    assert client(httpserver.url_for(""), token=f"{TOKEN}\n").get("/ships").status == 200


def test_connections_are_kept_for_the_next_call() -> None:
    connections = []

    def count(connection: socket.socket) -> None:
        connections.append(connection)
        while True:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            if not connection.recv(65_536):
                return

    with raw_server(count) as url:
        http = client(url)
        for _ in range(5):
            http.get("/ships")
    assert len(connections) == 1


# What comes back


def test_an_answer_becomes_a_page_with_exact_numbers(httpserver: HTTPServer) -> None:
    page = client(serve(httpserver, '{"id": 9007199254740993, "half": "\\ud83d"}', X_Rate="7")).get("/ships")
    assert page.status == 200
    assert page.body == {"id": 9007199254740993, "half": "\ud83d"}
    assert page.headers["x-rate"] == "7"
    assert page.fetched_at == NOW


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_answers_are_read(httpserver: HTTPServer, coding: str, compress: Callable) -> None:
    url = serve(httpserver, compress(json.dumps({"ships": 3}).encode()), Content_Encoding=coding)
    assert client(url).get("/ships").body == {"ships": 3}


def test_an_expected_status_is_returned_with_its_body(httpserver: HTTPServer) -> None:
    page = client(serve(httpserver, '{"error": "no such pier"}', 404)).get("/ships", expect=(200, 404))
    assert (page.status, page.body) == (404, {"error": "no such pier"})


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, BadPage, "not as documented: status 400"),
        (401, NotAllowed, "refused (401): check HARBOUR_TOKEN"),
        (403, NotAllowed, "refused (403): check HARBOUR_TOKEN"),
        (404, Gone, "not found"),
        (410, Gone, "not found"),
        (418, BadPage, "not as documented: status 418"),
        (429, RateLimited, "too many requests"),
        (500, PlatformDown, "answered 500"),
        (502, PlatformDown, "answered 502"),
        (503, PlatformDown, "answered 503"),
    ],
)
@pytest.mark.parametrize("content", ['{"secret": "body"}', "<html>secret body</html>", ""])
def test_every_other_status_is_an_error_of_its_own_class(
    httpserver: HTTPServer, status: int, kind: type, reason: str, content: str
) -> None:
    error = error_of(serve(httpserver, content, status))
    assert (type(error), error.reason, error.platform) == (kind, reason, "harbour")


def test_a_429_says_when_to_come_back(httpserver: HTTPServer) -> None:
    error = error_of(serve(httpserver, "{}", 429, Retry_After="90"))
    assert isinstance(error, RateLimited)
    assert error.retry_at == NOW + timedelta(seconds=90)


@pytest.mark.parametrize("status", [200, 400, 404, 429, 500])
def test_the_platform_explains_its_answer_before_the_table_does(httpserver: HTTPServer, status: int) -> None:
    error = error_of(serve(httpserver, '{"closed": true}', status))
    assert (type(error), error.reason) == (Gone, "silted up")


@pytest.mark.parametrize("status", [200, 404, 429])
def test_what_the_headers_say_of_the_limit_is_passed_on_whatever_the_answer(
    httpserver: HTTPServer, status: int
) -> None:
    heard: list[Allowance] = []
    url = serve(httpserver, "{}", status, X_RateLimit_Remaining="3", X_RateLimit_Reset="60")
    with suppress(ScrapeError):
        client(url, heed=heard.append).get("/ships")
    assert heard == [Allowance(3, NOW + timedelta(seconds=60))]


def test_every_answer_is_shown_to_whoever_looks_before_it_is_judged(httpserver: HTTPServer) -> None:
    seen: list[Page] = []
    with suppress(ScrapeError):
        client(serve(httpserver, '{"error": "tired"}', 500), look=seen.append).get("/ships")
    assert [(page.status, page.body) for page in seen] == [(500, {"error": "tired"})]


def test_an_answer_without_limit_headers_passes_nothing_on(httpserver: HTTPServer) -> None:
    heard: list[Allowance] = []
    client(serve(httpserver, "{}"), heed=heard.append).get("/ships")
    assert heard == []


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_within_the_host_is_followed_with_the_credential(httpserver: HTTPServer, status: int) -> None:
    server = httpserver.expect_request("/dock", headers={"Authorization": f"Bearer {TOKEN}"}, query_string="berth=1")
    server.respond_with_json({"ships": 3})
    assert client(serve(httpserver, "", status, Location="dock?berth=1")).get("/ships").body == {"ships": 3}


def test_a_redirect_to_another_host_is_what_its_status_says_and_gets_no_credential(httpserver: HTTPServer) -> None:
    with HTTPServer("127.0.0.1") as other:
        other.expect_request("/elsewhere").respond_with_json({"stolen": True})
        error = error_of(serve(httpserver, "", 302, Location=other.url_for("/elsewhere")))
        assert other.log == []
    assert (type(error), error.reason) == (BadPage, "not as documented: status 302")


@pytest.mark.parametrize("location", ["https://localhost/ships", "//pirate.example/", "ftp://localhost/", ""])
def test_a_redirect_to_anything_but_the_same_host_and_scheme_is_not_followed(
    httpserver: HTTPServer, location: str
) -> None:
    assert error_of(serve(httpserver, "", 301, Location=location)).reason == "not as documented: status 301"


def test_redirects_in_a_circle_end_after_the_third(httpserver: HTTPServer) -> None:
    error = error_of(serve(httpserver, "", 302, Location="/ships"))
    assert (type(error), error.reason) == (BadPage, "not as documented: status 302")
    assert len(httpserver.log) == 4


def test_a_redirect_to_no_address_at_all_is_not_followed() -> None:
    with raw_server(answering(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n")) as url:
        assert error_of(url).reason == "not as documented: status 302"


def test_redirects_share_one_deadline() -> None:
    def slowly(connection: socket.socket) -> None:
        time.sleep(0.4)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /ships\r\nContent-Length: 0\r\n\r\n")

    with raw_server(slowly) as url:
        began = time.monotonic()
        error = error_of(url, deadline_s=0.6)
        took_s = time.monotonic() - began
    assert (type(error), error.reason) == (TimedOut, "no complete answer within 0.6 s")
    assert took_s < 0.9


@pytest.mark.parametrize("content", ["", "<html>Found</html>"])
def test_an_expected_redirect_is_returned_not_followed(httpserver: HTTPServer, content: str) -> None:
    page = client(serve(httpserver, content, 302, Location="/search")).get("/ships", expect=(200, 302))
    assert (page.status, page.headers["location"]) == (302, "/search")
    assert len(httpserver.log) == 1


@pytest.mark.parametrize(("status", "requests"), [(302, 1), (303, 1), (307, 2), (308, 2)])
def test_a_post_is_sent_again_only_where_the_redirect_keeps_it_one(
    httpserver: HTTPServer, status: int, requests: int
) -> None:
    httpserver.expect_request("/dock", method="POST", json={"berth": 1}).respond_with_json({})
    with suppress(BadPage):
        client(serve(httpserver, "", status, Location="/dock")).post("/ships", json={"berth": 1})
    assert len(httpserver.log) == requests


# What is posted


def test_a_json_body_is_sent_as_one_with_everything_that_a_get_carries(httpserver: HTTPServer) -> None:
    asked = recorder(httpserver, "/ships")
    client(httpserver.url_for("")).post(
        "/ships", [("fields", "name,crew")], json={"harbour": "Überlingen"}, headers={"X-Extra": "yes"}
    )
    (request,) = asked
    assert request.method == "POST"
    assert request.args["fields"] == "name,crew"
    assert request.get_json() == {"harbour": "Überlingen"}
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["X-Extra"] == "yes"


def test_a_form_is_sent_as_one(httpserver: HTTPServer) -> None:
    asked = recorder(httpserver, "/ships")
    client(httpserver.url_for("")).post("/ships", form=[("id", "1"), ("id", "2"), ("q", "a b&c")])
    assert asked[0].form.to_dict(flat=False) == {"id": ["1", "2"], "q": ["a b&c"]}


def test_the_answer_to_a_post_is_judged_as_any_other(httpserver: HTTPServer) -> None:
    url = serve(httpserver, '{"error": "no such pier"}', 404)
    assert client(url).post("/ships", json={}, expect=(404,)).body == {"error": "no such pier"}
    with pytest.raises(Gone):
        client(url).post("/ships", json={})


# Pages that are no answers


WALLS = {
    "challenge": "<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>",
    "captcha": '<html><div class="g-recaptcha"></div></html>',
    "login": "<html><head><title>Log in / Harbour</title></head></html>",
    "password": '<html><form><input name="p" type="password"></form></html>',
}


@pytest.mark.parametrize("status", [200, 401, 403, 503])
@pytest.mark.parametrize("wall", WALLS.values(), ids=WALLS)
def test_a_bot_check_or_login_page_is_not_allowed_whatever_its_status(
    httpserver: HTTPServer, wall: str, status: int
) -> None:
    error = error_of(serve(httpserver, wall, status, Content_Type="text/html"))
    assert (type(error), error.reason) == (NotAllowed, "a bot check or a login page stands before it")


def test_a_challenge_is_known_by_its_header_too(httpserver: HTTPServer) -> None:
    error = error_of(serve(httpserver, "<html></html>", 503, Content_Type="text/html", Cf_Mitigated="challenge"))
    assert isinstance(error, NotAllowed)


def test_a_missing_page_with_a_login_form_is_still_a_missing_page(httpserver: HTTPServer) -> None:
    assert isinstance(error_of(serve(httpserver, WALLS["password"], 404, Content_Type="text/html")), Gone)


def test_json_that_speaks_of_captchas_is_an_answer(httpserver: HTTPServer) -> None:
    url = serve(httpserver, '{"bio": "captcha artist"}', Content_Type="text/html")
    assert client(url).get("/ships").status == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("<html><body>Welcome</body></html>", BadPage),
        ("surprise", BadPage),
        ("", PlatformDown),
        ("   \n", PlatformDown),
        ('{"ships": [1, 2', PlatformDown),
        ("[" * 100_000, PlatformDown),
        (b'{"name": "\xff"}', PlatformDown),
    ],
)
def test_a_200_without_json_is_no_answer(httpserver: HTTPServer, content: str | bytes, kind: type) -> None:
    assert type(error_of(serve(httpserver, content))) is kind


def test_an_error_page_of_a_proxy_is_no_answer_even_where_its_status_is_expected(httpserver: HTTPServer) -> None:
    url = serve(httpserver, "<html>Forbidden</html>", 403, Content_Type="text/html")
    with pytest.raises(NotAllowed):
        client(url).get("/ships", expect=(200, 403))


def test_a_body_beyond_the_size_limit_is_not_read_to_its_end(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "LARGEST_BODY_BYTES", 1 << 20)
    bomb = gzip.compress(b"[" + b" " * (64 << 20) + b"]")
    error = error_of(serve(httpserver, bomb, Content_Encoding="gzip"))
    assert (type(error), error.reason) == (BadPage, "not as documented: a body of more than 1 MiB")


def test_a_body_that_can_t_be_decompressed_is_no_answer(httpserver: HTTPServer) -> None:
    assert isinstance(error_of(serve(httpserver, b"not gzip at all", Content_Encoding="gzip")), BadPage)


# Connections that break


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HEAD + b'Content-Length: 500\r\n\r\n{"ships": [1', id="shorter than announced"),
        pytest.param(HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"shi', id="a chunk cut off"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="a chunk without a length"),
        pytest.param(HEAD + b'\r\n{"ships": [1', id="cut off without a length"),
        pytest.param(b"HTTP/1.1 2", id="cut off in the status line"),
        pytest.param(b"", id="nothing at all"),
        pytest.param(b"220 smtp.example ready\r\n", id="another protocol"),
    ],
)
def test_an_answer_that_breaks_off_is_the_platform_being_down(content: bytes) -> None:
    with raw_server(answering(content)) as url:
        error = error_of(url)
    assert (type(error), error.reason) == (PlatformDown, "the answer broke off")


def test_a_connection_that_can_t_be_made_timed_out() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: refused
        error = error_of(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (type(error), error.reason) == (TimedOut, "no connection could be made")


def test_a_connection_that_can_t_be_secured_timed_out(httpserver: HTTPServer) -> None:
    error = error_of(httpserver.url_for("").replace("http://", "https://"))
    assert (type(error), error.reason) == (TimedOut, "no secure connection could be made")


def drip(content: bytes) -> Callable[[socket.socket], None]:
    """Send a byte every 50 ms: every single read is quick, the whole takes for ever."""

    def behave(connection: socket.socket) -> None:
        while True:
            for byte in content:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)

    return behave


def hold(connection: socket.socket) -> None:
    connection.recv(1)  # returns when the client hangs up


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(hold, id="silence"),
        pytest.param(lambda c: (time.sleep(0.8), c.sendall(HEAD), hold(c)), id="silence after a late beginning"),
        pytest.param(lambda c: (c.sendall(HEAD + b"\r\n"), drip(b" ")(c)), id="a dripping body"),
        pytest.param(
            lambda c: (c.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n"), drip(b"1\r\n \r\n")(c)),
            id="dripping chunks",
        ),
        pytest.param(lambda c: (c.sendall(b"HTTP/1.1 200 OK\r\n"), drip(b"X-A: b\r\n")(c)), id="dripping headers"),
    ],
)
def test_the_deadline_holds_for_the_whole_answer_however_slowly_it_drips(behave: Callable) -> None:
    with raw_server(behave) as url:
        began = time.monotonic()
        error = error_of(url, deadline_s=1)
        took_s = time.monotonic() - began
    assert (type(error), error.reason) == (TimedOut, "no complete answer within 1 s")
    assert 0.9 < took_s < 1.6


def test_a_slow_answer_within_the_deadline_is_read() -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 12\r\n\r\n")
        for byte in b'{"ships": 3}':
            connection.sendall(bytes([byte]))
            time.sleep(0.01)

    with raw_server(behave) as url:
        assert client(url, deadline_s=5).get("/ships").body == {"ships": 3}


def test_no_error_or_log_line_shows_a_secret_or_an_answer(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    errors = [error_of(serve(httpserver, f'{{"echo": "{TOKEN}"}}', status)) for status in (400, 401, 404, 429, 500)]
    with raw_server(answering(b"nonsense " + TOKEN.encode() + b"\r\n")) as url:
        errors.append(error_of(url))
    assert not [error for error in errors if TOKEN in error.reason]
    assert TOKEN not in caplog.text
