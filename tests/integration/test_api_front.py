"""The short way of a hit: it answers as the long way does, and lets nobody pass whom that would stop."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import OperationalError

from api.cache.link import Scripts
from api.cache.reader import Reader
from api.front import Front
from db import keys
from db.engine import Engine, PoolTimeout, transaction
from tests import fakes
from tests.serving import PATIENCE_S, InProcess, add_account, gunicorn, in_process, keep, purger, wait_for

PATH = "/api/summary?per_page=5"
SETTINGS = {"TRUSTED_PROXIES": "127.0.0.1", "CORS_ORIGINS": "https://board.example", "API_RATE_LIMIT": "1000/1d"}
# All that an answer depends on.
WORDS: list[dict[str, str]] = [
    {},
    {"Accept_Encoding": "zstd"},
    {"Accept_Encoding": "gzip, br"},
    {"Accept": "text/csv"},
    {"Origin": "https://board.example"},
    {"Origin": "https://evil.example"},
    {"X_Forwarded_Proto": "https"},
    {"X_Forwarded_For": "203.0.113.9"},
    {"Authorization": "Bearer rc_nobody"},
]
OF_EACH_REQUEST = ("x-request-id", "x-cache", "ratelimit-remaining", "ratelimit-reset")


@pytest.fixture
def api(database_url: str, redis_url: str, engine: Engine) -> Iterator[InProcess]:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    with in_process(fakes.settings(database_url, redis_url, **SETTINGS)) as api:
        api.wait_until_it_hears_purges()
        yield api


class Watched:
    """Counts what the front answers."""

    def __init__(self, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hits = 0
        answer = front.answer

        async def watched(*asked: object) -> object:
            ready = await answer(*asked)  # type: ignore[arg-type]
            self.hits += ready is not None
            return ready

        monkeypatch.setattr(front, "answer", watched)


@pytest.fixture
def watched(api: InProcess, monkeypatch: pytest.MonkeyPatch) -> Watched:
    assert api.app.front
    return Watched(api.app.front, monkeypatch)


@pytest.mark.parametrize("path", [PATH, "/api/accounts/x/nobody", "/"])
def test_it_answers_as_the_long_way_does(
    api: InProcess, watched: Watched, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.cache.answers.HOT_HITS", 10**9)  # bytes that are compressed better have a new ETag
    for words in WORDS:
        first = api.get(path, **words)
        etag = first.headers["etag"]
        for method, asked in product(("GET", "HEAD"), (words, words | {"If_None_Match": etag})):
            api.ask(method, path, **asked)
            before = watched.hits
            short = api.ask(method, path, **asked)
            # There is no 304 of "no such account".
            is_short = "If_None_Match" not in asked or first.status_code == 200
            assert watched.hits == before + is_short, (method, asked)
            with monkeypatch.context() as patch:
                patch.setattr(api.app.front, "understand", lambda *_: None)
                long = api.ask(method, path, **asked)
            assert (short.status_code, short.content) == (long.status_code, long.content)
            assert set(short.headers) == set(long.headers)
            for name in set(long.headers) - set(OF_EACH_REQUEST):
                assert short.headers[name] == long.headers[name], name
            assert int(short.headers["ratelimit-remaining"]) - 1 == int(long.headers["ratelimit-remaining"])
            assert len(short.headers["x-request-id"]) == 32


OTHER = "/api/totals"


@pytest.fixture
def narrow(database_url: str, redis_url: str, engine: Engine) -> Iterator[InProcess]:
    """Yield an API whose memory holds one answer: all others come from Redis."""
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    with in_process(fakes.settings(database_url, redis_url, **SETTINGS, CACHE_ENTRIES="1")) as api:
        api.wait_until_it_hears_purges()
        yield api


def test_it_fetches_what_the_second_level_holds_as_the_long_way_does(
    narrow: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = narrow.app.front
    assert front
    watched = Watched(front, monkeypatch)
    monkeypatch.setattr("api.cache.answers.HOT_HITS", 10**9)
    for words in WORDS:
        etag = narrow.get(PATH, **words).headers["etag"]
        for method, asked in product(("GET", "HEAD"), (words, words | {"If_None_Match": etag})):
            narrow.get(OTHER)  # takes the one place
            narrow.ask(method, PATH, **asked)
            narrow.get(OTHER)
            before = watched.hits
            short = narrow.ask(method, PATH, **asked)
            assert watched.hits == before + 1, (method, asked)
            narrow.get(OTHER)
            with monkeypatch.context() as patch:
                patch.setattr(front, "understand", lambda *_: None)
                long = narrow.ask(method, PATH, **asked)
            assert short.headers["x-cache"] == long.headers["x-cache"] == "l2"
            assert (short.status_code, short.content) == (long.status_code, long.content)
            assert set(short.headers) == set(long.headers)
            for name in set(long.headers) - set(OF_EACH_REQUEST):
                assert short.headers[name] == long.headers[name], name


def test_it_fetches_nothing_that_a_purge_ended(
    narrow: InProcess, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.cache.warm.HOTTEST", 0)
    purge = purger(fakes.settings("postgresql://nowhere/none", redis_url)).purge
    with transaction(engine) as conn:
        key = add_account(conn, "x/other")

    def asked(number: int) -> str:
        answer = narrow.get("/api/history/x/other")
        narrow.get(OTHER)
        assert answer.json["followers"][-1] == number
        return str(answer.headers["x-cache"])

    for number in range(1, 6):
        with transaction(engine) as conn:
            keep(conn, key, number)
        purge({f"account:{key}"})
        # Heard of here or not: Redis knows.
        assert asked(number) == "miss"
        wait_for(lambda number=number: [asked(number), asked(number)] == ["l2", "l2"], "it to be kept there")


def test_without_redis_it_leaves_it_to_the_long_way(narrow: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(narrow.app.front, monkeypatch)  # type: ignore[arg-type]

    def asked() -> list[str]:
        levels = []
        for _ in range(3):
            narrow.get(OTHER)
            levels.append(narrow.get("/api/history/x/agency").headers["x-cache"])
        return levels

    assert asked()[1:] == ["l2", "l2"]
    before = watched.hits

    async def away(*_: object) -> None:
        raise RedisConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Scripts, "run", away)
        assert asked() == ["miss"] * 3
        assert watched.hits == before
    wait_for(lambda: asked()[-1] == "l2", "Redis to be asked again")


# Of a list that was asked before; none of them twice in these words.
IN_OTHER_WORDS = [
    "sort=-followers",
    "fields=handle,followers&per_page=2",
    "format=csv",
    "q=%61gency",
    "page=1&core=false",
    "",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_list_in_new_words_is_answered_as_on_the_long_way(
    api: InProcess, watched: Watched, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in WORDS:
        api.get(PATH, **words)
        for query in IN_OTHER_WORDS:
            address = f"/api/summary?{query}"
            before = watched.hits
            short = api.ask(method, address, **words)
            assert watched.hits == before + 1, (query, words)
            with monkeypatch.context() as patch:
                patch.setattr(api.app.front, "understand", lambda *_: None)
                long = api.ask(method, address, **words)
            assert (short.status_code, short.content) == (long.status_code, long.content) == (200, long.content)
            assert set(short.headers) == set(long.headers)
            for name in set(long.headers) - set(OF_EACH_REQUEST):
                assert short.headers[name] == long.headers[name], name
            assert int(short.headers["ratelimit-remaining"]) - 1 == int(long.headers["ratelimit-remaining"])


def test_what_is_wrong_with_a_list_is_told_on_the_long_way(
    api: InProcess, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = int(api.get(PATH).headers["ratelimit-remaining"])
    reads: list[object] = []
    read = Reader.read
    monkeypatch.setattr(Reader, "read", lambda *asked: (reads.append(asked), read(*asked))[1])
    said = []
    for query in ("page=9", "cursor=none", "platform=nowhere", "per_page=0", "q=%ff", "sort=handle&sort=handle"):
        answer = api.get(f"/api/summary?{query}", X_Request_ID="mine")
        assert (answer.status_code, answer.headers["x-request-id"]) == (400, "mine")
        assert answer.headers["content-type"] == "application/problem+json"
        said.append(answer.json["detail"].partition(":")[0])
        left -= 1
        assert int(answer.headers["ratelimit-remaining"]) == left, "counted once"
    assert said == ["page", "cursor", "platform", "per_page", "query", "sort"]
    assert len(reads) == 1, "only where a page begins is known behind it, and that is asked once"


def test_a_list_that_can_t_be_read_is_read_once_and_told_as_such(
    api: InProcess, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = int(api.get(PATH).headers["ratelimit-remaining"])
    away, busy, bug = OperationalError("SELECT", None, Exception("gone")), PoolTimeout(), KeyError("bug")
    for number, (error, status) in enumerate(((away, 503), (busy, 503), (bug, 500))):
        read = Mock(side_effect=error)
        monkeypatch.setattr(Reader, "read", read)
        answer = api.get(f"/api/summary?q={number}")
        assert (answer.status_code, read.call_count) == (status, 1)
        assert int(answer.headers["ratelimit-remaining"]) == left - 1 - number
    assert answer.headers["cache-control"] == "no-store"


def test_a_list_that_takes_too_long_is_told_as_such(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process(fakes.settings(database_url, redis_url, API_TIMEOUT_S="1", DB_READ_TIMEOUT_S="0.9")) as api:
        api.get(PATH)
        ends = threading.Event()
        read = Reader.read
        monkeypatch.setattr(Reader, "read", lambda *asked: (ends.wait(PATIENCE_S), read(*asked))[1])
        answer = api.get("/api/summary?q=slow")
        ends.set()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json["detail"] == "This took longer than 1 seconds."


def test_nobody_gets_more_of_a_list_by_asking_in_new_words(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process(fakes.settings(database_url, redis_url, API_RATE_LIMIT="6/1d")) as api:
        watched = Watched(api.app.front, monkeypatch)  # type: ignore[arg-type]
        answers = [api.get(f"/api/summary?q={number}") for number in range(9)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 3
        assert watched.hits == 5
        assert [int(answer.headers["ratelimit-remaining"]) for answer in answers] == [5, 4, 3, 2, 1, 0, 0, 0, 0]
    with in_process(fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")) as api:
        for path in (PATH, "/api/summary?q=other", "/api/summary?page=0"):
            assert api.get(path).status_code == 401


def test_two_headers_of_one_name_are_not_taken_for_the_last(api: InProcess, watched: Watched) -> None:
    headers = [("Accept-Encoding", "gzip"), ("Accept-Encoding", "identity;q=0.1")]
    for _ in range(3):
        answer = api._do(api._conductor.simulate_get("/api/summary", headers=headers))
        assert answer.headers["content-encoding"] == "gzip"
    assert not watched.hits
    assert "content-encoding" not in api.get("/api/summary", Accept_Encoding="identity;q=0.1").headers


def test_it_stops_who_asks_for_too_much(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_process(fakes.settings(database_url, redis_url, API_RATE_LIMIT="6/1d")) as api:
        api.wait_until_it_hears_purges()
        assert api.app.front
        watched = Watched(api.app.front, monkeypatch)
        answers = [api.get("/api/totals") for _ in range(9)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 3
        assert watched.hits == 4, "the first is a miss, and from the second the front learns"
        assert [int(answer.headers["ratelimit-remaining"]) for answer in answers] == [5, 4, 3, 2, 1, 0, 0, 0, 0]


def test_nobody_is_answered_with_a_key_that_was_revoked(
    database_url: str, redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(engine) as conn:
        token = keys.create(conn, name="reader", scopes=[])
        other = keys.create(conn, name="other", scopes=[])
    with in_process(fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")) as api:
        wait_for(lambda: api.get("/readyz").json["purge_listener"] == "ok", "the purge listener")
        assert api.app.front
        watched = Watched(api.app.front, monkeypatch)
        for _ in range(3):
            answer = api.get("/api/totals", Authorization=f"Bearer {token}")
            assert answer.status_code == 200
        assert answer.headers["cache-control"] == "private, no-cache"
        assert watched.hits
        hits = watched.hits
        assert api.get("/api/totals").status_code == 401
        assert api.get("/api/totals", Authorization="Bearer rc_wrong").status_code == 401
        assert watched.hits == hits
        with transaction(engine) as conn:
            (reader,) = [key for key in keys.list_keys(conn) if key.name == "reader"]
            assert keys.revoke(conn, reader.key_id)
        wait_for(
            lambda: api.get("/api/totals", Authorization=f"Bearer {token}").status_code == 401,
            "the key to be worthless",
        )
        assert api.get("/api/totals", Authorization=f"Bearer {other}").status_code == 200


def test_a_worker_writes_hits_as_http_has_them(
    database_url: str, redis_url: str, engine: Engine, tmp_path: Path
) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    with gunicorn(database_url, redis_url, tmp_path, workers=1, LOG_FORMAT="json") as server:
        for _ in range(3):
            _, headers, body = server.get("/api/totals")
        get = b"GET /api/totals HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\n\r\n"
        head = get.replace(b"GET", b"HEAD", 1)
        same = get.replace(b"\r\n\r\n", f"\r\nIf-None-Match: {headers['etag']}\r\n\r\n".encode())
        last = get.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        for _ in range(2):  # the second time all of them are known
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                connection.sendall(get + head + same + get + last)  # at once: the answers keep their order
                came = b""
                while piece := connection.recv(65536):
                    came += piece
        answers = []
        while came:
            text, _, came = came.partition(b"\r\n\r\n")
            status, *lines = text.decode().split("\r\n")
            named = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            has_body = status == "HTTP/1.1 200 OK" and len(answers) != 1
            length = int(named["content-length"]) if has_body else 0
            answers.append((status.split()[1], named, came[:length]))
            came = came[length:]
        assert [status for status, _, _ in answers] == ["200", "200", "304", "200", "200"]
        assert [content for _, _, content in answers] == [body, b"", b"", body, body]
        assert all(named["x-cache"] == "l1" and named["x-request-id"] == "mine" for _, named, _ in answers)
        assert int(answers[1][1]["content-length"]) == len(body)
        assert "content-length" not in answers[2][1]
        assert [named.get("connection") for _, named, _ in answers] == [None, None, None, None, "close"]
        asked = 3 + 2 * 5
        deadline = time.monotonic() + 30
        while (said := _closing_lines(tmp_path)) < asked and time.monotonic() < deadline:
            time.sleep(0.05)
        assert said == asked, "a line for each request"


def test_no_line_is_lost_or_moved_when_a_worker_is_asked_to_stop(
    database_url: str, redis_url: str, engine: Engine, tmp_path: Path
) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    with gunicorn(database_url, redis_url, tmp_path, workers=1, LOG_FORMAT="json") as server:
        ids = [f"n{number}" for number in range(500)]
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            answers = connection.makefile("rb")
            for request_id in ids:
                connection.sendall(
                    f"HEAD /api/totals HTTP/1.1\r\nHost: a\r\nX-Request-ID: {request_id}\r\n\r\n".encode()
                )
                while answers.readline() != b"\r\n":
                    pass
            server.process.terminate()
            answers.close()
        server.process.wait(30)
    said = [
        json.loads(line) for line in (tmp_path / "api.log").read_text().splitlines() if '"event": "request"' in line
    ]
    ours = [line for line in said if line["request_id"] in ids]
    assert [line["request_id"] for line in ours] == ids
    times = [line["timestamp"] for line in ours]
    assert times == sorted(times)


def _closing_lines(folder: Path) -> int:
    found = 0
    for line in (folder / "api.log").read_text().splitlines():
        if line.startswith("{") and line.endswith("}"):
            said = json.loads(line)
            found += said.get("event") == "request" and said.get("path") == "/api/totals"
    return found
