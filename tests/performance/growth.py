"""How costs grow: each area at 1×, 10× and 100× its size, with the exponent of the power law that fits.

0 is flat, 1 in proportion. Within a round every size is asked in turn, in a new order each time, and of each the least
time counts: what else the machine does only adds. So the exponent is the verdict, the times only say what it is of.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from math import log
from statistics import linear_regression, median
from typing import Any

from msgspec import Struct
from sqlalchemy import text

from db import grid, movers, partitions, reads, totals
from db.engine import Connection, Engine, reading, transaction
from db.keyset import After, Order, Window
from db.movers import Interval
from db.reads import Clock, Filters
from db.standing import StaleAfter
from db.totals import Which
from pipeline import alerts, platforms
from pipeline.records import Profile
from pipeline.report import facts
from pipeline.slots import Slots
from pipeline.weeks import last_whole
from tests.browser.site import add_up
from tests.jobs import claimed, running, saved
from tests.performance import billion, day
from tests.performance.accounts import load_due
from tests.performance.machine import Machine, machine
from tests.performance.pipeline import BATCH, UNLIMITED, Fleet, planner_of, tick_ms
from tests.performance.report import Chapter, Growth, Line
from tests.performance.snapshots import load
from tests.serving import InProcess, in_process

PAGE = 50
# As many at each size: pages offer them all to choose from.
ORGANISATIONS = 50
# What takes a moment is asked so many times as often: on a busy machine few moments are its own.
MORE = 5
FLAT = 0.15
# What counts every account may cost in proportion to them, and a little more: an index is a little deeper.
LINEAR = 1.1
# A sweep's cost grows less than its accounts do, since a part of it is the same for any number.
SWEPT = 0.95
MIB = 1 << 20

Machines = Mapping[int, Machine]
Took = Callable[[], float]


class Size(Struct, frozen=True):
    """The three sizes of each area, and how often each is asked.

    Of `accounts` each has `days`; of `history` it is days, of `history_accounts` each; so many accounts are `due` at once;
    so many are `swept`.
    """

    accounts: Sequence[int] = (100, 1_000, 10_000)
    days: int = 365
    history: Sequence[int] = (11, 110, 1_100)
    history_accounts: int = 1_000
    due: Sequence[int] = (10_000, 100_000, 1_000_000)
    swept: Sequence[int] = (100, 1_000, 10_000)
    rounds: int = 40
    sweeps: int = 3
    planned: billion.Size = billion.Size()
    simulated: int = day.ACCOUNTS


QUICK = Size(
    accounts=(100, 300, 900),
    days=20,
    history=(11, 33, 99),
    history_accounts=100,
    due=(2_000, 8_000, 32_000),
    swept=(20, 200, 2_000),
    rounds=8,
    sweeps=1,
    planned=billion.QUICK,
    simulated=20_000,
)


def run(*, quick: bool = False) -> Iterator[Chapter]:
    """Measure, and yield each chapter as it is found."""
    size = QUICK if quick else Size()
    today = datetime.now(UTC).date()
    with ExitStack() as open_:
        by_accounts = {count: open_.enter_context(machine()) for count in size.accounts}
        for count, one in by_accounts.items():
            fill(one, accounts=count, days=size.days)
        yield reads_by_accounts(by_accounts, size)
        yield answers_by_accounts(by_accounts, size)
    with ExitStack() as open_:
        by_days = {days: open_.enter_context(machine()) for days in size.history}
        oldest = today - timedelta(days=max(size.history))
        for days, one in by_days.items():
            fill(one, accounts=size.history_accounts, days=days, covered_days=(today - oldest).days)
        yield reads_by_days(by_days, size)
    with ExitStack() as open_:
        by_due = {count: open_.enter_context(machine()) for count in size.due}
        for count, one in by_due.items():
            make_due(one, count)
        yield planning(by_due, size)
    with machine() as one:
        yield sweeps(one, size)
    with machine() as one:
        yield billion.run(one, size.planned)
    yield day.run(size.simulated)


def fill(one: Machine, *, accounts: int, days: int, covered_days: int | None = None) -> None:
    """List accounts and keep so many days of each, up to today, and what is added up of them."""
    today = datetime.now(UTC).date()
    load(
        one.engine,
        accounts=accounts,
        days=days,
        last=today,
        covered_from=today - timedelta(days=covered_days or days),
        organisations=ORGANISATIONS,
    )
    add_up(one.engine)


def make_due(one: Machine, count: int) -> None:
    """List so many accounts of all platforms, everything of them due."""
    one.environ["SIMULATOR_URL"] = "http://nowhere"  # credentials aren't lacking; nothing is called
    load_due(one.engine, count, platforms=tuple(platforms.load()), now=datetime.now(UTC))
    with transaction(one.engine) as conn:
        partitions.ensure(conn, today=datetime.now(UTC).date())


class Measured:
    """What was found so far, as lines and as growth."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.growth: list[Growth] = []

    def add(self, name: str, points: Sequence[tuple[float, float]], unit: str, most: float) -> None:
        exponent = fitted(points)
        costs = [value for _, value in points]
        self.growth.append(Growth(name, unit, points, exponent))
        at = f"{points[0][0]:,.0f} → {points[-1][0]:,.0f}: {_short(costs[0])} → {_short(costs[-1])} {unit}"
        self.lines.append(Line(f"{name}, {at}", exponent, "exponent", at_most=most))

    def chapter(self, title: str, fails_when: str) -> Chapter:
        return Chapter(title, self.lines, fails_when, self.growth)


def fitted(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent of the power law through these, by least squares of their logarithms."""
    return linear_regression([log(size) for size, _ in points], [log(cost) for _, cost in points]).slope


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _least(asks: Mapping[int, Took], rounds: int) -> list[tuple[float, float]]:
    """Return the least of what each size took."""
    sizes, found = list(asks), {size: list[float]() for size in asks}
    for number in range(rounds + 2):
        random.shuffle(sizes)
        for size in sizes:
            took_ms = asks[size]()
            if number > 1:  # the first ones warm up
                found[size].append(took_ms)
    return [(size, min(times)) for size, times in sorted(found.items())]


def _ms(work: Callable[..., object], *args: object) -> Took:
    """Return what does this work and says how many milliseconds it took."""

    def timed() -> float:
        began = time.perf_counter()
        work(*args)
        return (time.perf_counter() - began) * 1_000

    return timed


def reads_by_accounts(machines: Machines, size: Size) -> Chapter:
    """Ask the database what API, pages, report and alerts ask, of ever more accounts with as many days each."""
    measured = Measured()
    with ExitStack() as open_:
        conns = {count: open_.enter_context(reading(one.engine)) for count, one in machines.items()}
        for name, ask in _FLAT.items():
            asks = {count: _ms(ask, conn, count, size.days) for count, conn in conns.items()}
            measured.add(name, _least(asks, size.rounds * MORE), "ms", FLAT)
        for name, ask in _COUNTING.items():
            asks = {count: _ms(ask, conn, count, size.days) for count, conn in conns.items()}
            measured.add(name, _least(asks, size.rounds // 2), "ms", LINEAR)
    looks = {count: _ms(_look, one) for count, one in machines.items()}
    measured.add("a look for alerts", _least(looks, size.rounds // 2), "ms", LINEAR)
    reports = {count: _ms(_report, one) for count, one in machines.items()}
    measured.add("a weekly report's numbers", _least(reports, size.rounds // 4), "ms", LINEAR)
    return measured.chapter(
        f"Reads by the number of accounts, {size.days} days each",
        "the snapshots' two indexes are dropped: a page of the grid 0.98, all days of one account 0.49",
    )


def _clock() -> Clock:
    return Clock(datetime.now(UTC), StaleAfter(interval_s=86_400, after_s=93_600))


def _page(conn: Connection, accounts: int, days: int) -> object:
    return reads.summary(conn, Filters(), Order(), Window(limit=PAGE), _clock())


def _grid_page(conn: Connection, accounts: int, days: int) -> object:
    # In the middle of the days and of the accounts.
    after = After(datetime.now(UTC).date() - timedelta(days=days // 2), accounts // 2)
    return grid.part(
        conn, grid.Cell.__struct_fields__, grid.Filters(), grid.NEWEST_FIRST, Window(limit=PAGE, after=after)
    )


def _history(conn: Connection, accounts: int, days: int) -> object:
    today = datetime.now(UTC).date()
    return reads.days(conn, accounts // 2, today - timedelta(days=days), today)


def _week(conn: Connection, accounts: int, days: int) -> object:
    return _history(conn, accounts, 6)


def _account(conn: Connection, accounts: int, days: int) -> object:
    return reads.newest(conn, accounts // 2, _clock())


def _kept_totals(conn: Connection, accounts: int, days: int) -> object:
    today = datetime.now(UTC).date()
    return totals.by_day(conn, Which(), today - timedelta(days=days - 1), today - timedelta(days=1))


def _length(conn: Connection, accounts: int, days: int) -> object:
    return reads.extent(conn, "summary", Filters(), _clock())


def _search(conn: Connection, accounts: int, days: int) -> object:
    return reads.summary(conn, Filters(text="agency1"), Order(), Window(limit=PAGE), _clock())


def _movers(conn: Connection, accounts: int, days: int) -> object:
    names, interval = movers.Mover.__struct_fields__, Interval(7, "number")
    return movers.movers(conn, names, Filters(), interval, _clock(), losses=False, limit=PAGE)


def _totals(conn: Connection, accounts: int, days: int) -> object:
    today = datetime.now(UTC).date()
    return totals.between(conn, "platform", Which(), today - timedelta(days=7), today)


_FLAT = {
    f"a page of {PAGE} of the summary": _page,
    f"a page of {PAGE} of the grid": _grid_page,
    "all days of one account": _history,
    "one account": _account,
    "totals day by day": _kept_totals,
}
_COUNTING = {
    "how long the list is": _length,
    "a search": _search,
    "who moved most": _movers,
    "totals by platform, with their change": _totals,
}
_BY_DAYS = {
    f"a page of {PAGE} of the summary": _page,
    f"a page of {PAGE} of the grid": _grid_page,
    "a week of one account": _week,
    "one account": _account,
    "who moved most": _movers,
    "totals by platform, with their change": _totals,
}


def _look(one: Machine) -> object:
    with reading(one.engine) as conn:
        return alerts.look(conn, one.settings(), platforms.load(), Slots(one.redis), now=datetime.now(UTC))


def _report(one: Machine) -> object:
    now = datetime.now(UTC)
    found = facts.gather(one.settings(), one.engine, None, last_whole(now), now)
    assert found is not None
    return found


def reads_by_days(machines: Machines, size: Size) -> Chapter:
    """Ask the same of ever more days of as many accounts."""
    measured = Measured()
    with ExitStack() as open_:
        conns = {days: open_.enter_context(reading(one.engine)) for days, one in machines.items()}
        for name, ask in _BY_DAYS.items():
            asks = {days: _ms(ask, conn, size.history_accounts, days) for days, conn in conns.items()}
            measured.add(name, _least(asks, size.rounds * MORE), "ms", FLAT)
    return measured.chapter(
        f"Reads by the number of days, {size.history_accounts:,} accounts",
        "the snapshots' two indexes are dropped: grid 1.03, a week of one account 0.58, totals 1.09",
    )


def answers_by_accounts(machines: Machines, size: Size) -> Chapter:
    """Ask an API in this process for answers and pages that nothing has kept: their time, and their bytes."""
    measured = Measured()
    with ExitStack() as open_:
        apis = {count: open_.enter_context(in_process(_forgetful(one))) for count, one in machines.items()}
        paths = {count: _paths(one) for count, one in machines.items()}
        for name, most in _ANSWERS.items():
            asks = {count: partial(_made_ms, machines[count], api, paths[count][name]) for count, api in apis.items()}
            measured.add(name, _least(asks, size.rounds // 2), "ms", most)
            bodies = {count: api.get(paths[count][name], Accept_Encoding="identity") for count, api in apis.items()}
            measured.add(
                f"{name}, its bytes",
                [(count, len(body.content) / 1_000) for count, body in bodies.items()],
                "kB",
                FLAT,
            )
    return measured.chapter(
        f"Answers and pages made by the API, by the number of accounts, {size.days} days each",
        "a page has a thousand rows instead of fifty: its bytes 1.01",
    )


# How much they may grow; how long a list is stands on its first page, which counts.
_ANSWERS = {
    "a page of the summary, API": LINEAR,
    "an account's history, API": FLAT,
    "overview": LINEAR,
    "list of accounts": LINEAR,
    "an account": FLAT,
    "grid": LINEAR,
}


def _paths(one: Machine) -> Mapping[str, str]:
    with reading(one.engine) as conn:
        named = "SELECT handle FROM dim_account WHERE platform = 'x' ORDER BY account_key LIMIT 1"
        handle = conn.scalar(text(named))
    paths = ("/api/summary", f"/api/history/x/{handle}", "/", "/accounts", f"/accounts/x/{handle}", "/grid")
    return dict(zip(_ANSWERS, paths, strict=True))


def _forgetful(one: Machine) -> Any:
    """Return settings with which an API keeps nothing for longer than a moment."""
    one.environ |= {"CACHE_MEMORY_S": "0.000001", "LOG_REQUESTS": "none"}
    return one.settings()


def _made_ms(one: Machine, api: InProcess, path: str) -> float:
    """Return how long an answer took that nothing had kept: what is kept goes to Redis a moment after its answer."""
    while True:
        one.redis.flushall()
        began = time.perf_counter()
        answer = api.get(path, Accept_Encoding="identity")
        took_ms = (time.perf_counter() - began) * 1_000
        assert answer.status_code == 200, (path, answer.text)
        if answer.headers["x-cache"] == "miss":
            return took_ms


def planning(machines: Machines, size: Size) -> Chapter:
    """Let the planner tick, claim a call's accounts and save what came of them, with ever more accounts due."""
    measured = Measured()
    # Before the ticks: they give out what is due.
    for name, work in (("claiming a call of 100 accounts", _claimed_ms), ("saving a job of 100", _saved_ms)):
        asks = {count: partial(work, one.engine) for count, one in machines.items()}
        measured.add(name, _least(asks, size.rounds), "ms", FLAT)
    planners = {count: planner_of(one) for count, one in machines.items()}
    ticks = {count: list[float]() for count in machines}
    memory = dict.fromkeys(machines, 0.0)
    for number in range(size.rounds + 10):
        for count, one in machines.items():
            took_ms = tick_ms(one.engine, planners[count])
            if number >= 10:  # then every platform's queue is as long as its limit has it
                ticks[count].append(took_ms)
                memory[count] = max(memory[count], one.redis.info("memory")["used_memory"] / MIB)
    # Ticks differ by what is due in them: the middle says more than the least.
    measured.add("a tick", [(count, median(found)) for count, found in ticks.items()], "ms", FLAT)
    measured.add("the broker's memory", list(memory.items()), "MiB", FLAT)
    return measured.chapter(
        "The pipeline, by the number of accounts due",
        "the indexes of what is due are dropped: a tick 0.89, claiming 0.63, saving 0.87",
    )


def _claimed_ms(engine: Engine) -> float:
    with engine.connect() as conn:
        began = time.perf_counter()
        job = claimed(conn, platform="x", batch=BATCH, now=datetime.now(UTC))
        took_ms = (time.perf_counter() - began) * 1_000
        assert job is not None
        conn.rollback()
    return took_ms


def _saved_ms(engine: Engine) -> float:
    now = datetime.now(UTC)
    with engine.connect() as conn:
        job = running(conn, batch=BATCH, now=now)
        profiles = [
            Profile(account_key=of.account_key, external_id=str(of.external_id), handle=of.handle, followers=number)
            for number, of in enumerate(job.accounts)
        ]
        began = time.perf_counter()
        assert saved(conn, job, profiles, now=now) is not None
        took_ms = (time.perf_counter() - began) * 1_000
        conn.rollback()
    return took_ms


def sweeps(one: Machine, size: Size) -> Chapter:
    """Read lists of ever more accounts in a sweep each, and add up the CPU of all processes that it takes."""
    one.environ |= UNLIMITED
    fleet = Fleet(one, 1)
    points = []
    for count in size.swept:
        _list_afresh(one.engine, count)
        fleet.sweep(count, BATCH)  # each is read for the first time
        spent = [fleet.sweep(count, BATCH).cpu_s for _ in range(size.sweeps)]
        points.append((float(count), min(_sum(of) for of in spent)))
    measured = Measured()
    measured.add("CPU of a sweep of all", points, "s", SWEPT)
    return measured.chapter(
        f"A sweep in batches of {BATCH}, by the number of accounts",
        "each job reads every row of the list of accounts three times: 1.18",
    )


def _list_afresh(engine: Engine, count: int) -> None:
    """List so many accounts instead of those that there are; nothing is due before a sweep begins."""
    with transaction(engine) as conn:
        conn.execute(text("TRUNCATE dim_account, scrape_job RESTART IDENTITY CASCADE"))
    load_due(engine, count, now=datetime.now(UTC), posts_due=False)
    with transaction(engine) as conn:
        conn.execute(text("UPDATE scrape_state SET next_due_at = now() + interval '1 day' WHERE subject = 'profile'"))


def _sum(cpu_s: Mapping[str, float]) -> float:
    """Return what the processes took; their stages are parts of that."""
    return sum(spent for name, spent in cpu_s.items() if ":" not in name)
