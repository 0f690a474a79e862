"""Metrics: what a message costs the recorder, what counting costs a request, and a month of rollups a reader."""

import asyncio
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from msgspec import Struct
from sqlalchemy import text

from api.cache.stats import Stats
from api.cache.threads import Threads
from api.counting import Counting
from api.performance import Limits, window
from db import metrics
from db.engine import Engine, reading, transaction
from db.metrics import Counted
from pipeline import platforms
from pipeline.app import make_celery
from pipeline.messages import publish_counted, receive_metrics
from pipeline.metrics import ACCOUNTS, CALL_TIME, CALLS, JOBS, REQUEST_TIME, REQUESTS, Times
from pipeline.settings import Settings
from tests.performance.machine import Machine, machine
from tests.performance.report import Chapter, Line, middle

MESSAGES = 5_000
ROUNDS = 3
REQUESTS_COUNTED = 20_000
READS = 100
ENDPOINTS = 30
DAYS = 30


class Taken(Struct, frozen=True):
    """What taking so many messages took: the recorder's own CPU, and the time from the first to the last."""

    cpu_s: float
    seconds: float


def run() -> Iterator[Chapter]:
    yield _counting()
    with machine() as running:
        yield _recorder(running)
    with machine() as running:
        yield _month(running)


def _recorder(running: Machine) -> Chapter:
    """Compare the recorder with one that only takes and acknowledges the same messages, in turn."""
    settings = running.settings()
    bare, whole = list[Taken](), list[Taken]()
    for number in range(ROUNDS + 1):
        found = [_taken(settings, number * 2, lambda _: None)]
        found.append(_taken(settings, number * 2 + 1, lambda counted: _keep(running.engine, counted)))
        if number:  # the first warms up
            bare.append(found[0])
            whole.append(found[1])
    with reading(running.engine) as conn:
        kept = sum(one.value for one in metrics.totals(conn) if one.name == CALLS.name)
    assert kept == MESSAGES * (ROUNDS + 1), "every message was counted, once"
    return Chapter(
        f"The recorder, {MESSAGES:,} messages at a time, each of a job",
        [
            middle(
                "CPU as a multiple of taking and acknowledging",
                [mine.cpu_s / other.cpu_s for mine, other in zip(whole, bare, strict=True)],
                "times",
                at_most=1.5,
            ),
            middle("CPU per message", [1e6 * one.cpu_s / MESSAGES for one in whole], "µs"),
            middle("messages per second of its CPU", [MESSAGES / one.cpu_s for one in whole], "messages/s"),
            middle("messages per second", [MESSAGES / one.seconds for one in whole], "messages/s"),
        ],
    )


def _taken(settings: Settings, sender: int, keep: Callable[[Sequence[Counted]], None]) -> Taken:
    celery = make_celery(settings)
    for message in _of_jobs(f"worker-{sender}"):
        publish_counted(celery, message)
    stop = threading.Event()
    left = MESSAGES

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


def _of_jobs(sender: str) -> Iterator[Counted]:
    """Yield what workers of all platforms say of their jobs."""
    times = Times()
    times.add(0.25)
    names = list(platforms.load())
    for number in range(1, MESSAGES + 1):
        name = names[number % len(names)]
        samples = (
            JOBS.sample(1, name, "profiles", "core", "succeeded"),
            CALLS.sample(1, name, "profiles", "core"),
            CALL_TIME.timed(times, name, "core"),
            ACCOUNTS.sample(25, name, "core", "ok"),
        )
        yield Counted(sender=sender, role="worker", number=number, at=datetime.now(UTC), samples=samples)


def _counting() -> Chapter:
    """Compare counting a request with making the id that each request has."""
    unused: Any = None
    counting = Counting(Stats(), Threads(1), [], unused)
    request: Any = SimpleNamespace(is_warming=False, began=time.perf_counter(), uri_template="/api/summary")
    response: Any = SimpleNamespace(status_code=200)

    async def count() -> None:
        for _ in range(REQUESTS_COUNTED):
            await counting.process_response(request, response, None, True)

    shares, costs = [], []
    for _ in range(ROUNDS):
        began = time.thread_time()
        asyncio.run(count())
        counted = time.thread_time() - began
        began = time.thread_time()
        for _ in range(REQUESTS_COUNTED):
            uuid.uuid4().hex  # noqa: B018
        shares.append(counted / (time.thread_time() - began))
        costs.append(1e6 * counted / REQUESTS_COUNTED)
    return Chapter(
        "Counting a request",
        [
            middle("as a multiple of making its id", shares, "times", at_most=1.0),
            middle("CPU", costs, "µs"),
        ],
    )


def _month(running: Machine) -> Chapter:
    """Compare the figures of the last day, with a month behind them, with those of a record that is a day old."""
    settings = running.settings()
    limits = Limits(settings, tuple(platforms.load().values()), {})
    now = datetime.now(UTC)

    def figures() -> None:
        with reading(running.engine) as conn:
            total, day = metrics.totals(conn), metrics.lately(conn, now - timedelta(days=1))
            lately = metrics.lately(conn, now - timedelta(minutes=5))
        for samples, seconds in ((total, 86_400 * DAYS), (day, 86_400), (lately, 300)):
            window(samples, limits, since=now, seconds=seconds)

    found = {}
    for days in (1, DAYS):
        _generate(running.engine, now, days=days)
        found[days] = _timed_ms(figures)
    with reading(running.engine) as conn:
        rows = conn.scalar(text("SELECT (SELECT count(*) FROM metric_minute) + (SELECT count(*) FROM metric_hour)"))
    p99 = sorted(found[DAYS])[math.ceil(READS * 0.99) - 1]
    return Chapter(
        f"/api/performance with a month of rollups ({rows / 1e6:.1f}M rows)",
        [
            # Of the quickest of many: what else the machine does is in none of them.
            Line("a month / a day", min(found[DAYS]) / min(found[1]), "times", at_most=1.25),
            middle("reading and adding up", found[DAYS], "ms"),
            Line("its p99", p99, "ms"),
        ],
    )


def _generate(engine: Engine, now: datetime, *, days: int) -> None:
    """Fill a record in which every endpoint and platform was busy in every minute."""
    times = Times()
    for took_s in (0.0001, 0.0002, 0.004, 0.03, 0.5):
        times.add(took_s)
    samples = [REQUEST_TIME.timed(times, f"/api/{n}") for n in range(ENDPOINTS)]
    samples += [REQUESTS.sample(5, f"/api/{n}", status) for n in range(ENDPOINTS) for status in ("2xx", "4xx")]
    samples += [CALL_TIME.timed(times, name, "core") for name in platforms.load()]
    samples += [CALLS.sample(5, name, "profiles", "core") for name in platforms.load()]
    fill = """
        INSERT INTO {table} (at, series_id, total, buckets)
        SELECT at, series_id, total, buckets FROM metric_series,
            generate_series(date_trunc('{step}', CAST(:now AS timestamptz)) - make_interval(days => :days),
                CAST(:now AS timestamptz), '1 {step}') AS at
        ORDER BY at
    """
    with transaction(engine) as conn:
        conn.execute(text("TRUNCATE metric_minute, metric_hour, metric_series, metric_sender"))
        message = Counted(sender="api-1", role="api", number=1, at=now, samples=tuple(samples))
        metrics.add(conn, [message], oldest=now - timedelta(days=DAYS))
        conn.execute(text("TRUNCATE metric_minute, metric_hour"))
        for table, step in (("metric_minute", "minute"), ("metric_hour", "hour")):
            conn.execute(text(fill.format(table=table, step=step)), {"now": now, "days": days})
    with reading(engine) as conn:
        conn.execute(text("VACUUM ANALYZE"))


def _timed_ms(work: Callable[[], None]) -> list[float]:
    work()
    found = []
    for _ in range(READS):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) * 1000)
    return found
