"""Reads on a real replica: it's used while it follows, left while it doesn't, and never shows what was purged."""

import asyncio
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event, text
from structlog.testing import capture_logs

from api.cache import shared, warm
from api.cache.answers import Answers, Want
from api.cache.entries import Content, Key, Stamps
from api.cache.memory import Memory
from api.cache.reader import Reader
from api.cache.shared import Shared
from api.cache.stats import Counts
from api.cache.tags import Purges
from api.cache.threads import Threads
from db import keys, migrate
from db.engine import Connection, DatabaseError, Engine, make_engine, reading, transaction
from db.replica import record_end
from deploy.embedded import Postgres, start_postgres
from tests import fakes
from tests.chaos import list_accounts
from tests.conftest import FAST
from tests.replica import Replica, replica_of
from tests.serving import InProcess, add_account, days_ago, gunicorn, in_process, keep, purger, wait_for
from tests.system import system

NOW = Stamps(heard=0, shared=0)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not below pytest's own folder: another session of root's takes back what lets PostgreSQL's user in there.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-replica-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def primary(folder: Path) -> Iterator[Postgres]:
    server = start_postgres(folder / "primary", FAST | {"synchronous_commit": "on"})
    migrate.upgrade(_for_sqlalchemy(server.url))
    yield server
    server.stop()


@pytest.fixture
def name(primary: Postgres) -> str:
    """Return the name of a fresh, migrated database."""
    name = f"test_{uuid.uuid4().hex}"
    admin = make_engine(_for_sqlalchemy(primary.url.replace("/rollcall?", "/postgres?")))
    with reading(admin) as conn:
        conn.execute(text(f"CREATE DATABASE {name} TEMPLATE rollcall"))
    admin.dispose()
    return name


@pytest.fixture
def database_url(primary: Postgres, name: str) -> str:
    return _for_sqlalchemy(primary.url.replace("/rollcall?", f"/{name}?"))


@pytest.fixture(scope="module")
def standby(primary: Postgres, folder: Path) -> Iterator[Replica]:
    with replica_of(primary, folder / "replica", max_standby_streaming_delay="100ms") as replica:
        yield replica


@pytest.fixture
def replica(standby: Replica) -> Iterator[Replica]:
    """Return the replica of all tests; whatever one does to it, the next finds it well."""
    yield standby
    if not standby.runs:
        standby.start()
    standby.resume()


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


@pytest.fixture
def copy(replica: Replica, name: str) -> Iterator[Engine]:
    """Return an engine of the replica."""
    engine = make_engine(replica.url(name))
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def nothing_is_warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the API read only what it is asked for."""
    monkeypatch.setattr(warm, "HOTTEST", 0)


class Asker:
    """Asks for an account's followers, each time in a way that no cache has an answer for."""

    def __init__(self, api: InProcess, replica: Engine) -> None:
        self._api = api
        self._times = 0
        self._asked: list[str] = []
        event.listen(api.engine, "before_cursor_execute", partial(self._note, "primary"))
        event.listen(replica, "before_cursor_execute", partial(self._note, "replica"))

    def asked(self, handle: str = "agency") -> tuple[list[str], int | None]:
        """Return who was read, in turn, and the followers."""
        self._times += 1
        self._asked.clear()
        answer = self._api.get(f"/api/history/x/{handle}?from={days_ago(self._times)}")
        assert answer.headers["x-cache"] == "miss"
        return list(self._asked), answer.json["followers"][-1]

    def is_served_by(self, *servers: str) -> bool:
        return self.asked()[0] == list(servers)

    def _note(self, server: str, _conn: object, _cursor: object, sql: str, *_: object) -> None:
        if "dim_account" in sql and server not in self._asked[-1:]:
            self._asked.append(server)


@pytest.fixture
def account_key(engine: Engine) -> int:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 1)
    return key


@pytest.fixture
def serve(
    database_url: str, redis_url: str, copy: Engine, account_key: int
) -> Callable[..., AbstractContextManager[Asker]]:
    """Return what runs an API with the replica; it begins when the replica is in use."""

    @contextmanager
    def serve(**environ: str) -> Iterator[Asker]:
        with in_process(fakes.settings(database_url, redis_url, **environ), replica=copy) as api:
            api.wait_until_it_hears_purges()
            ask = Asker(api, copy)
            wait_for(lambda: ask.is_served_by("replica"), "reads on the replica")
            yield ask

    return serve


def test_reads_leave_a_replica_that_lags_and_come_back(
    serve, engine: Engine, account_key: int, replica: Replica
) -> None:
    with serve(REPLICA_MAX_LAG_S="1") as ask:
        replica.pause()
        with transaction(engine) as conn:
            keep(conn, account_key, 2)
        # No purge was sent: up to the lag that is allowed it may show the old number.
        assert ask.asked() == (["replica"], 1)
        wait_for(lambda: ask.is_served_by("primary"), "reads on the primary")
        assert ask.asked() == (["primary"], 2)
        replica.resume()
        wait_for(lambda: ask.asked() == (["replica"], 2), "reads on the replica again")


def test_reads_stay_on_the_replica_of_a_primary_at_rest(serve) -> None:
    with serve(REPLICA_MAX_LAG_S="0.6") as ask:
        rests_until = time.monotonic() + 3
        while time.monotonic() < rests_until:
            assert ask.is_served_by("replica")


def test_reads_leave_a_replica_that_dies_without_an_error_and_come_back(serve, replica: Replica) -> None:
    with serve() as ask:
        replica.kill()
        assert [ask.asked()[1] for _ in range(5)] == [1] * 5
        assert ask.is_served_by("primary")
        replica.start()
        wait_for(lambda: ask.is_served_by("replica"), "reads on the replica again")


def test_what_was_purged_is_read_on_the_primary_until_the_replica_shows_it_and_the_rest_on_the_replica(
    serve, engine: Engine, account_key: int, replica: Replica, database_url: str, redis_url: str
) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/other"), 7)
    with serve(REPLICA_MAX_LAG_S="60") as ask:
        wait_for(lambda: ask.asked("other") == (["replica"], 7), "the other account on the replica")
        replica.pause()
        with transaction(engine) as conn:
            keep(conn, account_key, 2)
        purger(fakes.settings(database_url, redis_url)).purge({f"account:{account_key}"})
        wait_for(lambda: ask.asked() == (["replica", "primary"], 2), "the purge to be heard")
        for _ in range(20):
            assert ask.asked() == (["replica", "primary"], 2)
            assert ask.asked("other") == (["replica"], 7)
        replica.resume()
        wait_for(lambda: ask.asked() == (["replica"], 2), "the new number on the replica")


def test_after_a_refresh_the_new_number_is_there_although_the_replica_has_the_old_one(
    engine: Engine, copy: Engine, replica: Replica, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    list_accounts(engine, {"x": 1})
    with transaction(engine) as conn:
        token = keys.create(conn, name="press", scopes=["refresh"])
    with system(database_url, redis_url, tmp_path / "logs") as (processes, simulator):
        settings = fakes.settings(database_url, redis_url, SIMULATOR_URL=simulator.url, REPLICA_MAX_LAG_S="600")
        processes.worker("x")
        with in_process(settings, replica=copy) as api:
            api.wait_until_it_hears_purges()
            ask = Asker(api, copy)
            wait_for(lambda: ask.asked("agency0") == (["replica"], None), "reads on the replica")
            replica.pause()
            asked = api.ask("POST", "/api/refresh", '{"accounts": ["x/agency0"]}', Authorization=f"Bearer {token}")
            job = asked.json["jobs"][0]["href"]
            processes.wait(lambda: api.get(job).json["finished_at"], within_s=30, what="the job to end")
            assert api.get(job).json["accounts"][0]["reason"] is None
            # Its purge follows the commit that the job's end was read from.
            wait_for(lambda: ask.asked("agency0")[1] is not None, "the new number", within_s=2)
            for _ in range(20):
                servers, followers = ask.asked("agency0")
                assert servers == ["replica", "primary"]
                assert followers is not None


def test_an_account_that_the_replica_has_not_got_yet_is_found(serve, engine: Engine, replica: Replica) -> None:
    with serve(REPLICA_MAX_LAG_S="60") as ask:
        replica.pause()
        with transaction(engine) as conn:
            keep(conn, add_account(conn, "x/new"), 3)
        assert ask.asked("new") == (["replica", "primary"], 3)


def test_numbers_only_ever_go_forward_while_a_late_replica_is_read(
    primary: Postgres, name: str, folder: Path, database_url: str, redis_url: str, engine: Engine, account_key: int
) -> None:
    settings = fakes.settings(database_url, redis_url)
    purge = purger(settings).purge
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/other"), 7)
    with replica_of(primary, folder / f"late-{name}", recovery_min_apply_delay="300ms") as late:
        copy = make_engine(late.url(name))
        with in_process(settings, replica=copy) as api:
            api.wait_until_it_hears_purges()
            other = Asker(api, copy)
            wait_for(lambda: other.asked("other")[0] == ["replica"], "reads on the replica")
            committed = threading.Event()

            def watch(path: str) -> list[int]:
                seen = []
                while not committed.is_set():
                    seen.append(api.get(path).json["followers"][-1])
                return seen

            paths = ["/api/history/x/agency", "/api/history/x/agency?interval=month"]
            with ThreadPoolExecutor(len(paths)) as watchers:
                watching = [watchers.submit(watch, path) for path in paths]
                for number in range(2, 42):
                    with transaction(engine) as conn:
                        keep(conn, account_key, number)
                    purge({f"account:{account_key}"})
                    time.sleep(0.03)  # so that it goes on for several times the replica's delay
                committed.set()
            for one in watching:
                seen = one.result()
                assert len(seen) > 20
                assert seen == sorted(seen), "an older number came back"
            for path in paths:
                wait_for(lambda path=path: api.get(path).json["followers"][-1] == 41, "the last number")
            wait_for(lambda: other.asked() == (["replica"], 41), "the last number on the replica")


def test_no_request_to_gunicorn_fails_while_the_replica_dies_and_comes_back(
    database_url: str, redis_url: str, engine: Engine, account_key: int, replica: Replica, name: str, tmp_path: Path
) -> None:
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    given = {"ENABLE_READ_REPLICA": "true", "DATABASE_READ_REPLICA_URL": replica.url(name)}
    with gunicorn(database_url, redis_url, tmp_path, workers=2, **given) as server, ThreadPoolExecutor(3) as clients:

        def ask(client: int) -> None:
            times = 0
            while not stop.is_set():
                times += 1
                day = days_ago(times * 3 + client)
                status, _, body = server.get(f"/api/history/x/agency?from={day}")
                statuses[status] += 1
                assert b'"followers":[' in body

        asking = [clients.submit(ask, client) for client in range(3)]
        try:
            for _ in range(2):
                wait_for(lambda: _is_reading(replica), "reads on the replica", 60)
                replica.kill()
                before = statuses[200]
                wait_for(lambda before=before: statuses[200] > before + 30, "answers without it", 60)
                replica.start()
            wait_for(lambda: _is_reading(replica), "reads on the replica again", 60)
        finally:
            stop.set()
        for one in asking:
            one.result()
    assert statuses.keys() == {200}


def _is_reading(replica: Replica) -> bool:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rollcall api' AND query ~ 'dim_account'"
    return int(replica.ask(sql)) > 0


@pytest.fixture
def purges() -> Purges:
    purges = Purges()
    purges.connected()
    return purges


@pytest.fixture
def reader(engine: Engine, copy: Engine, purges: Purges, account_key: int) -> Reader:
    """Return a reader of a process that hears every purge and has seen the replica follow."""
    reader = Reader(engine, copy, purges, max_lag_s=10)
    wait_for(lambda: _follows(reader, purges), "the replica to follow")
    return reader


def _follows(reader: Reader, purges: Purges) -> bool:
    reader.look(Stamps(purges.stamp(), 0))
    return _server(reader) == "replica"


def _server(reader: Reader) -> str:
    def read(conn: Connection) -> Content:
        name = "replica" if conn.scalar(text("SELECT pg_is_in_recovery()")) else "primary"
        return Content(body=name.encode(), tags=frozenset(), modified_at=None)

    return reader.read(read, NOW)[0].body.decode()


def test_a_read_that_is_in_the_way_of_replay_is_repeated_on_the_primary(
    reader: Reader, engine: Engine, account_key: int, replica: Replica
) -> None:
    began = threading.Event()

    def read(conn: Connection) -> Content:
        if conn.scalar(text("SELECT pg_is_in_recovery()")):
            began.set()
            conn.execute(text("SELECT handle, pg_sleep(30) FROM dim_account"))
        return Content(body=b"read", tags=frozenset(), modified_at=None)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(reader.read, read, NOW)
        began.wait(10)
        wait_for(lambda: replica.ask("SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep.30'"), "the read")
        with transaction(engine) as conn:
            conn.execute(text("LOCK TABLE dim_account IN ACCESS EXCLUSIVE MODE"))
        assert waiting.result(20)[1] == NOW
    assert _server(reader) == "replica", "it still follows"


def test_a_read_that_takes_too_long_on_the_replica_is_not_begun_again(
    reader: Reader,
) -> None:
    reads = []

    def read(conn: Connection) -> Content:
        reads.append(1)
        conn.execute(text("SET statement_timeout = '50ms'"))
        conn.execute(text("SELECT pg_sleep(30)"))
        raise AssertionError("it was not ended")

    with pytest.raises(DatabaseError):
        reader.read(read, NOW)
    assert reads == [1]


def test_an_old_row_of_the_replica_is_given_to_no_other_process_once_its_purge_was_sent(
    reader: Reader,
    purges: Purges,
    engine: Engine,
    account_key: int,
    replica: Replica,
    database_url: str,
    redis_url: str,
) -> None:
    """The race: this process has not heard of the purge yet when it keeps what it read."""
    send = purger(fakes.settings(database_url, redis_url)).purge
    key = Key("/api/history/x/agency", (), "application/json")

    def read(conn: Connection) -> Content:
        followers = conn.scalar(text("SELECT followers FROM account_latest"))
        return Content(body=str(followers).encode(), tags=frozenset({"account:1"}), modified_at=None)

    async def scenario() -> None:
        for process, expected in ((reader, b"1"), (Reader(engine, None, purges, max_lag_s=10), b"2")):
            memory = Memory(purges, entries=10, kept_s=60)
            cache = Shared(shared.connect(redis_url))
            with Threads(1) as threads:
                answers = Answers(purges, memory, cache, process, threads)
                want = Want(key=key, coding="identity", ttl_s=300, read=read, counts=Counts())
                _, variant, level = await answers.get(want)
            assert (variant.body, level) == (expected, "miss")
            await cache.close()

    replica.pause()
    with transaction(engine) as conn:
        keep(conn, account_key, 2)
    send({"account:1"})
    asyncio.run(scenario())


def test_a_server_that_follows_nobody_is_not_read(engine: Engine, database_url: str, purges: Purges) -> None:
    other = make_engine(database_url)
    reader = Reader(engine, other, purges, max_lag_s=10)
    with capture_logs() as logged:
        reader.look(Stamps(purges.stamp(), 0))
    assert [entry["error"] for entry in logged] == ["this server follows no other"]
    asked: list[str] = []
    event.listen(other, "before_cursor_execute", lambda _conn, _cursor, sql, *_: asked.append(sql))
    assert _server(reader) == "primary"
    assert not asked
    other.dispose()


def test_the_replica_is_not_read_while_redis_is_away_since_no_purge_is_sent(reader: Reader, purges: Purges) -> None:
    reader.look(None)
    assert _server(reader) == "primary"
    wait_for(lambda: _follows(reader, purges), "the replica to be read again")


def test_the_replica_is_not_trusted_while_purges_cannot_be_heard(reader: Reader, purges: Purges) -> None:
    purges.disconnected()
    assert _server(reader) == "primary"
    purges.connected()
    assert _server(reader) == "primary", "purges may have been missed"
    wait_for(lambda: _follows(reader, purges), "the replica to be read again")


def test_a_position_behind_the_header_of_a_page_is_that_pages_beginning() -> None:
    page = 1 << 30
    assert [record_end(at) for at in (page - 8, page, page + 24, page + 40, page + 64)] == [
        page - 8,
        page,
        page,
        page,
        page + 64,
    ]
