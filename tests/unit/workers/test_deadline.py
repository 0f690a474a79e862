"""How connections are made: certificates, the proxy, and which addresses a stranger's host name may lead to."""

import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from pipeline.errors import NotAllowed, ScrapeError, TimedOut
from workers import addresses
from workers.deadline import Pool, make_pool
from workers.http import HttpClient
from workers.platforms.base import Base

CERTIFICATE = Path(__file__).with_name("tls") / "harbour.example.pem"  # signed by itself, with its key


class Harbour(Base):
    name = "harbour"
    title = "Harbour"
    base_url = "https://{host}"
    handle_pattern = r"\w+"
    urls = ()

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://{host}/{handle}"


@pytest.fixture
def secure() -> Iterator[HTTPServer]:
    """Serve `/ships` at https, as harbour.example or localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with HTTPServer("127.0.0.1", ssl_context=context) as server:
        server.expect_request("/ships").respond_with_json({"ships": 3})
        yield server


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that lets harbour.example resolve to these addresses, then to 10.0.0.1, all of them public.

    It returns the list that the look-ups of that name are going to fill.
    """
    look_up = socket.getaddrinfo

    def resolve(*found: str) -> list[str]:
        looked_up: list[str] = []

        def getaddrinfo(host: str, *args: object, **options: object) -> list:
            if host != "harbour.example":
                return look_up(host, *args, **options)
            looked_up.append(host)
            to = found if len(looked_up) == 1 else ("10.0.0.1",)
            return [entry for address in to for entry in look_up(address, *args, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(addresses, "is_public", lambda address: address.startswith("127."))
        return looked_up

    return resolve


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that connects whatever it is asked for to one port of this machine, and keeps the requests' heads."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, to: int, refuse: bytes = b"") -> None:
        self.to = to
        self.refuse = refuse
        self.heads: list[str] = []
        super().__init__(("127.0.0.1", 0), _Tunnel)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Tunnel(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.request.recv(1)
        self.server.heads.append(head.decode())
        if self.server.refuse:
            self.request.sendall(self.server.refuse)
            return
        with socket.create_connection(("127.0.0.1", self.server.to)) as there:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ways = {self.request: there, there: self.request}
            while True:
                for ready in select.select(list(ways), [], [])[0]:
                    if not (data := ready.recv(65_536)):
                        return
                    ways[ready].sendall(data)


@contextmanager
def proxy(to: int, refuse: bytes = b"") -> Iterator[Proxy]:
    with Proxy(to, refuse) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def client(pool: Pool, base_url: str = "https://{host}") -> HttpClient:
    return HttpClient(
        Harbour(),
        pool=pool,
        base_url=base_url,
        credentials={},
        deadline_s=10,
        user_agent="rollcall-tests/1",
        now=lambda: datetime(2026, 3, 2, 12, tzinfo=UTC),
        heed=id,
    )


def ships(pool: Pool, host: str, scheme: str = "https") -> int:
    found: int = client(pool, scheme + "://{host}").get("/ships", host=host).body["ships"]
    return found


def error_of(pool: Pool, host: str, scheme: str = "https") -> ScrapeError:
    with pytest.raises(ScrapeError) as caught:
        ships(pool, host, scheme)
    return caught.value


# Certificates


def test_a_server_whose_certificate_nobody_vouches_for_is_not_spoken_to(secure: HTTPServer) -> None:
    error = error_of(make_pool(), f"localhost:{secure.port}")
    assert (type(error), error.reason) == (TimedOut, "no secure connection could be made")
    assert secure.log == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_authority_can_be_added_by_the_environment(secure: HTTPServer) -> None:
    assert ships(make_pool(), f"localhost:{secure.port}") == 3


@pytest.mark.usefixtures("trusted")
def test_a_certificate_is_good_for_its_own_names_only(secure: HTTPServer) -> None:
    assert error_of(make_pool(), f"127.0.0.1:{secure.port}").reason == "no secure connection could be made"


# Addresses


def test_a_name_of_this_machine_is_refused_where_strangers_name_the_hosts(httpserver: HTTPServer) -> None:
    error = error_of(make_pool(public_only=True), f"localhost:{httpserver.port}", "http")
    assert type(error) is NotAllowed
    assert error.reason == "its server is not on the public internet: see HTTP_ALLOW_PRIVATE_HOSTS"
    assert httpserver.log == []


@pytest.mark.usefixtures("trusted")
def test_the_address_that_was_looked_at_is_the_one_connected_to_under_the_servers_name(
    secure: HTTPServer, resolves: Callable
) -> None:
    looked_up = resolves("127.0.0.1")
    assert ships(make_pool(public_only=True), f"harbour.example:{secure.port}") == 3
    assert looked_up == ["harbour.example"]
    assert secure.log[0][0].headers["Host"] == f"harbour.example:{secure.port}"


def test_a_name_that_leads_elsewhere_at_the_next_connection_is_looked_at_again(
    httpserver: HTTPServer, resolves: Callable
) -> None:
    httpserver.expect_request("/ships").respond_with_json({"ships": 3}, headers={"Connection": "close"})
    resolves("127.0.0.1")
    pool = make_pool(public_only=True)
    assert ships(pool, f"harbour.example:{httpserver.port}", "http") == 3
    assert type(error_of(pool, f"harbour.example:{httpserver.port}", "http")) is NotAllowed


def test_an_address_that_doesn_t_answer_gives_way_to_the_next(httpserver: HTTPServer, resolves: Callable) -> None:
    httpserver.expect_request("/ships").respond_with_json({"ships": 3})
    resolves("127.0.0.7", "127.0.0.1")
    assert ships(make_pool(public_only=True), f"harbour.example:{httpserver.port}", "http") == 3


def test_addresses_of_which_none_answers_are_no_connection(resolves: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    resolves("127.0.0.7", "127.0.0.1")
    error = error_of(make_pool(public_only=True), f"harbour.example:{port}", "http")
    assert (type(error), error.reason) == (TimedOut, "no connection could be made")


@pytest.mark.parametrize("public_only", [True, False])
def test_a_name_that_can_t_be_resolved_is_no_connection(public_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = error_of(make_pool(public_only=public_only), "harbour.example")
    assert (type(error), error.reason) == (TimedOut, "no connection could be made")


@pytest.mark.parametrize("public_only", [True, False])
def test_a_name_that_none_can_bear_is_an_error_like_any_other(public_only: bool) -> None:
    assert isinstance(error_of(make_pool(public_only=public_only), f"{'a' * 70}.example"), ScrapeError)


# The proxy


@pytest.mark.usefixtures("trusted")
def test_https_goes_through_the_proxy_with_its_login_and_end_to_end(secure: HTTPServer) -> None:
    with proxy(secure.port) as through:
        pool = make_pool(https_proxy=f"http://user:p%40ss@{through.address}")
        assert ships(pool, "harbour.example") == 3
    (head,) = through.heads
    assert head.startswith("CONNECT harbour.example:443 HTTP/1.")
    assert "proxy-authorization: Basic dXNlcjpwQHNz" in head.replace("Proxy-Authorization", "proxy-authorization")
    assert "Proxy-Authorization" not in secure.log[0][0].headers


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("no_proxy", ["localhost", ".localhost", " pond.example, LOCALHOST ", "*"])
def test_listed_hosts_are_reached_without_the_proxy(secure: HTTPServer, no_proxy: str) -> None:
    with proxy(secure.port) as through:
        pool = make_pool(https_proxy=f"http://{through.address}", no_proxy=no_proxy)
        assert ships(pool, f"localhost:{secure.port}") == 3
    assert through.heads == []


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("no_proxy", ["", ",", "example.org", "bour.example", "pier.harbour.example"])
def test_other_hosts_are_not(secure: HTTPServer, no_proxy: str) -> None:
    with proxy(secure.port) as through:
        assert ships(make_pool(https_proxy=f"http://{through.address}", no_proxy=no_proxy), "harbour.example") == 3
    assert len(through.heads) == 1


def test_plain_http_never_goes_through_the_proxy(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/ships").respond_with_json({"ships": 3})
    pool = make_pool(https_proxy="http://127.0.0.1:1")
    assert ships(pool, f"localhost:{httpserver.port}", "http") == 3


def test_a_proxy_that_refuses_is_named_as_what_stands_in_the_way() -> None:
    with proxy(0, refuse=b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as through:
        error = error_of(make_pool(https_proxy=f"http://{through.address}"), "harbour.example")
    assert (type(error), error.reason) == (TimedOut, "no connection could be made through HTTPS_PROXY")


def test_a_proxy_that_is_away_is_named_too() -> None:
    error = error_of(make_pool(https_proxy="http://127.0.0.1:1"), "harbour.example")
    assert (type(error), error.reason) == (TimedOut, "no connection could be made through HTTPS_PROXY")


@pytest.mark.usefixtures("trusted")
def test_a_proxy_doesn_t_open_the_way_to_private_hosts(secure: HTTPServer, resolves: Callable) -> None:
    resolves("127.0.0.1")
    with proxy(secure.port) as through:
        pool = make_pool(https_proxy=f"http://{through.address}", public_only=True)
        assert ships(pool, "harbour.example") == 3
        assert type(error_of(pool, "10.0.0.1")) is NotAllowed
    assert len(through.heads) == 1
