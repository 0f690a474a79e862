"""`./dev load`: the API under an open-loop load while the pipeline stands still, sweeps, or starts cold; and where its knee is."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import redis
from msgspec import Struct

from tests.performance.load.generator import Offered, Order, Times
from tests.performance.load.site import API_WORKERS, Generator, Sample, Site, generator, site
from tests.performance.load.watching import Progress, Watch

# So that a sweep of these takes half a minute.
LIMITS = {
    "RATE_LIMIT_BLUESKY_PROFILES": "3/2s",
    "RATE_LIMIT_X_PROFILES": "1/5s",
    "RATE_LIMIT_MASTODON_PROFILES": "2/s",
    "RATE_LIMIT_YOUTUBE_PROFILES": "1/s",
}
ACCOUNTS = {"bluesky": 1000, "x": 400, "mastodon": 40, "youtube": 40}
RATE = 200.0
SECONDS = 30.0
STEP_S = 6.0
SPIKE = 4.0
# The knee is behind the rate at which p99 has grown to so many times that of the first step, and isn't mere noise.
LEAVES, LEAST_LEAVING_MS = 5.0, 25.0
GROWTH = 1.5
BISECTIONS = 2
MOST_STEPS = 16
HIT_RATE_PCT = 80.0


class Phase(Struct, frozen=True):
    """What came of a phase's load, and what happened meanwhile."""

    name: str
    said: str
    offered: Offered
    began_at: float
    ended_at: float
    read: int
    """Accounts that were read meanwhile."""
    cores: Mapping[str, float]
    """Processor time by kind of process, in cores."""

    @property
    def failed(self) -> int:
        return sum(self.offered.failed.values())

    @property
    def hit_rate_pct(self) -> float | None:
        return hit_rate_pct(self.offered.levels)


class Step(Struct, frozen=True):
    """One rate on the way to the knee. `cores` are those of the API; with `own_cpu` near 1 the client was the limit."""

    rate: float
    answered_per_s: float
    times: Times
    failed: int
    own_cpu: float
    left: bool


class Knee(Struct, frozen=True):
    """The highest rate that was held, the lowest that wasn't (None: it was never found), and every step in its order."""

    held: float | None
    left: float | None
    steps: Sequence[Step]
    is_of_client: bool = False


class Load(Struct, frozen=True):
    """All that the report of a load shows."""

    seed: int
    began_at: float
    rate: float
    seconds: float
    accounts: Mapping[str, int]
    phases: Sequence[Phase]
    knee: Knee
    samples: Sequence[Sample]
    progress: Sequence[Progress]
    compared: int
    behind: int
    """Answers compared with what had been kept for some time, and those of them that didn't show it."""

    @property
    def missed(self) -> list[str]:
        """Return what should have held and didn't."""
        found = [
            f"{phase.name}: {phase.failed:,} of {phase.offered.asked:,} requests failed"
            for phase in self.phases
            if phase.failed
        ]
        for phase in self.phases:
            rate = phase.hit_rate_pct
            # In a shorter time hardly anything is asked for twice.
            is_judged = phase.name == "sweep" and self.seconds >= SECONDS
            if is_judged and rate is not None and rate < HIT_RATE_PCT:
                found.append(f"{phase.name}: {rate:.1f} % of the answers came from a cache, {HIT_RATE_PCT:g} should")
        if self.behind:
            found.append(f"{self.behind} of {self.compared} answers didn't show a reading that was kept before")
        if self.knee.held is None:
            found.append("knee: already the first step was too much")
        return found


def hit_rate_pct(levels: Mapping[str, int]) -> float | None:
    """Return the share of cacheable answers that came from a cache; None where there was none."""
    hits = sum(levels.get(level, 0) for level in ("l1", "l2", "stale"))
    asked = hits + levels.get("miss", 0)
    return 100 * hits / asked if asked else None


def run(
    *,
    seed: int,
    rate: float = RATE,
    seconds: float = SECONDS,
    step_s: float = STEP_S,
    most_steps: int = MOST_STEPS,
    accounts: Mapping[str, int] = ACCOUNTS,
    flower: bool = True,
    say: Callable[[str], None] = print,
) -> Load:
    """Go through every phase, and return what was found."""
    with site(accounts, seed, flower=flower, **LIMITS) as running, ExitStack() as stack:
        names = running.account_names()
        client = stack.enter_context(generator(running, seed, names))
        watch = stack.enter_context(Watch(running, seed, names))
        say(f"{len(running.names)} processes run, {sum(accounts.values()):,} accounts have been read.")
        client.offer(Order([(rate, max(1.0, seconds / 6))]))  # its connections, and the caches' first answers
        began_at = time.time()
        course = _Course(running, client, watch, say)
        course.phase("steady", f"{rate:g} requests a second, nothing is read", [(rate, seconds)])
        course.phase(
            "spike",
            f"{SPIKE * rate:g} a second for a while",
            [(rate, seconds / 4), (SPIKE * rate, seconds / 4), (rate, seconds / 2)],
        )
        with _sweeping(running):
            _, before = running.teller.count()
            course.phase("sweep", f"{rate:g} a second while every account is read", [(rate, seconds)])
            running.wait(lambda: running.teller.count()[1] > before, "a reading of the sweep")
        with _growing_cold(running, seconds / 4):
            course.phase(
                "cold cache", f"{rate:g} a second; Redis is emptied and the API starts anew", [(rate, seconds)]
            )
        running.wait(running.is_ready, "the API")
        knee = find_knee(
            lambda at_rate: client.offer(Order([(at_rate, step_s)])), rate, most_steps=most_steps, say=say
        )
    return Load(
        seed,
        began_at,
        rate,
        seconds,
        accounts,
        course.phases,
        knee,
        watch.samples,
        watch.progress,
        watch.compared,
        len(watch.stale),
    )


class _Course:
    def __init__(self, running: Site, client: Generator, watch: Watch, say: Callable[[str], None]) -> None:
        self.phases: list[Phase] = []
        self._running, self._client, self._watch, self._say = running, client, watch, say

    def phase(self, name: str, said: str, parts: Sequence[tuple[float, float]]) -> None:
        began_at, (_, told) = time.time(), self._running.teller.count()
        first = _cpu(self._running.samples())
        offered = self._client.offer(Order(parts))
        ended_at = time.time()
        last = _cpu(self._running.samples())
        found = Phase(
            name,
            said,
            offered,
            began_at,
            ended_at,
            self._running.teller.count()[1] - told,
            _cores(first, last, ended_at - began_at),
        )
        self.phases.append(found)
        self._say(f"{name}: p99 {offered.times.p99} ms, {found.failed:,} of {offered.asked:,} failed")


def _cpu(samples: Sequence[Sample]) -> dict[tuple[str, int], float]:
    return {(one.kind, one.pid): one.cpu_s for one in samples}


def _cores(
    first: Mapping[tuple[str, int], float], last: Mapping[tuple[str, int], float], took_s: float
) -> dict[str, float]:
    """Return by kind what its processes used between two looks; what ended between them is left out."""
    used: Counter[str] = Counter()
    for (kind, pid), cpu_s in last.items():
        used[kind] += cpu_s - first.get((kind, pid), 0.0)  # type: ignore[assignment]  # a Counter of seconds
    return {kind: round(max(0.0, cpu_s) / took_s, 3) for kind, cpu_s in used.items()}


@contextmanager
def _sweeping(running: Site) -> Iterator[None]:
    """Make all accounts due, and again when the last of them has been read."""
    stop = threading.Event()

    def make_due() -> None:
        while not stop.wait(1.0):
            running.make_due()

    thread = threading.Thread(target=make_due)
    running.make_due()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _growing_cold(running: Site, after_s: float) -> Iterator[None]:
    """After a while, empty the second level and let new API processes take the place of those that remember answers."""

    def chill() -> None:
        with redis.Redis.from_url(running.servers.redis.url) as client:
            for key in client.scan_iter("rollcall:cache:value:*"):
                client.delete(key)
        before = set(running.api_workers())
        os.kill(running.pids()["api"], signal.SIGHUP)
        running.wait(
            lambda: not before & (now := set(running.api_workers())) and len(now) == API_WORKERS, "new API processes"
        )

    timer = threading.Timer(after_s, chill)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def find_knee(
    offer: Callable[[float], Offered],
    first: float,
    *,
    most_steps: int = MOST_STEPS,
    say: Callable[[str], None] = print,
) -> Knee:
    """Raise the rate step by step until p99 leaves, then halve the distance between what was held and what wasn't."""
    steps: list[Step] = []
    held = left = None
    rate, bisections = first, BISECTIONS
    while len(steps) < most_steps:
        found = offer(rate)
        bound_ms = max(LEAST_LEAVING_MS, LEAVES * (steps[0].times.p99 or 0.0)) if steps else float("inf")
        failed = sum(found.failed.values())
        has_left = found.times.p99 is None or found.times.p99 > bound_ms or failed > 0
        spent_s = max(1e-9, len(found.seconds))
        steps.append(
            Step(round(rate, 1), round(found.answered / spent_s, 1), found.times, failed, found.own_cpu, has_left)
        )
        say(f"knee: {rate:,.0f} a second: p99 {found.times.p99} ms{', too much' if has_left else ''}")
        if has_left:
            left = rate
        else:
            held = rate
        if left is None:
            rate *= GROWTH
        elif held is None or not bisections:
            break
        else:
            bisections -= 1
            rate = (held + left) / 2
    busiest = max((step.own_cpu for step in steps), default=0.0)
    return Knee(held and round(held, 1), left and round(left, 1), steps, is_of_client=busiest > 0.9)
