"""Exports and their clients, over real sockets: slow ones, ones that go away, and reads that fail in the middle."""

import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from db.engine import Connection, Engine, reading, transaction
from tests.performance.exporting import settled_bytes
from tests.serving import PATIENCE_S, Gunicorn, add_account, gunicorn, wait_for

ACCOUNTS, DAYS = 250, 200
READERS = 20
GRID = "/api/export/grid?format=ndjson"
# Its first line needs no row.
CSV = "/api/export/grid?format=csv"
LAST_CHUNK = b"\r\n0\r\n\r\n"

# How the exports of a server stand in the database.
_EXPORTING = text("""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0), coalesce(wait_event_type, '')
    FROM pg_stat_activity
    WHERE application_name = 'rollcall export' AND xact_start IS NOT NULL AND datname = current_database()
""")


class Reader:
    """A client that takes only as much as it is told to; the kernel keeps little for it."""

    def __init__(self, port: int, path: str, version: str = "1.1") -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self.socket.settimeout(PATIENCE_S * 4)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(f"GET {path} HTTP/{version}\r\nHost: here\r\n\r\n".encode())
        self.begun = self.socket.recv(4_096)

    @property
    def status(self) -> int:
        return int(self.begun.split()[1])

    def rest(self) -> bytes:
        """Return all that comes until the server closes, or its last chunk."""
        got = bytearray(self.begun)
        while not got.endswith(LAST_CHUNK) and (piece := self.socket.recv(1 << 20)):
            got += piece
        return bytes(got)

    def close(self) -> None:
        self.socket.close()


def body(answer: bytes) -> bytes:
    """Return what a chunked answer holds. Fails where it has no end."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    found = bytearray()
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return bytes(found)
        found += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]


@pytest.fixture
def filled(engine: Engine) -> None:
    with transaction(engine) as conn:
        for number in range(ACCOUNTS):
            add_account(conn, f"x/bird{number}", org_name="The same organisation for all of these birds")
        conn.execute(
            text("""
                INSERT INTO fact_followers_snapshot
                    (account_key, snapshot_date, followers, following, posts, captured_at, source, precision)
                SELECT account_key, current_date - n, n, n, n, now(), 'live', 'exact'
                FROM generate_series(0, :days - 1) AS n, dim_account ORDER BY n, account_key
            """),
            {"days": DAYS},
        )
        conn.execute(
            text("INSERT INTO day_count (snapshot_date, snapshots) SELECT current_date - n, :accounts FROM generate_series(0, :days - 1) AS n"),
            {"days": DAYS, "accounts": ACCOUNTS},
        )  # fmt: skip


@pytest.fixture
def serve(database_url: str, redis_url: str, tmp_path: Path) -> Callable[..., Any]:
    """Return what runs one gunicorn worker with these settings."""
    plain = database_url.replace("postgresql+psycopg2://", "postgresql://", 1)
    waiting = tmp_path / "waiting"
    waiting.mkdir()

    def start(**environ: str) -> Any:
        given = {"EXPORT_FOLDER": str(waiting), "EXPORT_KEEP_FREE_MB": "10", **environ}
        return gunicorn(plain, redis_url, tmp_path, workers=1, **given)

    return start


def exporting(engine: Engine) -> list[tuple[float, str]]:
    """Return the ages of the transactions that exports have open, and what each waits for."""
    with reading(engine) as conn:
        return [(float(age_s), waits) for age_s, waits in conn.execute(_EXPORTING)]


@contextmanager
def locked(engine: Engine) -> Iterator[Connection]:
    """Let nobody read a snapshot within the block."""
    with transaction(engine) as conn:
        conn.execute(text("LOCK TABLE fact_followers_snapshot IN ACCESS EXCLUSIVE MODE"))
        yield conn


def waits_for_the_lock(engine: Engine) -> bool:
    return [waits for _, waits in exporting(engine)] == ["Lock"]


def begin(server: Gunicorn, path: str) -> Reader:
    """Begin an export; ask again, as Retry-After says, while there is no thread for it."""
    while True:
        reader = Reader(server.port, path)
        if reader.status != 503:
            return reader
        reader.close()
        time.sleep(0.1)


def test_slow_readers_hold_no_transaction_and_little_memory_and_get_it_whole(
    engine: Engine, filled: None, serve: Callable[..., Any]
) -> None:
    snapshot_s = 60
    # None of them is given up before all have begun.
    given = {"EXPORT_OPEN": str(READERS), "EXPORT_SNAPSHOT_S": str(snapshot_s), "EXPORT_STALL_S": "900"}
    with serve(**given) as server, ExitStack() as stack:
        (worker,) = server.workers
        whole = server.get(GRID)[2]
        assert whole.count(b"\n") == ACCOUNTS * DAYS
        idle_bytes = settled_bytes(worker)
        readers = []
        for _ in range(READERS):
            readers.append(stack.enter_context(closing(begin(server, GRID))))
            assert server.get("/api/summary")[0] == 200  # while exports are being read
            assert all(age_s < snapshot_s for age_s, _ in exporting(engine))
        # None of them has taken more than a few kilobytes, and no transaction waits for that.
        wait_for(lambda: not exporting(engine), "the reads to end", snapshot_s)
        assert server.get(GRID)[0] == 503
        per_reader_bytes = (settled_bytes(worker) - idle_bytes) / READERS
        assert per_reader_bytes < 2 << 20, f"{per_reader_bytes:,.0f} bytes"
        assert len(whole) * READERS > 100 << 20
        with transaction(engine) as conn:  # after the moment that they show
            conn.execute(text("DELETE FROM fact_followers_snapshot"))
        for reader in readers:
            found = body(reader.rest())
            assert hashlib.sha256(found).digest() == hashlib.sha256(whole).digest()


@pytest.mark.parametrize("format_", ["csv", "xlsx"])  # in the middle, and before anything was answered
def test_a_client_that_goes_away_ends_its_read(
    engine: Engine, filled: None, serve: Callable[..., Any], format_: str
) -> None:
    with serve(EXPORT_OPEN="1") as server, locked(engine):
        client = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
        client.sendall(f"GET /api/export/grid?format={format_} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        wait_for(lambda: waits_for_the_lock(engine), "the export to wait for the lock")
        client.close()
        wait_for(lambda: not exporting(engine), "the statement to end")
        # A moment after the database's, the server's own end: then its place is free again.
        wait_for(lambda: server.get("/api/export/summary")[0] == 200, "its place to be free")


def test_a_read_that_fails_in_the_middle_does_not_look_like_a_whole_file(
    engine: Engine, filled: None, serve: Callable[..., Any]
) -> None:
    with serve() as server:
        with locked(engine) as conn:
            reader = Reader(server.port, CSV)
            wait_for(lambda: waits_for_the_lock(engine), "the export to wait for the lock")
            conn.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rollcall export'")
            )  # fmt: skip
            got = reader.rest()
        assert reader.status == 200
        assert b"account_key,platform" in got
        assert not got.endswith(LAST_CHUNK)
        reader.close()


def test_no_read_is_longer_than_its_setting_whoever_is_slow(
    engine: Engine, filled: None, serve: Callable[..., Any]
) -> None:
    with serve(EXPORT_SNAPSHOT_S="1") as server, locked(engine):
        reader = Reader(server.port, CSV)
        assert not reader.rest().endswith(LAST_CHUNK)
        reader.close()
        wait_for(lambda: not exporting(engine), "the statement to end")
        status, headers, said = server.get("/api/export/grid?format=xlsx")
        assert (status, headers["content-type"]) == (503, "application/problem+json")
        assert "EXPORT_SNAPSHOT_S" in json.loads(said)["detail"]


def test_without_chunks_the_length_tells_a_whole_file(filled: None, serve: Callable[..., Any]) -> None:
    with serve() as server:
        reader = Reader(server.port, GRID, version="1.0")
        head, _, found = reader.rest().partition(b"\r\n\r\n")
        reader.close()
        assert f"content-length: {len(found)}".encode() in head.lower()
        assert found.count(b"\n") == ACCOUNTS * DAYS


def test_a_client_that_takes_nothing_any_more_is_left(
    engine: Engine, filled: None, serve: Callable[..., Any]
) -> None:
    with serve(EXPORT_OPEN="1", EXPORT_STALL_S="1") as server:
        reader = Reader(server.port, GRID)
        assert server.get("/api/export/summary")[0] == 503
        wait_for(lambda: server.get("/api/export/summary")[0] == 200, "the stalled export to be given up")
        assert not reader.rest().endswith(LAST_CHUNK)
        reader.close()


def test_a_client_that_pauses_for_less_than_the_setting_gets_it_whole(
    filled: None, serve: Callable[..., Any]
) -> None:
    timeout_s = 5
    with serve(GUNICORN_CMD_ARGS=f"--timeout {timeout_s}") as server:
        reader = Reader(server.port, GRID)
        time.sleep(timeout_s * 2)
        assert body(reader.rest()).count(b"\n") == ACCOUNTS * DAYS
        reader.close()


def test_more_than_can_be_read_at_a_time_are_told_when_to_come_back(
    engine: Engine, filled: None, serve: Callable[..., Any]
) -> None:
    with serve(EXPORT_THREADS="1") as server:
        with locked(engine):
            reader = Reader(server.port, CSV)
            wait_for(lambda: waits_for_the_lock(engine), "the export to wait for the lock")
            status, headers, said = server.get("/api/export/summary")
            assert (status, headers["retry-after"]) == (503, "10")
            assert "EXPORT_THREADS" in json.loads(said)["detail"]
            assert server.get("/api/summary")[0] == 200  # other reads have threads of their own
        assert body(reader.rest()).count(b"\n") == ACCOUNTS * DAYS + 1
        reader.close()
        assert server.get("/api/export/summary")[0] == 200


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"EXPORT_KEEP_FREE_MB": "1000000000"}, "EXPORT_KEEP_FREE_MB"),
        ({"EXPORT_FOLDER": "/nowhere"}, "EXPORT_FOLDER"),
    ],
)
def test_an_export_without_room_is_refused(serve: Callable[..., Any], setting: dict[str, str], name: str) -> None:
    with serve(**setting) as server:
        status, headers, said = server.get("/api/export/summary", Accept_Encoding="zstd")
        assert (status, headers["retry-after"], name in json.loads(said)["detail"]) == (503, "10", True)
        assert not {"content-encoding", "content-disposition"} & headers.keys()
        assert server.get("/api/summary")[0] == 200


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_ends_its_exports_and_leaves_no_file(
    engine: Engine, filled: None, serve: Callable[..., Any], tmp_path: Path, how: signal.Signals
) -> None:
    with serve() as server, locked(engine):
        reader = Reader(server.port, CSV)
        wait_for(lambda: waits_for_the_lock(engine), "the export to wait for the lock")
        for pid in (server.process.pid, *server.workers):
            os.kill(pid, how)
        assert not reader.rest().endswith(LAST_CHUNK)
        server.process.wait(PATIENCE_S)
        wait_for(lambda: not exporting(engine), "the statement to end")
        reader.close()
    assert list((tmp_path / "waiting").iterdir()) == []
