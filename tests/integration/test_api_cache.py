"""The two cache levels: no answer is older than a purged commit, whatever fails in between."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from api.cache import shared
from api.cache.answers import Answers, Want
from api.cache.entries import Content, Key
from api.cache.memory import Memory
from api.cache.reader import Reader
from api.cache.shared import Found, Shared
from api.cache.stats import Counts
from api.cache.tags import DEAF_S, Purges
from api.cache.threads import Threads
from db.engine import Connection, Engine, transaction
from deploy.embedded import start_redis
from pipeline.app import make_celery
from pipeline.plan import Planner
from pipeline.slots import Slots
from tests import fakes
from tests.rabbitmq import RabbitMQ
from tests.serving import InProcess, add_account, gunicorn, in_process, keep, purger, wait_for

KEY = Key("/api/summary", (), "application/json")


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        api.wait_until_it_hears_purges()
        yield api


class Level:
    """One process's caches without HTTP: reads return `value`, and do `meanwhile` between reading and keeping."""

    def __init__(self, redis_url: str, engine: Engine, *, threads: int = 1) -> None:
        self.purges = Purges()
        self.purges.connected()
        self.redis = shared.connect(redis_url)
        memory = Memory(self.purges, entries=10, kept_s=60)
        self.threads = Threads(threads)
        reader = Reader(engine, None, self.purges, max_lag_s=10)
        self.shared = Shared(self.redis)
        self.answers = Answers(self.purges, memory, self.shared, reader, self.threads)
        self.value = "old"
        self.attempted_at: datetime | None = None
        self.meanwhile = lambda: None

    async def get(self, key: Key = KEY) -> tuple[str, str]:
        want = Want(key=key, coding="identity", ttl_s=300, read=self._read, counts=Counts())
        _, variant, level = await self.answers.get(want)
        return variant.body.decode(), level

    def _read(self, conn: Connection) -> Content:
        value, attempted_at = self.value, self.attempted_at
        self.meanwhile()
        return Content(
            body=value.encode(), tags=frozenset({"account:1"}), modified_at=attempted_at, account="account:1"
        )

    async def close(self) -> None:
        await self.answers.close()
        await self.shared.close()
        self.threads.shutdown()


def test_what_was_read_before_a_commit_is_kept_at_no_level(redis_url: str, engine: Engine) -> None:
    """The race: a read sees the old row, the commit and its purge follow, and only then is the answer kept."""
    settings = fakes.settings("postgresql://nowhere/none", redis_url)

    async def scenario() -> None:
        here, there = Level(redis_url, engine), Level(redis_url, engine)

        def commit() -> None:
            here.value = there.value = "new"
            here.meanwhile = lambda: None
            purger(settings).purge({"account:1"})

        here.meanwhile = commit
        # `here` doesn't hear the purge: Redis alone must refuse the old answer.
        assert await here.get() == ("old", "miss")
        assert await there.get() == ("new", "miss")
        here.purges.purge(["account:1"])
        assert await here.get() == ("new", "l2")
        await here.close()
        await there.close()

    asyncio.run(scenario())


NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
WHOLE, SOME = KEY, Key("/api/summary", (("fields", "followers"),), "application/json")


def _commit(*processes: Level) -> None:
    """Let reads show a commit whose purge nobody has heard yet."""
    for one in processes:
        one.value, one.attempted_at = "new", NOON + timedelta(seconds=1)


async def _shown_before(*processes: Level) -> None:
    """Have an account shown under one of its addresses."""
    for one in processes:
        one.attempted_at = NOON
        assert (await one.get(WHOLE))[0] == "old"


def test_between_a_commit_and_its_purge_no_older_number_comes_back_from_memory(
    redis_url: str, engine: Engine
) -> None:
    async def scenario() -> None:
        here = Level(redis_url, engine)
        await _shown_before(here)
        _commit(here)
        assert await here.get(WHOLE) == ("old", "l1"), "nobody knows better yet"
        assert await here.get(SOME) == ("new", "miss")
        assert await here.get(WHOLE) == ("new", "miss")
        assert await here.get(WHOLE) == ("new", "l1")
        await here.close()

    asyncio.run(scenario())


def test_between_a_commit_and_its_purge_no_older_number_comes_back_from_redis(redis_url: str, engine: Engine) -> None:
    async def scenario() -> None:
        here, there = Level(redis_url, engine), Level(redis_url, engine)
        await _shown_before(there)
        _commit(here)
        assert await here.get(SOME) == ("new", "miss")
        assert await here.answers.fetch(WHOLE, "identity", Counts()) is None
        assert await here.get(WHOLE) == ("new", "miss")
        await here.close()
        await there.close()

    asyncio.run(scenario())


def test_a_read_that_began_before_what_was_shown_meanwhile_is_done_again(redis_url: str, engine: Engine) -> None:
    async def scenario() -> None:
        here = Level(redis_url, engine, threads=2)
        here.attempted_at = NOON
        is_reading, may_end = threading.Event(), threading.Event()

        def wait() -> None:
            here.meanwhile = lambda: None
            is_reading.set()
            assert may_end.wait(10)

        here.meanwhile = wait
        slow = asyncio.create_task(here.get(WHOLE))
        assert await asyncio.to_thread(is_reading.wait, 10)
        _commit(here)
        assert await here.get(SOME) == ("new", "miss")
        may_end.set()
        assert await slow == ("new", "miss")
        await here.close()

    asyncio.run(scenario())


def test_a_time_that_goes_back_in_the_database_holds_after_a_few_reads(redis_url: str, engine: Engine) -> None:
    """Such as one of a clock that was wrong: it must not have every request read for ever."""

    async def scenario() -> None:
        here = Level(redis_url, engine)
        await _shown_before(here)
        here.value, here.attempted_at = "put right", NOON - timedelta(days=1)
        assert await here.get(SOME) == ("put right", "miss")
        assert await here.get(SOME) == ("put right", "l1")
        await here.close()

    asyncio.run(scenario())


def test_an_answer_read_before_redis_lost_its_memory_is_not_kept_there(redis_url: str, engine: Engine) -> None:
    settings = fakes.settings("postgresql://nowhere/none", redis_url)

    async def scenario() -> None:
        here, there = Level(redis_url, engine), Level(redis_url, engine)
        for _ in range(3):
            purger(settings).purge({"account:1"})

        def flush() -> None:
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()

        here.meanwhile = flush
        assert await here.get() == ("old", "miss")
        there.value = "new"
        purger(settings).purge({"account:1"})
        assert await there.get() == ("new", "miss")
        await here.close()
        await there.close()

    asyncio.run(scenario())


def test_a_purge_ends_what_it_names_and_nothing_else(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    with transaction(engine) as conn:
        one, two = add_account(conn, "x/one"), add_account(conn, "x/two")
    paths = {name: f"/api/history/x/{name}" for name in ("one", "two")}
    for path in paths.values():
        api.get(path)
    with transaction(engine) as conn:
        keep(conn, one, 1)
        keep(conn, two, 2)
    purger(fakes.settings(database_url, redis_url)).purge({f"account:{one}"})
    wait_for(lambda: api.get(paths["one"]).json["followers"][-1] == 1, "the new number")
    assert api.get(paths["two"]).headers["x-cache"] == "l1"
    assert api.get(paths["two"]).json["followers"][-1] is None


def test_accounts_that_nothing_can_read_any_more_say_so_at_once(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/one")
    assert api.get("/api/accounts/x/one").json["status"] == "never"
    assert api.get("/api/history/x/one").json["account"]["status"] == "never"
    settings = fakes.settings(database_url, redis_url)
    with redis.Redis.from_url(redis_url) as client:
        planner = Planner(settings, engine, make_celery(settings), purger(settings), Slots(client))
        planner.explain(datetime.now(UTC))

    wait_for(lambda: api.get("/api/accounts/x/one").json["status"] == "blocked", "the account to say so")
    wait_for(lambda: api.get("/api/history/x/one").json["account"]["status"] == "blocked", "the history to say so")


def test_a_refused_request_is_not_remembered(api: InProcess) -> None:
    for _ in range(2):
        answer = api.get("/api/summary?page=99")
        assert answer.status_code == 400
        assert "x-cache" not in answer.headers


def test_hits_stay_fast_while_the_database_is_slow(database_url: str, redis_url: str, engine: Engine) -> None:
    """Every thread and connection waits for a lock; what the caches hold is answered all the same."""
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    settings = fakes.settings(database_url, redis_url, READ_THREADS="2")
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        api.get("/api/summary")
        api.get("/")
        with in_process(settings) as other:
            other.get("/api/accounts")  # in Redis, but not in the memory of `api`
        with engine.connect() as blocker, ThreadPoolExecutor(6) as clients:
            blocker.execute(text("LOCK TABLE dim_account IN ACCESS EXCLUSIVE MODE"))
            stuck = [clients.submit(api.get, f"/api/summary?per_page={n}") for n in range(1, 7)]
            wait_for(lambda: _waiting(engine) == 2, "two reads to wait for the lock")
            for path, level in (("/api/summary", "l1"), ("/api/accounts", "l2"), ("/", "l1")):
                answer = api.get(path)
                assert (answer.status_code, answer.headers["x-cache"]) == (200, level)
            assert api.get("/healthz").status_code == 200
            ready = api.get("/readyz")
            assert (ready.status_code, ready.json["database"]) == (200, "ok")
            assert not any(one.done() for one in stuck), "the hits were answered while all others waited"
            blocker.rollback()
            assert [one.result().status_code for one in stuck] == [200] * 6


def _waiting(engine: Engine) -> int:
    with engine.connect() as conn:
        return int(conn.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one())


def test_a_crowd_that_asks_for_the_same_makes_few_reads(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    with engine.connect() as blocker, ThreadPoolExecutor(20) as clients:
        blocker.execute(text("LOCK TABLE dim_account IN ACCESS EXCLUSIVE MODE"))
        crowd = [clients.submit(api.get, "/api/summary") for _ in range(20)]
        wait_for(lambda: _waiting(engine) == 1, "the one read that waits for the lock")
        blocker.rollback()
        levels = [one.result().headers["x-cache"] for one in crowd]
    assert set(levels) <= {"miss", "l1"}
    assert _waiting(engine) == 0


def test_without_redis_the_api_serves_the_truth_and_recovers_by_itself(
    database_url: str, engine: Engine, tmp_path: Path
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 1)
    server = start_redis(tmp_path / "redis")
    settings = fakes.settings(database_url, server.url)
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        assert api.get("/api/summary").json["items"][0]["followers"] == 1
        assert api.get("/api/summary").headers["x-cache"] == "l1"
        server.stop()
        wait_for(lambda: api.get("/readyz").json["purge_listener"] == "down", "the listener to notice")
        state = api.get("/readyz")
        assert (state.status_code, state.json["database"], state.json["cache"]) == (200, "ok", "down")
        with transaction(engine) as conn:
            keep(conn, key, 2)
        # No purge can be heard: what is in memory is given out for DEAF_S, and no longer.
        since = time.monotonic()
        levels = []
        while time.monotonic() < since + 2 * DEAF_S:
            answer = api.get("/api/summary")
            levels.append(answer.headers["x-cache"])
            assert answer.json["items"][0]["followers"] == 2 or time.monotonic() < since + DEAF_S
        assert levels.count("l1") > len(levels) / 2, "the database is spared"
        assert 2 <= levels.count("miss") < 10
        server = start_redis(tmp_path / "redis")
        try:
            api.wait_until_it_hears_purges()
            with transaction(engine) as conn:
                keep(conn, key, 3)
            purger(settings).purge({"summary"})
            wait_for(lambda: api.get("/api/summary").json["items"][0]["followers"] == 3, "the purge to arrive")
            wait_for(lambda: api.get("/api/summary").headers["x-cache"] == "l1", "memory to be used again")
            wait_for(
                lambda: api.get("/api/accounts?per_page=9").headers["x-cache"] == "l1", "memory to be used again"
            )
        finally:
            server.stop()


def test_what_redis_kept_while_purges_were_lost_is_not_trusted_when_it_is_back(
    engine: Engine, tmp_path: Path
) -> None:
    """Redis keeps its answers over a restart; a purge that was sent meanwhile it has never heard of."""

    async def scenario() -> None:
        server = start_redis(tmp_path / "redis")
        here, there = Level(server.url, engine), Level(server.url, engine)
        assert await here.get() == ("old", "miss")
        assert await there.get() == ("old", "l2")
        server.stop()
        here.value = there.value = "new"
        purger(fakes.settings("postgresql://nowhere/none", server.url)).purge({"account:1"})
        for level in (here, there):
            level.purges.purge(["account:1"])
        assert await here.get() == ("new", "miss")
        server = start_redis(tmp_path / "redis")
        try:
            await asyncio.sleep(shared.PAUSE_S)
            third = Level(server.url, engine)
            third.value = "new"
            here.purges.purge(["account:1"])  # its memory is out of the way
            assert await here.get() == ("new", "miss")
            assert await third.get() == ("new", "l2")
            await third.close()
        finally:
            for level in (here, there):
                await level.close()
            server.stop()

    asyncio.run(scenario())


def test_what_redis_missed_it_hears_with_the_next_purge(engine: Engine, tmp_path: Path) -> None:
    async def scenario() -> None:
        server = start_redis(tmp_path / "redis")
        here = Level(server.url, engine)
        purge = purger(fakes.settings("postgresql://nowhere/none", server.url)).purge
        assert await here.get() == ("old", "miss")
        server.stop()
        purge({"account:1"})
        server = start_redis(tmp_path / "redis")
        try:
            purge({"account:2"})
            fresh = Level(server.url, engine)
            fresh.value = "new"
            assert await fresh.get() == ("new", "miss")
            await fresh.close()
        finally:
            await here.close()
            server.stop()

    asyncio.run(scenario())


def test_while_redis_is_gone_purges_reach_memory_by_another_broker(
    database_url: str, engine: Engine, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 1)
    server = start_redis(tmp_path / "redis")
    settings = fakes.settings(database_url, server.url, BROKER_URL=rabbitmq.url)
    path = "/api/history/x/agency"
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        api.get(path)
        server.stop()
        assert api.get(path).headers["x-cache"] == "l1", "purges can be heard"
        with transaction(engine) as conn:
            keep(conn, key, 2)
        purger(settings).purge({f"account:{key}"})
        wait_for(lambda: api.get(path).json["followers"][-1] == 2, "the purge")
        state = api.get("/readyz").json
        assert (state["cache"], state["purge_listener"], state["status"]) == ("down", "ok", "ready")


def test_a_process_that_died_while_reading_for_all_is_waited_for_as_long_as_its_flight(
    redis_url: str, engine: Engine
) -> None:
    async def scenario() -> None:
        here = Level(redis_url, engine)
        await here.redis.set(shared.FLIGHT_KEY + KEY.digest, "somebody who died", px=700)
        began = time.monotonic()
        assert await here.get() == ("old", "miss")
        assert time.monotonic() - began > 0.6
        await here.close()

    asyncio.run(scenario())


def test_a_read_that_fails_lets_the_next_process_read_at_once(redis_url: str, engine: Engine) -> None:
    def fail() -> None:
        raise RuntimeError("no answer today")

    async def scenario() -> None:
        here, there = Level(redis_url, engine), Level(redis_url, engine)
        here.meanwhile = fail
        with pytest.raises(RuntimeError):
            await here.get()
        assert await here.redis.exists(shared.FLIGHT_KEY + KEY.digest) == 0
        assert await there.get() == ("old", "miss")
        await here.close()
        await there.close()

    asyncio.run(scenario())


def test_a_redis_that_hangs_is_left_alone_for_a_while() -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    async def scenario(port: int) -> list[bool]:
        clock = Clock()
        cache = Shared(shared.connect(f"redis://127.0.0.1:{port}/0"), clock=clock)
        asked = []
        for now in (0.0, 0.1, shared.PAUSE_S - 0.1, shared.PAUSE_S + 0.1):
            clock.now = now
            before = len(connections)
            assert await cache.look(KEY, "identity") == Found()
            asked.append(len(connections) > before)
        await cache.close()
        return asked

    connections: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connections.append(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=[listener])
        thread.start()
        assert asyncio.run(scenario(listener.getsockname()[1])) == [True, False, False, True]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in connections:
        connection.close()


def test_a_commit_and_its_purge_reach_every_gunicorn_worker_and_the_old_number_never_comes_back(
    database_url: str, redis_url: str, broker_url: str, engine: Engine, tmp_path: Path
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 0)
    purge = purger(fakes.settings(database_url, redis_url, BROKER_URL=broker_url)).purge
    with gunicorn(database_url, redis_url, tmp_path, workers=2, BROKER_URL=broker_url) as server:
        workers = server.workers
        assert len(workers) == 2

        def shown(worker: int) -> int:
            summary = server.json("/api/summary", worker)["items"][0]["followers"]
            history = server.json("/api/history/x/agency", worker)["followers"][-1]
            return int(min(summary, history))

        for number in range(1, 11):
            for worker in workers:  # the number before is in both memories, and in Redis
                assert shown(worker) == number - 1
                assert server.get("/api/summary", worker)[1]["x-cache"] == "l1"
            with transaction(engine) as conn:
                keep(conn, key, number)
            purge({f"account:{key}", "summary", "accounts"})
            for worker in workers:
                wait_for(lambda worker=worker, number=number: shown(worker) == number, f"{number} in each worker", 30)


def test_numbers_only_ever_go_forward_while_commits_and_reads_race(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 0)
    purge = purger(fakes.settings(database_url, redis_url)).purge
    committed = threading.Event()

    def watch(path: str) -> list[int]:
        seen = []
        while not committed.is_set() or len(seen) <= 10:
            answer = api.get(path).json
            seen.append(answer["items"][0]["followers"] if "items" in answer else answer["followers"][-1])
        return seen

    paths = ["/api/summary", "/api/summary?per_page=7", "/api/history/x/agency"]
    with ThreadPoolExecutor(len(paths)) as watchers:
        watching = [watchers.submit(watch, path) for path in paths]
        for number in range(1, 61):
            with transaction(engine) as conn:
                keep(conn, key, number)
            purge({f"account:{key}", "summary"})
        committed.set()
        for one in watching:
            seen = one.result()
            assert seen == sorted(seen), "an older number came back"
    for path in paths:
        wait_for(lambda path=path: str(60) in api.get(path).text, "the last number")


def test_gunicorn_stops_within_seconds_and_leaves_nothing(database_url: str, redis_url: str, tmp_path: Path) -> None:
    with gunicorn(database_url, redis_url, tmp_path, workers=2, HOME=str(tmp_path)) as server:
        workers = server.workers
        assert server.get("/healthz")[0] == 200
        server.process.terminate()
        assert server.process.wait(8) == 0
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers to go", 2)
    assert not list(tmp_path.glob(".gunicorn/*")), "no control socket"
    assert "Traceback" not in (tmp_path / "api.log").read_text()
