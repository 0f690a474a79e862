"""Slow, broken and hostile clients against real gunicorn workers: each comes to an end, and nobody else notices."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from db import keys
from db.engine import Engine, transaction
from tests import fakes
from tests.serving import Gunicorn, add_account, gunicorn, in_process, keep, wait_for

# Shorter than in gunicorn.conf.py, so that the tests are.
KEEP_ALIVE_S = 2
SHORT = {
    "GUNICORN_CMD_ARGS": f"--keep-alive {KEEP_ALIVE_S} --timeout 10 --worker-connections 40",
    "API_BODY_TIMEOUT_S": "1",
}
GENEROUS_S = 30.0
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def token(engine: Engine) -> bytes:
    with transaction(engine) as conn:
        return keys.create(conn, name="writer", scopes=["refresh"]).encode()


@pytest.fixture
def server(database_url: str, redis_url: str, engine: Engine, tmp_path: Path) -> Iterator[Gunicorn]:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    with gunicorn(database_url, redis_url, tmp_path, workers=1, **SHORT) as server:
        yield server
        assert server.get("/healthz")[0] == 200, "it is well whatever came"
        assert "Traceback" not in (tmp_path / "api.log").read_text()


def connect(server: Gunicorn) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=GENEROUS_S)


def rest(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    received = b""
    with suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def exchange(server: Gunicorn, request: bytes) -> bytes:
    with connect(server) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
        return rest(connection)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def post(token: bytes, *headers: bytes) -> bytes:
    lines = (b"POST /api/refresh HTTP/1.1", b"Host: a", b"Authorization: Bearer " + token, *headers, b"", b"")
    return b"\r\n".join(lines)


def dribble(connection: socket.socket, once: Callable[[], bytes]) -> float:
    """Send a little again and again until the server ends it; return the seconds that took."""
    began = time.monotonic()
    connection.settimeout(0.2)
    while time.monotonic() - began < GENEROUS_S:
        try:
            connection.sendall(once())
            if connection.recv(1, socket.MSG_PEEK) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
        else:
            time.sleep(0.05)  # an answer lies there; it ends when the server closes
            if b"HTTP/1.1" in connection.recv(4096, socket.MSG_PEEK):
                break
    connection.settimeout(GENEROUS_S)
    return time.monotonic() - began


def test_headers_that_never_end_do(server: Gunicorn) -> None:
    with connect(server) as slow, connect(server) as silent, connect(server) as second:
        second.sendall(GET)
        second.recv(4096)
        second.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: ")
        took_s = dribble(slow, lambda: b"a")
        assert took_s < GENEROUS_S, "a first request"
        assert rest(silent) == b"", "one that says nothing at all"
        assert rest(second) == b"", "a second request"


def test_a_body_that_comes_too_slowly_is_a_408(server: Gunicorn, token: bytes) -> None:
    for head, once in (
        (post(token, b"Content-Length: 100000"), lambda: b" "),
        (post(token, b"Transfer-Encoding: chunked"), lambda: b"1\r\n \r\n"),
        (post(token, b"Content-Length: 100000"), lambda: b""),
        (post(token, b"Transfer-Encoding: chunked") + b"fffffffffff\r\n", lambda: b" "),
    ):
        with connect(server) as connection:
            connection.sendall(head)
            dribble(connection, once)
            answer = rest(connection)
        assert status(answer) == 408, head
        assert b"application/problem+json" in answer


def test_who_may_not_write_is_told_before_the_body_is_there(server: Gunicorn, token: bytes) -> None:
    with connect(server) as connection:
        wrong = token[:-1] + (b"1" if token.endswith(b"0") else b"0")
        connection.sendall(post(wrong, b"Content-Length: 100000"))
        assert status(connection.recv(65_536)) == 401
        assert rest(connection) is not None, "and the connection ends: what follows would be read as a request"


def test_who_sends_a_body_that_is_refused_gets_the_answer_whenever_it_is_read(server: Gunicorn, token: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(post(token, b"Content-Length: 3000000"))
        time.sleep(0.2)  # it is refused by now
        connection.sendall(b" " * 1_500_000)
        time.sleep(0.2)
        connection.sendall(b" " * 1_500_000)
        assert status(rest(connection)) == 413


def test_a_client_that_only_stops_sending_is_let_go(server: Gunicorn, token: bytes) -> None:
    for request in (GET, GET[:20], post(token, b"Content-Length: 100") + b"{", b""):
        with connect(server) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            rest(connection)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(65)) + b"\r\n", {431}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n", {431}),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {414}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Endless: " + b"a" * 200_000, {431}),
        (b"G" * 200_000, {400, 414}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", {400, 501}),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", {400, 413}),
    ],
)
def test_what_is_no_request_is_refused(server: Gunicorn, request_: bytes, expected: set[int]) -> None:
    assert status(exchange(server, request_)) in expected


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"\r\n",
        b"1;" + b"a" * 20_000,
        b"1\r\nabc\r\n0\r\n\r\n",
        b"0x1\r\na\r\n",
        b"1 1\r\na\r\n",
    ],
)
def test_chunks_that_are_none_are_refused(server: Gunicorn, token: bytes, chunks: bytes) -> None:
    assert status(exchange(server, post(token, b"Transfer-Encoding: chunked") + chunks)) == 400


@pytest.mark.parametrize("before", [0, 1, 4])
def test_a_request_that_came_in_time_is_answered_though_the_worker_stood_still(server: Gunicorn, before: int) -> None:
    """Who has lain idle for too long by the time that it goes on may have asked long ago: first, later, in known bytes."""
    request = b"GET /api/summary HTTP/1.1\r\nHost: a\r\n\r\n"
    (worker,) = server.workers
    with connect(server) as connection:
        for _ in range(before):
            connection.sendall(request)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        server.get("/healthz")  # it has taken the connection by now
        os.kill(worker, signal.SIGSTOP)
        connection.sendall(request)
        time.sleep(KEEP_ALIVE_S + 1)
        os.kill(worker, signal.SIGCONT)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert rest(connection) == b"", "and idle, it ends as ever"


def test_requests_sent_at_once_are_answered_in_their_order(server: Gunicorn) -> None:
    paths = [b"/healthz", b"/api/summary?fields=handle", b"/api/nothing", b"/api/summary?page=0", b"/healthz"]
    requests = [
        b"GET %s HTTP/1.1\r\nHost: a\r\nX-Request-ID: n%d\r\n\r\n" % (path, n) for n, path in enumerate(paths)
    ]
    requests[-1] = requests[-1].replace(b"Host: a", b"Host: a\r\nConnection: close")
    answer = exchange(server, b"".join(requests))
    parts = [part for part in answer.split(b"HTTP/1.1 ") if part]
    assert [int(part[:3]) for part in parts] == [200, 200, 404, 400, 200]
    for number, part in enumerate(parts):
        assert b"n%d\r\n" % number in part


def test_no_body_is_taken_for_a_request(server: Gunicorn, token: bytes) -> None:
    smuggled = b"GET /api/summary HTTP/1.1\r\nHost: a\r\n\r\n"
    for head in (post(b"rc_none"), post(token), b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"):
        with_length = head[:-2] + b"Content-Length: %d\r\n\r\n" % len(smuggled)
        answer = exchange(server, with_length + smuggled)
        assert answer.count(b"HTTP/1.1 ") == 1, answer


def test_who_takes_nothing_of_an_answer_is_left(server: Gunicorn, engine: Engine, tmp_path: Path) -> None:
    with transaction(engine) as conn:
        for number in range(1000):
            add_account(conn, f"bluesky/agency{number}.example", display_name="a" * 900, bio="b" * 3000)
    request = b"GET /api/accounts?per_page=500 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(GENEROUS_S)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request * 3)
        wait_for(lambda: not _is_connected(server, connection), "the server to leave", within_s=GENEROUS_S)
    assert status(exchange(server, request.replace(b"Host: a", b"Host: a\r\nConnection: close"))) == 200


def _is_connected(server: Gunicorn, connection: socket.socket) -> bool:
    """Tell whether the server still holds its end of a connection."""
    port = connection.getsockname()[1]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = f"0100007F:{server.port:04X}", f"0100007F:{port:04X}"
    return any((line[1], line[2]) == mine and line[3] == "01" for line in lines)


def test_more_connections_than_a_worker_takes_are_told_to_come_back(server: Gunicorn) -> None:
    connections = [connect(server) for _ in range(60)]
    try:
        refused = [one for one in connections[40:] if status(one.recv(4096)) == 503]
        assert len(refused) >= 20
    finally:
        for one in connections:
            one.close()
    wait_for(lambda: server.get("/healthz")[0] == 200, "the worker to take connections again")


def test_what_takes_too_long_is_a_503_and_its_thread_is_free_again(
    database_url: str, redis_url: str, engine: Engine
) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    limits = {"API_TIMEOUT_S": "0.5", "DB_READ_TIMEOUT_S": "1", "READ_THREADS": "1"}
    with in_process(fakes.settings(database_url, redis_url, **limits)) as api:
        with transaction(engine) as conn:
            conn.execute(text("LOCK TABLE dim_account IN ACCESS EXCLUSIVE MODE"))
            answer = api.get("/api/accounts")
            assert answer.status_code == 503
            assert "longer than 0.5 seconds" in answer.json["detail"]
            assert answer.headers["retry-after"] and answer.headers["x-request-id"]
            assert api.get("/healthz").status_code == 200
        wait_for(lambda: api.get("/api/accounts").status_code == 200, "the thread to be free")


def test_a_flood_of_stalled_bodies_delays_nobody(server: Gunicorn, token: bytes) -> None:
    stalled = [connect(server) for _ in range(30)]
    try:
        for one in stalled:
            one.sendall(post(token, b"Content-Length: 1000"))
        assert json.loads(server.get("/api/summary")[2])["total"] == 1
        assert {status(rest(one)) for one in stalled} == {408}
    finally:
        for one in stalled:
            one.close()
