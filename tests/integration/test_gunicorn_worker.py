"""A request that came before in the same bytes is answered without being parsed, and nothing else is taken for it."""

import asyncio
import random
import re
import socket
import sys
from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from api.closing import Closed
from db.engine import Engine, transaction
from deploy.gunicorn_worker import Protocol
from tests import fakes
from tests.serving import InProcess, add_account, in_process, keep, wait_for

PATIENCE_S = 30
TOTALS = b"GET /api/totals HTTP/1.1\r\nHost: a\r\n\r\n"
KEEPALIVE_S = 1


class Site:
    """The app behind the protocol of a worker, which is a loop and some numbers here; `parsed` is what it parsed."""

    def __init__(self, api: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api = api
        self.parsed: list[bytes] = []
        cfg = Config()
        cfg.set("keepalive", KEEPALIVE_S)
        cfg.set("asgi_disconnect_grace_period", 0)
        numbers = {"nr": 0, "nr_conns": 0, "max_requests": sys.maxsize, "worker_connections": 100}
        self.worker = SimpleNamespace(
            cfg=cfg, log=Logger(cfg), asgi=api.app, loop=api._loop, alive=True, is_leaving=False, state={}, **numbers
        )
        feed = Protocol._feed_callback_parser

        def watched(protocol: Protocol, data: bytes) -> bool:
            self.parsed.append(data)
            return feed(protocol, data)

        monkeypatch.setattr(Protocol, "_feed_callback_parser", watched)
        self.server: asyncio.Server = api._do(self._listen())
        self.port = self.server.sockets[0].getsockname()[1]

    async def _listen(self) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(self._protocol, "127.0.0.1", 0)

    def _protocol(self) -> Protocol:
        self.newest = Protocol(self.worker)
        return self.newest

    def connect(self) -> "Client":
        """Return a connection that has had its first request, which is parsed in any case."""
        client = Client(self.port)
        assert client.ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")[0] == 200
        return client

    def learn(self, *requests: bytes) -> None:
        """Have requests known by their bytes."""
        with self.connect() as client:
            for request in requests * 3:
                client.ask(request)
            for request in requests:
                before = len(self.parsed)
                client.ask(request)
                assert len(self.parsed) == before, request

    def close(self) -> None:
        async def end() -> None:
            self.server.close()
            await self.server.wait_closed()

        self.api._do(end())
        wait_for(lambda: not self.worker.nr_conns, "all connections to end")


class Client(socket.socket):
    def __init__(self, port: int) -> None:
        super().__init__()
        self.settimeout(PATIENCE_S)
        self.connect(("127.0.0.1", port))
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._came = b""

    def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        self.sendall(request)
        return self.answer(request.split(b" ", 1)[0])

    def answer(self, method: bytes = b"GET") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer."""
        while b"\r\n\r\n" not in self._came:
            self._more()
        head, _, self._came = self._came.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        status = int(line.split()[1])
        length = 0 if method == b"HEAD" or status == 304 else int(headers["content-length"])
        while len(self._came) < length:
            self._more()
        body, self._came = self._came[:length], self._came[length:]
        return status, headers, body

    def is_ended(self) -> bool:
        """Wait for the end; tell whether nothing else came before it."""
        with self:
            return not self._came and self.recv(1) == b""

    def _more(self) -> None:
        piece = self.recv(65536)
        assert piece, f"the server ended; before that came {self._came!r}"
        self._came += piece


@pytest.fixture
def site(database_url: str, redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    monkeypatch.setattr("api.cache.answers.HOT_HITS", 10**9)  # bytes that are compressed better have a new ETag
    settings = {"TRUSTED_PROXIES": "127.0.0.1", "API_RATE_LIMIT": "100000/1d"}
    with in_process(fakes.settings(database_url, redis_url, **settings)) as api:
        api.wait_until_it_hears_purges()
        site = Site(api, monkeypatch)
        try:
            yield site
        finally:
            site.close()


def with_header(request: bytes, header: bytes) -> bytes:
    return request.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n\r\n")


def test_a_hit_is_answered_by_its_bytes_as_by_its_words(site: Site) -> None:
    site.learn(TOTALS)
    with site.connect() as client:
        short = client.ask(TOTALS)
        parsed = len(site.parsed)
        long = client.ask(with_header(TOTALS, b"X-Other: 1"))
    assert len(site.parsed) == parsed + 1
    assert short[0] == long[0] == 200
    assert short[2] == long[2]
    own = {"date", "x-request-id", "ratelimit-remaining", "ratelimit-reset"}
    assert {name: value for name, value in short[1].items() if name not in own} == {
        name: value for name, value in long[1].items() if name not in own
    }
    assert int(short[1]["ratelimit-remaining"]) == int(long[1]["ratelimit-remaining"]) + 1
    assert short[1]["x-request-id"] != long[1]["x-request-id"]


def new_words(number: int) -> bytes:
    return b"GET /api/summary?q=agency&fields=handle&per_page=%d HTTP/1.1\r\nHost: a\r\n\r\n" % (1 + number)


def test_a_list_is_not_parsed_whatever_its_query_says(site: Site) -> None:
    with site.connect() as client:
        for number in range(2):
            client.ask(new_words(number))
        parsed = len(site.parsed)
        for number in range(2, 6):
            status, headers, body = client.ask(with_header(new_words(number), b"X-Request-ID: n%d" % number))
            assert (status, headers["x-cache"], body[:33]) == (200, "miss", b'{"items":[{"handle":"agency"}],"p')
        # With the id there is one more header: so it's parsed once, and not again.
        assert len(site.parsed) == parsed + 1
        assert headers["x-request-id"] == "n5"
        assert client.ask(new_words(2))[1]["x-cache"] == "l1"
        parsed = len(site.parsed)
        bad = new_words(9).replace(b"=agency", b"=agency&page=9")
        status, headers, body = client.ask(bad)
        assert (status, b"beyond the last page" in body, len(site.parsed)) == (400, True, parsed + 1)
        assert client.ask(new_words(10))[0] == 200
    for query in (b"q=a#b", b"q=\xc3\xa4", b"q=a\x7f", b'q="a"', b"q=" + b"a" * 1000):
        with site.connect() as client:
            parsed = len(site.parsed)
            client.sendall(new_words(0).replace(b"q=agency", query))
            wait_for(lambda parsed=parsed: len(site.parsed) > parsed, "it to be parsed")


def test_each_has_the_id_that_it_brings_or_one_of_its_own(site: Site) -> None:
    named = with_header(TOTALS, b"X-Request-ID: one")
    site.learn(TOTALS, named)
    with site.connect() as client:
        parsed = len(site.parsed)
        assert client.ask(named)[1]["x-request-id"] == "one"
        assert client.ask(named.replace(b"one", b"another.1"))[1]["x-request-id"] == "another.1"
        assert len(site.parsed) == parsed
        for bad in (b"", b"a b", b"a\tb", b"\xff", b"x" * 129):
            given = client.ask(named.replace(b"one", bad))[1]["x-request-id"]
            assert re.fullmatch("[0-9a-f]{32}", given), bad
        twice = with_header(named, b"X-Request-ID: two")
        for _ in range(3):
            assert re.fullmatch("[0-9a-f]{32}", client.ask(twice)[1]["x-request-id"])


def test_no_memory_holds_a_key_or_a_cookie(site: Site) -> None:
    assert site.api.app.front
    for secret in (b"Authorization: Bearer rc_secret", b"Cookie: session=rc_secret"):
        request = with_header(TOTALS, secret)
        with site.connect() as client:
            for _ in range(4):
                before = len(site.parsed)
                assert client.ask(request)[0] == 200
                assert len(site.parsed) == before + 1
    assert not any(b"secret" in head for heads in site.api.app.front._heads for head in heads)


def test_what_a_trusted_proxy_says_is_not_believed_of_others(site: Site) -> None:
    assert site.api.app.front
    request = with_header(TOTALS, b"X-Forwarded-Proto: https")
    site.learn(request)
    assert site.api.app.front.recall(request, "127.0.0.1")
    assert site.api.app.front.recall(request, "203.0.113.9") is None


def test_it_remembers_no_more_than_it_may(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.api.app.front
    monkeypatch.setattr("api.front._MOST_HEADS", 5)
    site.learn(TOTALS)
    with site.connect() as client:
        for number in range(20):
            client.ask(with_header(TOTALS, b"X-Other: %d" % number))
            assert sum(map(len, site.api.app.front._heads)) <= 5
        client.ask(with_header(TOTALS, b"X-Long: " + b"x" * 1000))
        assert not any(b"X-Long" in head for heads in site.api.app.front._heads for head in heads)
    site.learn(TOTALS)


def test_the_middle_of_a_request_is_not_taken_for_one(site: Site) -> None:
    site.learn(TOTALS)
    for begun, expected in (
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n", 400),
        (b"POST /api/refresh HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(TOTALS), 401),
    ):
        client = site.connect()
        before = len(site.parsed)
        client.sendall(begun)
        wait_for(lambda before=before: len(site.parsed) > before, "the beginning to come")
        client.sendall(TOTALS)
        assert client.answer()[0] == expected
        assert client.is_ended()


@pytest.mark.parametrize("seed", range(4))
def test_however_requests_come_in_pieces_each_is_answered_in_its_turn(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    etag = site.api.get("/api/totals").headers["etag"].encode()
    named = with_header(TOTALS, b"X-Request-ID: 0")
    kinds = {
        named: 200,
        named.replace(b"GET", b"HEAD"): 200,
        with_header(named, b"If-None-Match: " + etag): 304,
        with_header(named, b"Accept-Encoding: zstd"): 200,
        named.replace(b"totals", b"nothing"): 404,
        with_header(named, b"Content-Length: 0"): 200,
        named.replace(b"GET /api/totals", b"GET /healthz"): 200,
        # Of these each asks in words of its own.
        named.replace(b"totals", b"summary?q=0"): 200,
        named.replace(b"totals", b"summary?cursor=0"): 400,
    }
    with site.connect() as client:
        for request in [*kinds] * 2:
            client.ask(request)
    sent = [(chance.choice([*kinds]), number) for number in range(150)]
    stream = [re.sub(b"((?:ID: |q=|cursor=))0", rb"\1n%d" % number, kind) for kind, number in sent]
    with site.connect() as client:
        parsed, answered = len(site.parsed), 0
        while answered < len(stream):
            # Some at once, cut anywhere or not at all, before the first of them is answered.
            some = stream[answered : answered + chance.choice((1, 1, 1, 2, 5))]
            whole = b"".join(some)
            cuts = sorted(chance.randrange(len(whole)) for _ in range(chance.choice((0, 0, 1, 3))))
            for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                client.sendall(whole[start:end])
            for request in some:
                kind, number = sent[answered]
                status, headers, _ = client.answer(request.split(b" ", 1)[0])
                assert (status, headers["x-request-id"]) == (kinds[kind], f"n{number}")
                answered += 1
    assert len(site.parsed) > parsed


def test_none_is_answered_before_one_that_waits_for_its_turn(site: Site) -> None:
    site.learn(TOTALS)

    async def come(*pieces: bytes) -> None:
        for piece in pieces:  # without the loop's having a turn in between
            site.newest.data_received(piece)

    with site.connect() as client:
        client.ask(TOTALS)
        site.api._do(come(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Request-ID: first\r\n\r\n", TOTALS))
        assert client.answer()[1]["x-request-id"] == "first"
        assert "x-cache" in client.answer()[1]


def test_what_comes_while_a_list_is_read_waits_for_its_turn(site: Site) -> None:
    site.learn(TOTALS)
    with site.connect() as client:
        for number in range(2):
            client.ask(new_words(number))

        async def come(*pieces: bytes) -> None:
            for piece in pieces:
                site.newest.data_received(piece)

        async def come_later(*pieces: bytes) -> None:
            for piece in pieces:
                site.newest.data_received(piece)
                await asyncio.sleep(0)

        wrong = new_words(7).replace(b"=agency", b"=agency&page=9")
        for together, first in product((come, come_later), (new_words(5), new_words(6), wrong)):
            site.api._do(together(first, TOTALS[:10], TOTALS[10:] + TOTALS))
            status, _, body = client.answer()
            assert (status, b"handle" in body) == ((400, False) if first is wrong else (200, True))
            assert [b"followers" in client.answer()[2] for _ in range(2)] == [True, True]


def test_two_at_once_are_not_taken_for_the_first(site: Site) -> None:
    site.learn(TOTALS)
    head = TOTALS.replace(b"GET", b"HEAD")
    with site.connect() as client:
        client.ask(TOTALS)
        for _ in range(3):
            client.sendall(TOTALS + head)
            assert client.answer()[2]
            assert client.answer(b"HEAD")[0] == 200


def test_a_connection_lies_idle_from_its_last_answer_on(site: Site) -> None:
    site.learn(TOTALS)
    client = site.connect()
    for _ in range(8):
        assert client.ask(TOTALS)[0] == 200
        client.settimeout(KEEPALIVE_S / 4)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(PATIENCE_S)
    assert client.is_ended()


def test_a_worker_that_ends_says_so(site: Site) -> None:
    site.learn(TOTALS)
    client = site.connect()
    wait_for(lambda: site.newest._awaiting_request, "its turn to end: gunicorn would close instead of asking again")
    site.worker.alive = False
    status, headers, _ = client.ask(TOTALS)
    assert (status, headers["connection"]) == (200, "close")
    assert client.is_ended()


def test_each_is_counted_and_has_its_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Closed] = []
    counted: list[Any] = []
    front = site.api.app.front
    assert front
    site.learn(TOTALS)
    with site.connect() as client:
        monkeypatch.setattr(front._lines, "write", said.append)
        monkeypatch.setattr(front._counting, "count", lambda *one: counted.append(one[:2]))
        parsed = len(site.parsed)
        ids = [client.ask(TOTALS)[1]["x-request-id"] for _ in range(20)]
    assert len(site.parsed) == parsed
    assert [line.request_id for line in said] == ids
    assert {line[3:7] for line in said} == {("GET", "/api/totals", "/api/totals", 200)}
    assert counted == [("/api/totals", 200)] * 20
