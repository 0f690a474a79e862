"""Metrics: what a message costs the recorder, if it keeps up, what counting costs a request, and a month a reader."""

import asyncio
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import psutil
from msgspec import Struct
from sqlalchemy import text

from api.cache.stats import Stats
from api.cache.threads import Threads
from api.counting import Counting
from api.performance import Limits, window
from db import metrics
from db.engine import Engine, reading, transaction
from db.metrics import Counted, Sample
from pipeline import platforms
from pipeline.app import make_celery
from pipeline.lanes import PLANNED
from pipeline.messages import publish_counted, receive_metrics
from pipeline.metrics import (
    ACCOUNTS,
    CACHE_ANSWERS,
    CACHE_LEFT,
    CACHE_PURGES,
    CALL_TIME,
    CALLS,
    JOBS,
    LEFT,
    READ_WAIT,
    REQUEST_TIME,
    REQUESTS,
    RETRIES,
    Times,
)
from pipeline.settings import Settings
from tests.performance import served
from tests.performance.machine import Machine, cpu_s, machine, wait
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds

PER_S = 1_000
MOST_BEHIND_S = 3.0
WORKERS = 20
# Messages go out so often: none of a second waits for the next.
TICKS_PER_S = 20
ENDPOINTS = 30
CACHED = 12


class Size(Struct, frozen=True):
    """How much is done: messages at a time, seconds of a stream, requests counted, and `days` of a record that is read."""

    rounds: Rounds = Rounds(3, 9)
    messages: int = 5_000
    stream_s: int = 30
    requests: int = 20_000
    days: int = 30
    rounds_of_a_month: int = 3
    reads: int = 100
    asked: int = 500


QUICK = Size(
    rounds=Rounds(1, 1), messages=500, stream_s=5, requests=2_000, days=5, rounds_of_a_month=1, reads=20, asked=50
)


class Taken(Struct, frozen=True):
    """What taking so many messages took: the recorder's own CPU, and the time from the first to the last."""

    cpu_s: float
    seconds: float


def run(*, quick: bool = False) -> Iterator[Chapter]:
    """Measure, and yield each chapter as it is found."""
    size = QUICK if quick else Size()
    yield _counting(size)
    with machine() as running:
        yield _recorder(running, size)
        yield _stream(running, size.stream_s)
        yield _month(running, size)


def _recorder(running: Machine, size: Size) -> Chapter:
    """Compare the recorder with one that only takes and acknowledges the same messages, in turn."""
    settings = running.settings()
    bare, whole = list[Taken](), list[Taken]()

    def ratios() -> list[Line]:
        shares = [mine.cpu_s / other.cpu_s for mine, other in zip(whole, bare, strict=True)]
        return [middle("CPU as a multiple of taking and acknowledging", shares, "times", at_most=1.5)]

    for number in size.rounds.until_steady(ratios):
        found = [_taken(settings, number * 2, size.messages, lambda _: None)]
        found.append(_taken(settings, number * 2 + 1, size.messages, lambda counted: _keep(running.engine, counted)))
        if number:
            bare.append(found[0])
            whole.append(found[1])
    assert _kept(running.engine) == size.messages * (len(whole) + 1), "every message was counted, once"
    return Chapter(
        f"The recorder, {size.messages:,} messages at a time, each of a job",
        [
            *ratios(),
            middle("CPU per message", [1e6 * one.cpu_s / size.messages for one in whole], "µs"),
            middle(
                "messages per second of its CPU",
                [size.messages / one.cpu_s for one in whole],
                "messages/s",
                at_least=PER_S,
            ),
            middle("messages per second", [size.messages / one.seconds for one in whole], "messages/s"),
        ],
        fails_when="each message has a transaction of its own: 3.5 times taking and acknowledging, 335 a second",
    )


def _taken(settings: Settings, sender: int, messages: int, keep: Callable[[Sequence[Counted]], None]) -> Taken:
    celery = make_celery(settings)
    for message in islice(_of_jobs(f"worker-{sender}"), messages):
        publish_counted(celery, message)
    stop = threading.Event()
    left = messages

    def take(counted: Sequence[Counted]) -> bool:
        nonlocal left
        keep(counted)
        left -= len(counted)
        if not left:
            stop.set()  # those in hand are still acknowledged
        return True

    began, cpu_s = time.perf_counter(), time.thread_time()
    receive_metrics(settings.broker, take, stop)
    return Taken(time.thread_time() - cpu_s, time.perf_counter() - began)


def _keep(engine: Engine, counted: Sequence[Counted]) -> None:
    with transaction(engine) as conn:
        metrics.add(conn, counted, oldest=datetime.now(UTC) - timedelta(days=30))


def _kept(engine: Engine) -> float:
    """Return how many of the messages have been counted: each is of one call."""
    with reading(engine) as conn:
        return sum(one.value for one in metrics.totals(conn) if one.name == CALLS.name)


def _of_jobs(sender: str) -> Iterator[Counted]:
    """Yield what workers of all platforms say of their jobs, without end."""
    times = Times()
    times.add(0.25)
    names = list(platforms.load())
    for number in count(1):
        name = names[number % len(names)]
        samples = (
            JOBS.sample(1, name, "profiles", "core", "succeeded"),
            CALLS.sample(1, name, "profiles", "core"),
            CALL_TIME.timed(times, name, "core"),
            ACCOUNTS.sample(25, name, "core", "ok"),
        )
        yield Counted(sender=sender, role="worker", number=number, at=datetime.now(UTC), samples=samples)


def _stream(running: Machine, seconds: int) -> Chapter:
    """Send a recorder as many messages a second as it has to bear, and see how far behind it is each second."""
    recorder = running.start("workers.recorder", log="recorder")
    celery = make_celery(running.settings())
    senders = [_of_jobs(f"stream-{number}") for number in range(WORKERS)]
    before = _kept(running.engine)

    def kept() -> float:
        return _kept(running.engine) - before

    publish_counted(celery, next(senders[0]))
    wait(lambda: kept() == 1, "the recorder's first message")
    began, used_s, sent, behind_s = time.perf_counter(), cpu_s(recorder), 1, list[float]()
    for tick in range(1, seconds * TICKS_PER_S + 1):
        for _ in range(PER_S // TICKS_PER_S):
            publish_counted(celery, next(senders[sent % WORKERS]))
            sent += 1
        if tick % TICKS_PER_S == 0:
            behind_s.append((sent - kept()) / PER_S)
        time.sleep(max(0.0, began + tick / TICKS_PER_S - time.perf_counter()))
    took_s = time.perf_counter() - began
    if behind_s[-1] <= MOST_BEHIND_S:
        wait(lambda: kept() >= sent, "every message in the record")
        assert kept() == sent, "every message was counted, once"
    used_s = cpu_s(recorder) - used_s
    running.end(recorder)
    running.redis.flushall()  # what one that fell behind leaves would be the next recorder's work
    return Chapter(
        f"A recorder that gets {PER_S:,} messages a second for {seconds} s, of {WORKERS} workers",
        [
            Line("messages that came", sent / took_s, "messages/s", at_least=0.98 * PER_S),
            Line("its CPU", used_s / took_s, "cores", at_most=1.0),
            # It writes about once a second.
            middle("what isn't recorded yet, each second", behind_s, "s", at_most=MOST_BEHIND_S),
            Line("at the end", behind_s[-1], "s", at_most=MOST_BEHIND_S),
        ],
        fails_when="each message has a transaction of its own: 26 s behind at the end",
    )


def _counting(size: Size) -> Chapter:
    """Compare counting a request with making the id that each request has."""
    unused: Any = None
    counting = Counting(Stats(), Threads(1), [], unused)
    request: Any = SimpleNamespace(is_warming=False, began=time.perf_counter(), uri_template="/api/summary")
    response: Any = SimpleNamespace(status_code=200)

    async def count() -> None:
        for _ in range(size.requests):
            await counting.process_response(request, response, None, True)

    shares, costs = list[float](), list[float]()

    def lines() -> list[Line]:
        return [
            middle("as a multiple of making its id", shares, "times", at_most=1.0),
            middle("CPU", costs, "µs"),
        ]

    for number in size.rounds.until_steady(lines):
        began = time.thread_time()
        asyncio.run(count())
        counted = time.thread_time() - began
        began = time.thread_time()
        for _ in range(size.requests):
            uuid.uuid4().hex  # noqa: B018
        spent = time.thread_time() - began
        if number:
            shares.append(counted / spent)
            costs.append(1e6 * counted / size.requests)
    return Chapter(
        "Counting a request",
        lines(),
        fails_when="a small JSON is written three times meanwhile: 3.5 times making the id",
    )


def _month(running: Machine, size: Size) -> Chapter:
    """Compare the figures of the last day, with a month behind them, with those of a record that is a day old."""
    settings = running.settings()
    limits = Limits(settings, tuple(platforms.load().values()), {})
    now = datetime.now(UTC)
    # Of its first hour half of the minutes are added up by themselves, as many as ever.
    a_day_ago = (now - timedelta(days=1)).replace(minute=30)

    def figures() -> None:
        with reading(running.engine) as conn:
            total, day = metrics.totals(conn), metrics.lately(conn, a_day_ago)
            lately = metrics.lately(conn, now - timedelta(minutes=5))
        for samples, seconds in ((total, 86_400 * size.days), (day, 86_400), (lately, 300)):
            window(samples, limits, since=now, seconds=seconds)

    cpu_ms = {}
    for days in (1, size.days):
        _generate(running.engine, now, days=days)
        figures()
        cpu_ms[days] = [_cpu_ms(running.engine, figures, size.reads) for _ in range(size.rounds_of_a_month)]
    with reading(running.engine) as conn:
        rows = conn.scalar(text("SELECT (SELECT count(*) FROM metric_minute) + (SELECT count(*) FROM metric_hour)"))
    running.start("workers.recorder", log="recorder")
    api = served.start(running, "api", log="api", WEB_CONCURRENCY="1")
    wait(lambda: b'"unknown":{"queries"' in api.get("/api/performance")[1], "a record that isn't behind")
    asked = _timed_ms(lambda: api.get("/api/performance"), size.asked)
    return Chapter(
        f"/api/performance with a month of rollups of {len(list(_busy_minute()))} series",
        [
            Line("rows of the month", rows / 1e6, "million"),
            # Of the least rounds: what else the machine does only adds.
            Line(
                "CPU of reading and adding up: a month / a day",
                min(cpu_ms[size.days]) / min(cpu_ms[1]),
                "times",
                min(cpu_ms[size.days]) / max(cpu_ms[1]),
                max(cpu_ms[size.days]) / min(cpu_ms[1]),
                at_most=1.25,
            ),
            middle("the same, with as many single minutes as ever", cpu_ms[size.days], "ms"),
            middle("asked of an API process", asked, "ms"),
            Line("its p99", sorted(asked)[math.ceil(size.asked * 0.99) - 1], "ms", at_most=50),
        ],
        fails_when="up to 59 minutes of the day's first hour are added up one by one: a p99 of 72 ms",
    )


def _busy_minute() -> Iterator[Sample]:
    """Yield what a busy fleet counts in a minute: every endpoint is asked, every platform is read and partly fails."""
    times = Times()
    for took_s in (0.0001, 0.0002, 0.004, 0.03, 0.5):
        times.add(took_s)
    for endpoint in (f"/api/{number}" for number in range(ENDPOINTS)):
        yield REQUEST_TIME.timed(times, endpoint)
        yield from (REQUESTS.sample(5, endpoint, status) for status in ("2xx", "3xx", "4xx"))
    for endpoint in (f"/api/{number}" for number in range(CACHED)):
        yield from (CACHE_ANSWERS.sample(5, endpoint, level) for level in ("l1", "l2", "stale", "miss"))
        yield from (CACHE_LEFT.sample(5, endpoint, reason) for reason in LEFT)
    yield from (CACHE_PURGES.sample(5), READ_WAIT.timed(times))
    for platform in platforms.load().values():
        for lane in PLANNED:
            where = (platform.name, lane)
            yield CALL_TIME.timed(times, *where)
            yield from (ACCOUNTS.sample(5, *where, result) for result in ("ok", "failed"))
            yield RETRIES.sample(1, *where)
            for kind in platform.calls:
                yield CALLS.sample(5, platform.name, kind, lane)
                yield from (JOBS.sample(2, platform.name, kind, lane, end) for end in ("succeeded", "partly_failed"))


def _generate(engine: Engine, now: datetime, *, days: int) -> None:
    """Fill a record in which every minute was busy, and every hour (the running one, too) has 60 times as much."""
    samples = tuple(_busy_minute())
    fill = """
        INSERT INTO {table} (at, series_id, total, buckets)
        SELECT at, series_id, {times} * total, {buckets} FROM metric_series,
            generate_series(date_trunc('hour', CAST(:now AS timestamptz) - make_interval(days => :days)),
                CAST(:now AS timestamptz), '1 {step}') AS at
        ORDER BY at
    """
    sixty = "CASE WHEN buckets IS NOT NULL THEN ARRAY(SELECT 60 * one FROM unnest(buckets) AS one) END"
    with transaction(engine) as conn:
        conn.execute(text("TRUNCATE metric_minute, metric_hour, metric_series, metric_sender"))
        message = Counted(sender="api-1", role="api", number=1, at=now, samples=samples)
        metrics.add(conn, [message], oldest=now - timedelta(days=days))
        conn.execute(text("TRUNCATE metric_minute, metric_hour"))
        for step, times, buckets in (("minute", 1, "buckets"), ("hour", 60, sixty)):
            filled = fill.format(table=f"metric_{step}", step=step, times=times, buckets=buckets)
            conn.execute(text(filled), {"now": now, "days": days})
    with reading(engine) as conn:
        conn.execute(text("VACUUM ANALYZE"))


def _cpu_ms(engine: Engine, work: Callable[[], object], times: int) -> float:
    """Return what CPU `work` costs this thread and PostgreSQL, by the one connection that is in use."""
    with reading(engine) as conn:
        driver: Any = conn.connection.driver_connection
        backend = psutil.Process(driver.get_backend_pid())

    def used_s() -> float:
        return time.thread_time() + sum(backend.cpu_times()[:2])

    before = used_s()
    for _ in range(times):
        work()
    return 1000 * (used_s() - before) / times


def _timed_ms(work: Callable[[], object], times: int) -> list[float]:
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) * 1000)
    return found
