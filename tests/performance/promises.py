"""What the system that Rollcall replaces promised, each as a multiple of what is measured here.

It promised, of 10,000 accounts with a year of days: cached answers under 200 ms, uncached ones under 1 s, queries under
100 ms, a hit rate above 80 %, an account read in under 30 s, a first paint under 2 s. A promise kept ten times over is 10;
the bound is on the 99th percentile. A hit rate can't be ten times as high: it is held as it was promised, while
everything changes.
"""

import base64
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any

from msgspec import Struct
from playwright.sync_api import Browser
from sqlalchemy import event, text

from db.engine import Engine, reading
from pipeline.app import make_celery
from pipeline.enqueue import Enqueuer
from tests.browser import chromium
from tests.browser.site import add_up
from tests.performance import api, served
from tests.performance.dashboard import PHONE
from tests.performance.machine import Machine, machine, wait
from tests.performance.pipeline import UNLIMITED
from tests.performance.report import Chapter, Line
from tests.performance.served import Served
from tests.performance.snapshots import load
from tests.serving import in_process

TENFOLD = 10
_FIRST_PAINT = """
    () => new Promise((resolve) => new PerformanceObserver((seen) => {
      for (const entry of seen.getEntriesByName("first-contentful-paint")) resolve(entry.startTime);
    }).observe({type: "paint", buffered: true}))
"""
# Nothing stays in the memory of the API's process for longer than a moment.
_FORGETFUL = {"CACHE_MEMORY_S": "0.000001"}


class Size(Struct, frozen=True):
    """How much is there, and how often each is asked for."""

    accounts: int = 10_000
    days: int = 365
    hits: int = 5_000
    misses: int = 150
    zipf_s: int = 15
    readings: int = 200
    visits: int = 20


QUICK = Size(accounts=600, days=20, hits=200, misses=10, zipf_s=2, readings=5, visits=1)


def run(*, quick: bool = False) -> Iterator[Chapter]:
    """Measure, and yield each chapter as it is found."""
    size = QUICK if quick else Size()
    with machine() as one:
        one.simulate()
        one.environ |= UNLIMITED | {"LOG_REQUESTS": "none"}
        today = datetime.now(UTC).date()
        first = today - timedelta(days=size.days)
        load(one.engine, accounts=size.accounts, days=size.days, last=today, covered_from=first)
        add_up(one.engine)
        yield _answers(one, size)
        yield _queries(one, size)
        yield api.sweep(one, api.Size(accounts=size.accounts, zipf_s=size.zipf_s))
        yield _readings(one, size)
        yield _paints(one, size)


def _promise(name: str, promised_ms: float, times: Sequence[float]) -> list[Line]:
    """Return how often what was measured fits into what was promised, and what it is."""
    p99 = sorted(times)[math.ceil(len(times) * 0.99) - 1]
    return [
        Line(f"{name}: promised / p99", promised_ms / p99, "times", at_least=TENFOLD),
        Line(f"{name}: p99 of {len(times):,}", p99, "ms", min(times), max(times)),
    ]


def _answers(one: Machine, size: Size) -> Chapter:
    """Ask an API process over one connection: for what it has kept, and for what nobody has asked for before."""
    server = served.start(one, "api", log="api", WEB_CONCURRENCY="1", API_RATE_LIMIT="")
    fresh = _fresh(one, size)
    kept = [paths[0] for paths in fresh.values()]
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    for path in kept * 2:
        _asked(connection, path)
    hits: list[float] = []
    while len(hits) < size.hits:
        level, took_ms = _asked(connection, kept[len(hits) % len(kept)])
        hits += [took_ms] if level in _KEPT else []  # what is kept is so for some seconds: it is made anew then
    rest = [path for paths in fresh.values() for path in paths[1 : size.misses + 1]]
    misses = []
    for path in random.sample(rest, len(rest)):
        level, took_ms = _asked(connection, path)
        assert level not in _KEPT, f"{path} was meant to be made"
        misses.append(took_ms)
    connection.close()
    one.end(server.process)
    return Chapter(
        f"Answers, {size.accounts:,} accounts with {size.days} days",
        [*_promise("cached, under 200 ms", 200, hits), *_promise("uncached, under 1 s", 1_000, misses)],
        "60 ms are slept before a kept answer is given, 600 ms before an account's days are read",
    )


_KEPT = ("l1", "l2", "stale")


def _asked(connection: HTTPConnection, path: str) -> tuple[str | None, float]:
    """Return who had the answer, and the milliseconds until its last byte."""
    began = time.perf_counter()
    connection.request("GET", path, headers={"Accept-Encoding": "zstd"})
    answer = connection.getresponse()
    answer.read()
    took_ms = (time.perf_counter() - began) * 1_000
    assert answer.status == 200, f"{path}: {answer.status}"
    return answer.headers["X-Cache"], took_ms


def _fresh(one: Machine, size: Size) -> dict[str, list[str]]:
    """Return addresses of each kind, each of another answer: twice as many as are asked for, where there are."""
    with reading(one.engine) as conn:
        named = text("SELECT handle FROM dim_account WHERE platform = 'x' ORDER BY account_key")
        handles = list(conn.scalars(named))
    today = datetime.now(UTC).date()
    number = min(2 * size.misses + 1, len(handles), size.accounts - api.PAGE)
    days = [today - timedelta(days=ago) for ago in range(size.days)]
    return {
        "summary": [_page_behind(key) for key in range(1, number + 1)],
        "account": [f"/api/accounts/x/{handle}" for handle in handles[:number]],
        "history": [f"/api/history/x/{handle}" for handle in handles[:number]],
        "search": [f"/api/summary?q=agency{of}" for of in range(number)],
        "grid": [f"/api/grid?to={day}" for day in days],
        "totals": [f"/api/totals?from={day}" for day in days[1:]],
    }


def _page_behind(key: int) -> str:
    cursor = base64.urlsafe_b64encode(json.dumps(["account_key", False, key, key]).encode()).rstrip(b"=")
    return f"/api/summary?per_page={api.PAGE}&sort=account_key&cursor={cursor.decode()}"


def _queries(one: Machine, size: Size) -> Chapter:
    """Time each statement that an API sends for answers that nobody has asked for before."""
    found: list[float] = []
    with in_process(one.settings()) as asked, _timed(asked.engine, found):
        for paths in _fresh(one, size).values():
            for path in paths[size.misses + 1 :]:
                assert asked.get(path).status_code == 200, path
    return Chapter(
        "Queries of answers made",
        _promise("queries, under 100 ms", 100, found),
        "an account's days are read 600 ms late",
    )


@contextmanager
def _timed(engine: Engine, found: list[float]) -> Iterator[None]:
    """Note the milliseconds of each statement within the block, from sending it to its answer."""

    def begin(conn: Any, *_: Any) -> None:
        conn.info["began"] = time.perf_counter()

    def end(conn: Any, *_: Any) -> None:
        found.append((time.perf_counter() - conn.info["began"]) * 1_000)

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)
    yield
    event.remove(engine, "before_cursor_execute", begin)
    event.remove(engine, "after_cursor_execute", end)


def _readings(one: Machine, size: Size) -> Chapter:
    """Ask for accounts as a person does, one after the other, until the API shows that each was read.

    A worker and the simulator are real; the platform's limit is lifted, for it alone would be measured.
    """
    worker = one.metered("worker")
    server = served.start(one, "api", log="api", WEB_CONCURRENCY="1", API_RATE_LIMIT="")
    settings = one.settings()
    enqueue = Enqueuer(settings, one.engine, make_celery(settings))
    with reading(one.engine) as conn:
        named = text(
            "SELECT account_key, handle FROM dim_account WHERE platform = 'x' ORDER BY account_key LIMIT :most"
        )
        accounts = conn.execute(named, {"most": size.readings + 1}).all()
    times = []
    for key, handle in accounts:
        asked_at, began = datetime.now(UTC), time.perf_counter()
        enqueue.request([key], requested_by="benchmark")
        wait(lambda: _read_at(server, handle) >= asked_at, f"a reading of {handle}", every_s=0.005)  # noqa: B023
        times.append((time.perf_counter() - began) * 1_000)
    one.end(server.process)
    one.end(worker.process)
    # The first one waits for connections, too.
    return Chapter(
        "An account is read",
        _promise("asked for until the API shows it, under 30 s", 30_000, times[1:]),
        "a worker sleeps for 4 s before a job",
    )


def _read_at(server: Served, handle: str) -> datetime:
    return datetime.fromisoformat(json.loads(server.get(f"/api/accounts/x/{handle}")[1])["last_success_at"])


def _paints(one: Machine, size: Size) -> Chapter:
    """Open overview and an account in a Chromium that was never here: made for it, and kept."""
    title = "First paint, as a phone"
    if chromium.chromium() is None:
        return Chapter(title, [Line(f"not run: {chromium.HOW_TO_GET_IT}", None)])
    with reading(one.engine) as conn:
        handle = conn.scalar(text("SELECT handle FROM dim_account WHERE platform = 'x' ORDER BY account_key LIMIT 1"))
    lines: list[Line] = []
    with chromium.started() as browser:
        for how, environ in (("kept", {}), ("made for it", _FORGETFUL)):
            server = served.start(one, "api", log="api", WEB_CONCURRENCY="1", API_RATE_LIMIT="", **environ)
            times = []
            for number in range(size.visits + 1):
                for path in ("/", f"/accounts/x/{handle}"):
                    if environ:
                        one.redis.flushall()
                    paint_ms = _paint_ms(browser, server, path)
                    if number:  # the first one warms up
                        times.append(paint_ms)
            one.end(server.process)
            lines += _promise(f"overview and an account, {how}, under 2 s", 2_000, times)
    return Chapter(
        title,
        lines,
        "a script before the page computes for 300 ms: kept, 3.1 times (5.6 without it, on a busy machine); all organisations are"
        " shown instead of 25: made for it, 1.7 times (2.4); with 1,500 accounts",
    )


def _paint_ms(browser: Browser, server: Served, path: str) -> float:
    with browser.new_context(viewport=PHONE, base_url=f"http://127.0.0.1:{server.port}") as context:
        page = context.new_page()
        page.goto(path, timeout=120_000)
        return float(page.evaluate(_FIRST_PAINT))
