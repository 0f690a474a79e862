"""A day of a million accounts in simulated time: the planner and the limits as they are, without calls and a database.

What is simulated is the clock, and what the planner asks of the database: how many accounts of each call are due, and how
many jobs wait in its queue. The planner's own arithmetic (how much to claim, from which call) is the real one, tick by
tick; the limits and quotas are those that the platforms publish, and a slot follows the one before as the workers'
allowance has it. So what `rollcall estimate` says of a day can be seen to come true.
"""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from msgspec import Struct

from db import claims, pauses
from db.claims import Call, DueLane, Expired
from db.health import Alike
from deploy import docs
from pipeline import plan, platforms, scaling
from pipeline.messages import task_name
from pipeline.plan import Planner
from pipeline.platforms import Platform
from pipeline.records import Job, Kind
from pipeline.scaling import Demand
from pipeline.settings import Settings
from tests import fakes
from tests.performance.report import Chapter, Line
from workers.allowance import MARGIN

ACCOUNTS = 1_000_000
DAY_S = 86_400
MIDNIGHT = datetime(2026, 3, 3, tzinfo=UTC)
# Half as often as beat does, and all at once that it does in ticks that follow each other at once: it comes to the same.
_TICK_S = 2
_JOBS_A_TICK = 10_000
# What the margin between calls adds, and a tick.
_MOST_OFF = 0.02


class Swept(Struct, frozen=True):
    """How a sweep of one platform went.

    `last_s` is when its last call left, `units` what all its credentials used of a day's quota, `left` what the day
    didn't carry: accounts that nobody claimed, and jobs that waited.
    """

    calls: int
    last_s: float
    units: int
    left: int


class Remembered:
    """Settings that work out what they say of a platform once: that is most of a tick, and nobody changes them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said: dict[tuple[str, ...], Any] = {}

    def credentials(self, platform: Platform) -> Any:
        return self._once("credentials", platform)

    def lacks(self, platform: Platform) -> Any:
        return self._once("lacks", platform)

    def rate(self, platform: Platform, kind: Kind) -> Any:
        return self._once("rate", platform, kind)

    def _once(self, what: str, platform: Platform, *kind: Kind) -> Any:
        if (what, platform.name, *kind) not in self._said:
            self._said[what, platform.name, *kind] = getattr(self._settings, what)(platform, *kind)
        return self._said[what, platform.name, *kind]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settings, name)


class Clockwork:
    """Everything around the planner, on a clock that is moved by hand: what is due, the queues, the slots."""

    def __init__(self, settings: Remembered, due: Mapping[Call, int]) -> None:
        self._settings = settings
        self._known = platforms.load()
        self.now_s = 0.0
        self.due_accounts = Counter(due)
        self.queues: defaultdict[Call, deque[float]] = defaultdict(deque)
        self.calls: Counter[Call] = Counter()
        self.last_s: dict[Call, float] = {}
        self._slots = {call: [(0.0, one.label) for one in self._credentials(call)] for call in due}
        self.units: Counter[tuple[str, str]] = Counter()

    def _credentials(self, call: Call) -> Sequence[Any]:
        return self._settings.credentials(self._known[call[0]])

    @property
    def is_over(self) -> bool:
        """Tell whether nothing is left to do, or for what is left every quota is spent."""
        return not any(
            slots and (self.due_accounts[call] or self.queues[call]) for call, slots in self._slots.items()
        )

    @property
    def now(self) -> datetime:
        return MIDNIGHT + timedelta(seconds=self.now_s)

    # What the planner asks of the allowance (pipeline.slots).

    def spaces(self) -> Mapping[str, float]:
        return {}

    def opens_in_s(self, pairs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], float]:
        opens = {
            (task_name(*call), label): max(0.0, at - self.now_s)
            for call, slots in self._slots.items()
            for at, label in slots
        }
        return {pair: opens.get(pair, 0.0) for pair in pairs}

    # What it asks of the database (db.claims).

    def backlog(self, _conn: object, *, leased_at: datetime | None = None) -> dict[Call, int]:
        return {call: len(queue) for call, queue in self.queues.items() if queue}

    def due(self, _conn: object, calls: Collection[Call], *, now: datetime) -> dict[Call, tuple[DueLane, ...]]:
        return {call: ("core",) for call in calls if self.due_accounts[call]}

    def claim_due(
        self, _conn: object, *, platform: str, kind: Kind, batch: int, job_ids: Sequence[str], **_: Any
    ) -> list[Job]:
        jobs = []
        for job_id in job_ids:
            if not self.due_accounts[platform, kind]:
                break
            self.due_accounts[platform, kind] -= min(batch, self.due_accounts[platform, kind])
            jobs.append(Job(job_id=job_id, platform=platform, kind=kind, lane="core"))
        return jobs

    def publish(self, _celery: object, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.queues[job.platform, job.kind].append(self.now_s)

    def work(self, until_s: float) -> None:
        """Let every call go whose slot opens until then, each slot a space after the one before."""
        for call, slots in self._slots.items():
            platform = self._known[call[0]]
            requests = platform.calls[call[1]].requests
            space_s = self._settings.rate(platform, call[1]).interval_s * requests
            queue = self.queues[call]
            while queue and slots and slots[0][0] < until_s:
                at, label = slots[0]
                if platform.quota and self.units[platform.name, label] + requests > platform.quota.per_day:
                    heapq.heappop(slots)  # spent for the day
                    continue
                self.units[platform.name, label] += requests
                starts = max(at, queue.popleft())
                heapq.heapreplace(slots, (starts + space_s * (1 + MARGIN), label))
                self.calls[call] += 1
                self.last_s[call] = starts

    def swept(self, name: str) -> Swept:
        waiting = sum(len(queue) for call, queue in self.queues.items() if call[0] == name)
        return Swept(
            calls=_sum_of(name, self.calls),
            last_s=max((at for call, at in self.last_s.items() if call[0] == name), default=0.0),
            units=_sum_of(name, self.units),
            left=_sum_of(name, self.due_accounts) + waiting,
        )


def _sum_of(name: str, counts: Mapping[tuple[str, str], int]) -> int:
    return sum(count for (platform, _), count in counts.items() if platform == name)


def sweep(settings: Settings, due: Mapping[Call, int]) -> dict[str, Swept]:
    """Read all of these accounts, due at midnight at once, as fast as limits let in a day; return how it went by platform."""
    remembered: Any = Remembered(settings)
    world: Any = Clockwork(remembered, due)
    nothing: Any = None  # asks it for no connection, broker or purge
    with _around(world):
        planner = Planner(remembered, nothing, nothing, nothing, world)
        while not world.is_over and world.now_s < DAY_S:
            planner.tick(world.now)
            world.work(world.now_s + _TICK_S)
            world.now_s += _TICK_S
    return {name: world.swept(name) for name in sorted({platform for platform, _ in due})}


@contextmanager
def _around(world: Clockwork) -> Iterator[None]:
    """Let the planner ask this world where it would ask the database and the broker."""
    with (
        mock.patch.multiple(
            claims,
            try_plan_lock=lambda _: True,
            backlog=world.backlog,
            due=world.due,
            claim_due=world.claim_due,
            expired=lambda *_, **__: Expired([], []),
        ),
        mock.patch.object(pauses, "standing", lambda *_: []),
        mock.patch.multiple(
            plan, transaction=lambda _: nullcontext(), publish_jobs=world.publish, JOBS_A_TICK=_JOBS_A_TICK
        ),
    ):
        yield


def run(accounts: int = ACCOUNTS) -> Chapter:
    """Sweep the shipped list, as if it had grown, with the credentials that the estimate asks for, and with one set less."""
    grown = scaling.grown(docs.listed(), accounts)
    known = platforms.load()
    estimated = scaling.scale(grown, _with({}), known).demands
    sets = {one.platform: one.credentials for one in estimated}
    found = sweep(_with(sets), _due(grown))
    lines = [line for one in estimated for line in _lines(one, found[one.platform])]
    fewer = {name: number - 1 for name, number in sets.items() if number > 1}
    if fewer:
        lacking = sweep(_with(fewer), _due([one for one in grown if one.platform in fewer]))
        lines += [
            Line(f"{name}, one set less: left by the day", swept.left, "accounts", at_least=1)
            for name, swept in lacking.items()
        ]
    return Chapter(
        f"A day of {accounts:,} accounts, all due at midnight, in simulated time",
        lines,
        "the planner keeps a second's allowance queued (PLAN_AHEAD_S): Facebook, Instagram and LinkedIn take twice their time",
    )


def _lines(estimated: Demand, found: Swept) -> Iterator[Line]:
    """Compare the sweep with what was reckoned: the calls, and the part of the day's limits that they take."""
    quota = platforms.load()[estimated.platform].quota
    sets, reckoned = estimated.credentials, estimated.limit_used / estimated.credentials
    took = max(found.last_s / DAY_S, found.units / (quota.per_day * sets) if quota else 0.0)
    name = f"{estimated.platform}, {sets} {'set' if sets == 1 else 'sets'}"
    yield Line(f"{name}: left by the day", found.left, "accounts", at_most=0)
    yield Line(f"{name}: calls / as estimated", found.calls / estimated.calls, at_least=1, at_most=1)
    yield Line(
        f"{name}: {took:.1%} of the day's limit / as estimated",
        took / reckoned,
        at_least=1 - _MOST_OFF,
        at_most=1 + _MOST_OFF,
    )


def _with(sets: Mapping[str, int]) -> Settings:
    """Return settings with so many sets of each platform's credentials, and otherwise as nobody has changed them."""
    known = platforms.load()
    given = {
        f"{need}{f'_{number}' if number > 1 else ''}": "simulated"
        for name, count in sets.items()
        for need in known[name].needs
        for number in range(1, count + 1)
    }
    return fakes.settings("postgresql://", "redis://", **given)


def _due(accounts: Sequence[Alike]) -> dict[Call, int]:
    """Return how many accounts are due of each call: all profiles by their ids, and all posts."""
    known = platforms.load()
    wanted = {(one.platform, kind): one.accounts for one in accounts for kind in ("profiles", "posts")}
    return {(name, kind): count for (name, kind), count in wanted.items() if kind in known[name].calls}
