"""Costs as counts that don't depend on the machine's speed: statements, rows, bytes, calls, round trips, allocations.

Each area is a function that returns its counts by name. All but `answers` is the same at any time of the day; that one
follows the clock's day, which its data is made for.
"""

import gc
import json
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest import mock

import urllib3
from msgspec import Struct, structs
from redis import Redis
from sqlalchemy import event, text

from api.cache import shared
from api.cache.shared import VALUE_KEY
from db import derived, reads
from db.engine import Connection, Engine, make_engine, reading, transaction
from db.keyset import Order, Window
from db.reads import AccountSummary, Clock, Filters
from db.standing import StaleAfter
from deploy.simulator.server import Simulator
from pipeline.app import make_celery
from pipeline.messages import Purger
from pipeline.outbox import Outbox
from pipeline.plan import Planner
from pipeline.platforms import Client, Reader
from pipeline.records import Account, Kind, Page, Post, Posts, Profile
from pipeline.slots import NEXT_KEY, Slots
from tests import fakes
from tests.contract.playback import READERS
from tests.jobs import claimed, listed
from tests.serving import PATIENCE_S, InProcess, in_process, wait_for
from workers.allowance import SharedAllowance, Slot, TaskAllowance
from workers.clients import make_clients
from workers.pauses import Pauses
from workers.platforms.x import X
from workers.scrape import Deps, run_job
from workers.turn import Turn

# Few enough rows that PostgreSQL looks at all of them when it analyses a table: the plans are the same each time.
ACCOUNTS = 400
DAYS = 60
_FILL = """
    INSERT INTO dim_account (platform, handle, external_id, url, org_name, is_core_account)
    SELECT (ARRAY['x', 'youtube', 'bluesky', 'reddit'])[1 + n % 4], 'h' || n, 'id' || n, 'https://x.example/' || n,
        'org' || n % 20, n % 50 = 0
    FROM generate_series(1, :accounts) AS n;
    INSERT INTO account_handle (account_key, handle) SELECT account_key, handle FROM dim_account;
    INSERT INTO scrape_state (account_key, subject, platform, kind, next_due_at, result, last_attempt_at, last_success_at)
    SELECT account_key, subject, platform, CASE subject WHEN 'posts' THEN 'posts' ELSE 'profiles' END,
        CAST(:today AS date) + 2, 'ok', CAST(:today AS date), CAST(:today AS date)
    FROM dim_account, unnest(ARRAY['profile', 'posts']) AS subject;
    INSERT INTO fact_followers_snapshot (account_key, snapshot_date, followers, captured_at, source, precision)
    SELECT account_key, CAST(:today AS date) - ago, 100000 + 7 * account_key - ago, CAST(:today AS date) - ago, 'live', 'exact'
    FROM dim_account, generate_series(0, :days - 1) AS ago;
    INSERT INTO fact_social_post (account_key, post_id, url, published_at, post_type, text, likes, read_at, source)
    SELECT account_key, 'p' || n, 'https://x.example/p', CAST(:today AS date) - n, 'post', 'Words', n, CAST(:today AS date), 'live'
    FROM dim_account, generate_series(1, 20) AS n;
    INSERT INTO scrape_job (job_id, platform, kind, lane, state, accounts, lease_until, created_at, finished_at)
    SELECT lpad(n::text, 32, '0')::uuid, 'x', 'profiles', 'core', 'succeeded', ARRAY[n], CAST(:today AS date),
        CAST(:today AS date) - n * interval '1 minute', CAST(:today AS date)
    FROM generate_series(1, 2000) AS n;
"""
# Each is asked of a process that has answered none of its kind before. A page keeps parts of it apart, which go to Redis
# together or not, as it comes: it stands last, and what it says to Redis isn't counted.
PATHS = (
    "/api/summary",
    "/api/summary?platform=x&sort=-followers",
    "/api/summary?q=h12",
    "/api/accounts/x/h40",
    "/api/history/x/h40",
    "/api/totals?group=day",
    "/api/grid",
    "/api/movers",
    "/api/posts/x/h40",
    "/api/jobs",
    "/",
)
# Whose machine is busy counts the same.
_PATIENT = {"API_TIMEOUT_S": "600", "CACHE_MEMORY_S": "600", "DB_READ_TIMEOUT_S": "600", "LOG_LEVEL": "error"}
_BATCH = 100
_POSTS = 20
_HITS = 200


class Count(Struct, frozen=True):
    """A number of things. `follows_python`: another version of Python has another."""

    value: float
    unit: str
    follows_python: bool = False


Counts = dict[str, Count]


def answers(database_url: str, redis_url: str) -> Counts:
    """Count what the answers of the API cost: made, from Redis, from memory."""
    with closing(Redis.from_url(redis_url)) as redis:
        while True:
            redis.flushall()
            today = datetime.now(UTC).date()
            engine = make_engine(database_url, application_name="counting")
            try:
                _fill(engine, today)
                found = _answers(engine, database_url, redis_url)
                with transaction(engine) as conn:
                    conn.execute(text("TRUNCATE dim_account, scrape_job RESTART IDENTITY CASCADE"))
            finally:
                engine.dispose()
            if datetime.now(UTC).date() == today:  # else the data was a day old for some of them
                return found


def _fill(engine: Engine, today: date) -> None:
    with transaction(engine) as conn:
        _keep_in_one_partition(conn, today)
        conn.execute(text(_FILL), {"accounts": ACCOUNTS, "days": DAYS, "today": today})
        derived.rederive(conn, list(conn.scalars(text("SELECT account_key FROM dim_account ORDER BY account_key"))))
        derived.recount(conn)
    with reading(engine) as conn:
        conn.execute(text("VACUUM (FREEZE, ANALYZE)"))


def _keep_in_one_partition(conn: Connection, today: date) -> None:
    """Make a partition for all that is counted: else plans would change where the year turns."""
    for name in conn.scalars(text(_PARTITIONS)).all():
        conn.execute(text(f"DROP TABLE {name}"))
    span = {"first": today - timedelta(days=400), "after": today + timedelta(days=400)}
    made = "CREATE TABLE counted PARTITION OF fact_followers_snapshot FOR VALUES FROM ('{first}') TO ('{after}')"
    conn.execute(text(made.format_map(span)))


_PARTITIONS = """
    SELECT inhrelid::regclass::text FROM pg_inherits
    WHERE inhparent = 'fact_followers_snapshot'::regclass AND inhrelid <> 'fact_followers_snapshot_default'::regclass
"""


def _answers(engine: Engine, database_url: str, redis_url: str) -> Counts:
    found: Counts = {}
    settings = fakes.settings(database_url, redis_url, **_PATIENT)
    with (
        mock.patch.object(shared, "TIMEOUT_S", PATIENCE_S),
        in_process(settings) as api,
        in_process(settings) as another,
        _Heard(redis_url) as heard,
    ):
        for one in (api, another):
            one.wait_until_it_hears_purges()
        api.get("/api/accounts/x/h8")
        heard.until_kept()  # Redis knows the scripts now
        for path in PATHS:
            with sent(api.engine) as statements:
                made = api.get(path, Accept_Encoding="identity")
            assert made.status_code == 200, (path, made.text)
            found[f"{path}: statements"] = Count(len(statements), "statements")
            found[f"{path}: rows"] = Count(_rows(engine, statements), "rows")
            found[f"{path}: bytes"] = Count(len(made.content), "bytes")
            if path == "/" or made.headers.get("x-cache") != "miss":
                continue
            found[f"{path}: Redis, made"] = Count(len(heard.until_kept()), "commands")
            if path == "/api/summary":
                assert another.get(path, Accept_Encoding="identity").headers["x-cache"] == "l2"
                found["from Redis: Redis"] = Count(len(heard.until_now(VALUE_KEY)), "commands")
                assert api.get(path, Accept_Encoding="identity").headers["x-cache"] == "l1"
                found["from memory: Redis"] = Count(len(heard.until_now(VALUE_KEY)), "commands")
                found["from memory: Python"] = Count(_hit(api, path), "calls", follows_python=True)
    return found


# What keeps a connection, as time goes by, and what is asked here.
_UPKEEP = ("AUTH", "CLIENT", "EXISTS", "HELLO", "PING", "SELECT")


class _Heard:
    """What Redis is told, by its own account; what its scripts say among themselves is no round trip."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url)
        self._monitor = self._redis.monitor()
        self._marks = 0

    def __enter__(self) -> "_Heard":
        self._monitor.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.__exit__(None, None, None)
        self._redis.close()

    def until_now(self, about: str = "") -> list[str]:
        """Return the commands that came since this was asked last, those in which this stands."""
        self._marks += 1
        mark = f"mark{self._marks}"
        self._redis.echo(mark)
        found = []
        while mark not in (said := self._monitor.next_command())["command"]:
            command = said["command"]
            if about in command and said["client_type"] != "lua" and command.split()[0] not in _UPKEEP:
                found.append(command)
        return found

    def until_kept(self) -> list[str]:
        """Return those about the answer to the last request, once it is kept, which nobody waits for."""
        commands = self.until_now(VALUE_KEY)
        name = next(word for word in commands[0].split() if VALUE_KEY in word)
        wait_for(lambda: self._redis.exists(name), "the answer in Redis")
        return commands + self.until_now(VALUE_KEY)


def _hit(api: InProcess, path: str) -> float:
    """Return the calls of Python functions that an answer from memory takes, the server's excepted."""

    async def hits(count: int) -> int:
        front = api.app.front
        assert front is not None
        calls = 0

        def note(_frame: Any, what: str, _arg: Any) -> None:
            nonlocal calls
            calls += what in ("call", "c_call")

        sys.setprofile(note)
        try:
            for _ in range(count):
                question = front.understand("GET", path, b"", headers, "127.0.0.1")
                assert question is not None
                assert front.give(question, "127.0.0.1", time.perf_counter()) is not None
        finally:
            sys.setprofile(None)
        return calls

    headers = [(b"accept-encoding", b"identity")]
    api.get(path, Accept_Encoding="identity")
    api._do(hits(_HITS))  # what comes once has come
    return round(api._do(hits(_HITS)) / _HITS, 1)


def jobs(database_url: str, redis_url: str) -> Counts:
    """Count what a job and a tick of the planner cost the database and Redis."""
    found: Counts = {}
    with closing(Redis.from_url(redis_url)) as redis:
        redis.flushall()
    engine = make_engine(database_url, pool_size=1, max_overflow=0, application_name="counting")
    try:
        with _Room(engine, database_url, redis_url) as room:
            for kind, batch in (("profiles", _BATCH), ("posts", 1)):
                for _ in range(2):  # the first makes connections, and reads each account for the first time
                    room.make_due(kind, batch)
                    cost = room.cost(room.worker(kind, batch))
                found |= {f"a job of {kind}: {what}": count for what, count in cost.items()}
            for name, due in (("a tick with accounts due", _BATCH), ("a tick with nothing due", 0)):
                for _ in range(2):
                    room.make_due("profiles", due)
                    cost = room.cost(room.tick)
                found |= {f"{name}: {what}": count for what, count in cost.items()}
    finally:
        engine.dispose()
    return found


class _Steady(X):
    """X, with numbers that grow by one with each reading."""

    def __init__(self) -> None:
        self.readings = 0

    def fetch_profiles(self, accounts: Sequence[Account], http: Any) -> Page:
        self.readings += 1
        return Page(200, {}, None, fakes.NOON)

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile]:
        for one in accounts:
            yield Profile(
                account_key=one.account_key,
                external_id=f"id-{one.account_key}",
                handle=one.handle,
                followers=10_000 + self.readings,
            )

    def fetch_posts(self, account: Account, http: Any, cursor: str | None) -> Page:
        return self.fetch_profiles([account], http)

    def parse_posts(self, page: Page, account: Account) -> Posts:
        return Posts(
            account_key=account.account_key,
            posts=tuple(
                Post(
                    post_id=f"{number}",
                    url=f"https://x.example/{number}",
                    published_at=fakes.NOON - timedelta(hours=number),
                    post_type="post",
                    text="Words",
                    likes=number + self.readings,
                )
                for number in range(_POSTS)
            ),
        )


class _Room:
    """What a worker and the planner have, at one moment of a day that each reading moves on."""

    def __init__(self, engine: Engine, database_url: str, redis_url: str) -> None:
        redis = Redis.from_url(redis_url)
        settings = fakes.settings(database_url, redis_url, SIMULATOR_URL="http://127.0.0.1:9")
        celery = make_celery(settings)
        allowance = SharedAllowance(redis)
        platform = _Steady()
        self._engine = engine
        self._redis = redis
        self._heard = _Heard(redis_url)
        self.now = fakes.NOON
        self._deps = Deps(
            settings=settings,
            engine=engine,
            celery=celery,
            platform=platform,
            pauses=Pauses(engine, platform, ["1"], allowance),
            purger=Purger(celery, redis),
            outbox=Outbox(celery, engine, "worker"),
            clients={"1": lambda heed: fakes.NOON},  # nobody asks it anything
            now=lambda: self.now,
        )
        self._allowance = allowance
        self._planner = Planner(settings, engine, celery, Purger(celery, redis), Slots(redis))
        with transaction(engine) as conn:
            _keep_in_one_partition(conn, fakes.NOON.date())
            listed(conn, *(f"agency{number}" for number in range(_BATCH)))

    def __enter__(self) -> "_Room":
        self._heard.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.__exit__()
        self._redis.close()

    def make_due(self, kind: Kind, count: int) -> None:
        """Let a day pass, after which calls of this kind are due for so many accounts, and every slot is open."""
        self.now += timedelta(days=1)
        if slots := list(self._redis.scan_iter(f"{NEXT_KEY}*")):
            self._redis.delete(*slots)
        with transaction(self._engine) as conn:
            conn.execute(text("DELETE FROM scrape_job"))
            conn.execute(
                text(
                    "UPDATE scrape_state SET job_id = NULL, next_due_at = CASE WHEN kind = :kind AND account_key IN"
                    " (SELECT account_key FROM dim_account ORDER BY account_key LIMIT :count) THEN CAST(:now AS timestamptz)"
                    " ELSE 'infinity' END"
                ),
                {"kind": kind, "count": count, "now": self.now},
            )
        with reading(self._engine) as conn:
            conn.execute(text("VACUUM (FREEZE, ANALYZE)"))

    def worker(self, kind: Kind, batch: int) -> Callable[[], None]:
        """Return what does one job of so many accounts, as a worker that has a slot for it."""
        with transaction(self._engine) as conn:
            job = claimed(conn, kind=kind, batch=batch, now=self.now)
        assert job is not None and len(job.accounts) == batch
        task = TaskAllowance(
            self._allowance,
            task=f"scrape.x.{kind}",
            platform=self._deps.platform,
            credentials=("1",),
            rate="2/s",
            space_s=0.5,
            requests=1,
        )
        return lambda: run_job(job.job_id, self._deps, Turn(task, Slot("1", 0)))

    def tick(self) -> None:
        self._planner.tick(self.now)

    def cost(self, work: Callable[[], None]) -> Counts:
        rows = self._touched()
        commits: list[None] = []
        event.listen(self._engine, "commit", note := lambda _conn: commits.append(None))
        self._heard.until_now()
        with sent(self._engine) as statements:
            work()
        commands = self._heard.until_now()
        event.remove(self._engine, "commit", note)
        touched = self._touched() - rows
        return {
            "statements": Count(len(statements), "statements"),
            "commits": Count(len(commits), "commits"),
            "rows read": Count(touched["read"], "rows"),
            "rows written": Count(touched["written"], "rows"),
            "Redis": Count(len(commands), "commands"),
        }

    def _touched(self) -> "Counter[str]":
        """Return the rows that sessions have read and written so far, of whatever table."""
        with self._engine.connect() as conn:  # the only one there is: it has noted what it did
            conn.execute(text("SELECT pg_stat_force_next_flush()"))
            conn.commit()
            row = conn.execute(text(_TOUCHED)).one()
            return Counter({"read": int(row.read), "written": int(row.written)})


_TOUCHED = """
    SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) AS read,
        coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) AS written
    FROM pg_stat_user_tables
"""


def memory(database_url: str) -> Counts:
    """Count the bytes that a page of a list and a batch's answer take while they are made, at the most."""
    now = datetime.now(UTC)
    engine = make_engine(database_url, application_name="counting")
    clock = Clock(now, StaleAfter(interval_s=86_400, after_s=93_600))
    names = AccountSummary.__struct_fields__
    try:
        _fill(engine, now.date())
        with reading(engine) as conn:
            page = _most_bytes(lambda: reads.part(conn, names, Filters(), Order(), Window(limit=50), clock))
            year = _most_bytes(lambda: reads.days(conn, 1, now.date() - timedelta(days=DAYS), now.date()))
    finally:
        engine.dispose()
    with Simulator(port=0) as simulator:
        accounts = _accounts("x", _BATCH)
        answer = READERS["x"].fetch_resolve(accounts, _client("x", simulator))
        batch = _most_bytes(lambda: list(READERS["x"].parse_resolve(answer, accounts)))
    return {
        "a page of a list: memory": Count(page, "bytes of memory", follows_python=True),
        "an account's days: memory": Count(year, "bytes of memory", follows_python=True),
        "a batch's answer read: memory": Count(batch, "bytes of memory", follows_python=True),
    }


def disk(database_url: str) -> Counts:
    """Count the bytes that a row takes of PostgreSQL's disk, indexes included."""
    engine = make_engine(database_url, application_name="counting")
    try:
        _fill(engine, datetime.now(UTC).date())
        with reading(engine) as conn:
            sizes = {
                name: conn.execute(
                    text(f"SELECT pg_total_relation_size('{table}') / count(*) FROM {table}")
                ).scalar_one()
                for name, table in (("numbers of a day", "counted"), ("a post", "fact_social_post"))
            }
    finally:
        engine.dispose()
    return {f"{name}: disk": Count(size, "bytes on disk") for name, size in sizes.items()}


def _most_bytes(work: Callable[[], object]) -> int:
    """Return the most that Python's objects take meanwhile, in the turn that nothing else disturbs."""
    for _ in range(3):
        work()  # what is made once has been made by then
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        return min(_peak(work) for _ in range(5))
    finally:
        tracemalloc.stop()
        gc.enable()


def _peak(work: Callable[[], object]) -> int:
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    work()
    return tracemalloc.get_traced_memory()[1] - before


def calls() -> Counts:
    """Count the requests that reading a thousand accounts takes, in calls as large as the platform's."""
    found: Counts = {}
    with Simulator(port=0) as simulator, closing(_Asker(simulator.url)) as asker:
        for name, reader in READERS.items():
            http = _client(name, simulator)
            for kind in reader.calls:
                accounts = _accounts(name, reader.calls[kind].batch)
                if kind != "resolve" and "resolve" in reader.calls:
                    accounts = _by_id(name, accounts, http)
                _call(reader, kind, accounts, http)  # an access token is fetched once
                before = asker.requests(name)
                _call(reader, kind, accounts, http)
                per_1000 = (asker.requests(name) - before) * 1_000 / len(accounts)
                found[f"{name}: {kind}"] = Count(per_1000, "requests per 1,000 accounts")
    return found


def _client(name: str, simulator: Simulator) -> Client:
    settings = fakes.settings("postgresql://nowhere", "redis://nowhere", SIMULATOR_URL=simulator.url)
    return make_clients(settings, READERS[name])["1"](lambda allowance: None)


class _Asker:
    """Asks the simulator what it was asked."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool = urllib3.PoolManager(retries=False, timeout=60)

    def close(self) -> None:
        self._pool.clear()

    def requests(self, name: str) -> int:
        state = self._pool.request("GET", f"{self._url}/_simulator/state").json()
        return sum(state["requests"][name].values())


def _call(reader: Reader, kind: Kind, accounts: Sequence[Account], http: Client) -> None:
    if kind == "posts":
        reader.fetch_posts(accounts[0], http, None)
    elif kind == "resolve":
        reader.fetch_resolve(accounts, http)
    else:
        reader.fetch_profiles(accounts, http)


def _accounts(name: str, count: int) -> list[Account]:
    host = "social.example" if name == "mastodon" else ""
    handles = [f"river{number}" if name != "bluesky" else f"river{number}.example" for number in range(count)]
    return [
        Account(key, name, handle, READERS[name].profile_url(handle, host), host)
        for key, handle in enumerate(handles, 1)
    ]


def _by_id(name: str, accounts: Sequence[Account], http: Client) -> list[Account]:
    reader, size = READERS[name], READERS[name].calls["resolve"].batch
    found = {}
    for begin in range(0, len(accounts), size):
        some = accounts[begin : begin + size]
        for one in reader.parse_resolve(reader.fetch_resolve(some, http), some):
            assert isinstance(one, Profile), (name, one)
            found[one.account_key] = one.external_id
    return [structs.replace(account, external_id=found[account.account_key]) for account in accounts]


@contextmanager
def sent(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """Note what is sent to the database within the block, with the values."""
    found: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
        found.append((sql, values))

    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


def _rows(engine: Engine, statements: Sequence[tuple[str, Any]]) -> int:
    """Return how many rows of tables these statements read, those included that they throw away."""
    read = 0.0
    with reading(engine) as conn:
        cursor: Any = conn.connection.driver_connection
        with cursor.cursor() as plans:
            for sql, values in statements:
                plans.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values)
                read += sum(map(_read, nodes(json.loads(json.dumps(plans.fetchone()[0]))[0]["Plan"])))
    return round(read)


def _read(node: Mapping[str, Any]) -> float:
    if "Relation Name" not in node:
        return 0.0
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every step of a plan as `EXPLAIN (FORMAT JSON)` tells it."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
