"""What a soak must hold: pure functions from what was observed to a verdict, each with its figures and its reason."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean

from msgspec import Struct

from tests.performance.load.generator import MOST_FAILURES, Failure
from tests.performance.load.ledger import Kept, Told
from tests.performance.load.site import Sample

# A process is told of an end, and connects again, within this after a server is back.
GRACE_S = 2.0
# The simulator's clock is read before an answer leaves, the worker's when it has come: they are one machine's.
CLOCK_S = 0.005
# A service that was killed is back within this: its keeper's wait, a start, and a busy machine.
MOST_AWAY_S = 30.0
# Memory counts from this age on: before it modules are loaded, caches and pools fill.
WARM_S = 120.0
# And only of lives that were seen for so long after it.
LEAST_SEEN_S = 150.0
# What a process may gain in ten minutes; what one hit, one job or one message leaves behind comes to more.
MOST_GAINED_BYTES = 6 << 20
# These keep more the more there is, Flower the latest tasks; they are watched for a leak, not for what they are to keep.
MOST_GAINED_BY_KEEPERS_BYTES = 24 << 20
KEEPERS = ("PostgreSQL", "Redis", "flower")
_TEN_MINUTES_S = 600.0
_SHOWN = 5


class Blow(Struct, frozen=True):
    """What was done to a service, when, and when it was back (epoch seconds).

    `struck` is the process's name or the server's; `excuses` says which failures of requests it explains until then.
    """

    name: str
    struck: str
    at: float
    back_at: float
    excuses: tuple[str, ...] = ()

    def spans(self, begin: float, end: float, grace_s: float = GRACE_S) -> bool:
        return begin <= self.back_at + grace_s and end >= self.at - CLOCK_S


class Stale(Struct, frozen=True):
    """An answer that didn't show a reading that had been kept for `behind_s` (epoch seconds)."""

    at: float
    account: str
    behind_s: float


class Verdict(Struct, frozen=True):
    """Whether a promise held, with the figures of it; `reasons` name what doesn't hold. None: not to be judged by this run."""

    name: str
    is_met: bool | None
    said: str
    reasons: tuple[str, ...] = ()


def _verdict(name: str, said: str, reasons: Sequence[str]) -> Verdict:
    more = len(reasons) - _SHOWN
    shown = [*reasons[:_SHOWN], *([f"and {more:,} more"] if more > 0 else [])]
    return Verdict(name, not reasons, said, tuple(shown))


def readings(told: Iterable[Told], kept: Iterable[Kept], blows: Iterable[Blow], *, lease_s: float) -> Verdict:
    """Hold every number that was told against what was kept.

    A worker that is killed takes an answer with it that it hadn't written: that is made good by a later reading. Every
    other number stands in the books, once, as it was told.
    """
    killed: defaultdict[str, list[float]] = defaultdict(list)
    for blow in blows:
        if blow.struck.startswith("worker_"):
            killed[blow.struck.removeprefix("worker_")].append(blow.at)
    by_account: defaultdict[str, list[Told]] = defaultdict(list)
    for one in told:
        by_account[one.account].append(one)
    written: defaultdict[str, list[Kept]] = defaultdict(list)
    for two in kept:
        written[two.account].append(two)

    reasons = [f"{name}: kept, and never told of" for name in written.keys() - by_account.keys()]
    made_good = 0
    for account, numbers in by_account.items():
        numbers.sort(key=lambda one: one.at)
        moments = [one.at for one in numbers]
        found: Counter[int] = Counter()
        last_kept = max((one.at for one in written[account]), default=0.0)
        for row in written[account]:
            place = bisect_right(moments, row.at + CLOCK_S) - 1
            if place < 0 or numbers[place].followers != row.followers:
                said = numbers[place].followers if place >= 0 else "nothing"
                reasons.append(f"{account}: {row.followers} was kept, {said} was told")
            found[place] += 1
        for place, number in enumerate(numbers):
            if found[place] > 1:
                reasons.append(f"{account}: told once, kept {found[place]} times")
            if found[place]:
                continue
            if not any(number.at - CLOCK_S <= at <= number.at + lease_s for at in killed[number.platform]):
                reasons.append(f"{account}: {number.followers} was told, not kept, and no worker was killed then")
            elif last_kept < number.at:
                reasons.append(f"{account}: {number.followers} died with its worker, and was never read again")
            else:
                made_good += 1
    total, stand = sum(map(len, by_account.values())), sum(map(len, written.values()))
    said = f"{total:,} told, {stand:,} kept, {made_good:,} died with a killed worker and were read again"
    return _verdict("no reading is lost", said, reasons)


def snapshots(told: Iterable[Told], standing: Mapping[str, int | None]) -> Verdict:
    """Hold the newest snapshot of each account, once all is quiet, against the last number that was told of it."""
    last = {one.account: one.followers for one in sorted(told, key=lambda one: one.at)}
    reasons = [
        f"{account}: its snapshot says {standing.get(account)}, the platform said {followers}"
        for account, followers in last.items()
        if standing.get(account) != followers
    ]
    return _verdict("snapshots are what the platforms said last", f"{len(last):,} accounts", reasons)


def counts(seen: Mapping[str, int], counted: Mapping[str, int], at_stake: Mapping[str, int]) -> Verdict:
    """Hold the recorder's calls by platform against the simulator's.

    `at_stake` are the calls whose count a killed worker still had in hand: so many may be missing, and none elsewhere.
    """
    reasons, missing = [], 0
    for platform in sorted(seen.keys() | counted.keys()):
        lacks = seen.get(platform, 0) - counted.get(platform, 0)
        missing += lacks
        if not 0 <= lacks <= at_stake.get(platform, 0):
            reasons.append(
                f"{platform}: {counted.get(platform, 0):,} counted, {seen.get(platform, 0):,} seen,"
                f" at most {at_stake.get(platform, 0)} died with their workers"
            )
    said = f"{sum(seen.values()):,} calls seen, {missing:,} of them died uncounted with a killed worker"
    return _verdict("the recorder counts what the simulator saw", said, reasons)


def requests(asked: int, failures: Collection[Failure], blows: Sequence[Blow], began_at: float) -> Verdict:
    """Say which failures fell outside the seconds that a service was down in a way that explains them."""
    reasons = [
        f"{one.what} for {one.path} at {clock(one.at - began_at)}"
        for one in failures
        if not any(kind_of(one.what) in blow.excuses and blow.spans(one.at, one.ended_at) for blow in blows)
    ]
    if len(failures) >= MOST_FAILURES:
        reasons.append(f"{MOST_FAILURES:,} failed and were noted; of more nothing is known")
    what = ", ".join(f"{count:,} {name}" for name, count in Counter(one.what for one in failures).most_common())
    said = (
        f"{asked:,} asked, {len(failures):,} failed"
        + (f" ({what})" if what else "")
        + f", {len(reasons):,} unexplained"
    )
    return _verdict("no request fails while its services are up", said, reasons)


def clock(seconds: float) -> str:
    """Write a time since the beginning as the page does."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02}"


def kind_of(what: str) -> str:
    """Return what a failure is to a blow: an error that was answered, or a connection that was broken or refused."""
    return {"5": "5xx", "4": "4xx", "t": "timeout"}.get(what[0], "broken")


def gains(samples: Iterable[Sample]) -> dict[str, float]:
    """Return by kind what a process gains in ten minutes (bytes), of kinds that lived long enough.

    Each life of a process begins at a level of its own: the line is one slope through all of them, each about its middle.
    """
    lives: defaultdict[tuple[str, int], list[Sample]] = defaultdict(list)
    for one in samples:
        if one.age_s >= WARM_S:
            lives[one.kind, one.pid].append(one)
    over: defaultdict[str, float] = defaultdict(float)
    under: defaultdict[str, float] = defaultdict(float)
    for (kind, _), whole in lives.items():
        life = whole[:-1]  # it may have been ending in the last
        if not life or life[-1].age_s - life[0].age_s < LEAST_SEEN_S:
            continue
        middle, level = fmean(one.age_s for one in life), fmean(one.rss_bytes for one in life)
        over[kind] += sum((one.age_s - middle) * (one.rss_bytes - level) for one in life)
        under[kind] += sum((one.age_s - middle) ** 2 for one in life)
    return {kind: over[kind] / under[kind] * _TEN_MINUTES_S for kind in over}


def memory(samples: Sequence[Sample]) -> Verdict:
    """Hold what each kind of process gains against the bound; one that was never seen for long isn't judged."""
    found = gains(samples)
    if not found:
        said = f"no process lived for {WARM_S + LEAST_SEEN_S:g} s, as it must for this: make it longer"
        return Verdict("memory stays flat", None, said)
    reasons = [
        f"{kind} gains {gained / 2**20:.1f} MiB in ten minutes, at most {most / 2**20:g} may be"
        for kind, gained in found.items()
        if gained > (most := MOST_GAINED_BY_KEEPERS_BYTES if kind in KEEPERS else MOST_GAINED_BYTES)
    ]
    said = ", ".join(f"{kind} {gained / 2**20:+.1f}" for kind, gained in sorted(found.items()))
    return _verdict("memory stays flat", f"MiB in ten minutes: {said}", reasons)


def leftovers(left: Mapping[str, int]) -> Verdict:
    """Say what is still open once nothing is due any more."""
    reasons = [f"{count:,} {what}" for what, count in left.items() if count]
    return _verdict("nothing is left behind", "none of: " + ", ".join(left) if not reasons else "", reasons)


def caches(
    asked: int, stale: Iterable[Stale], wrong: Sequence[str], blows: Sequence[Blow], compared: int, began_at: float
) -> Verdict:
    """Judge answers given during the soak (they show every reading kept some time before) and at its end (all is equal).

    While a server is away nobody hears of a purge.
    """
    away = [blow for blow in blows if blow.struck in ("Redis", "PostgreSQL", "api")]
    late = [one for one in stale if not any(blow.spans(one.at - one.behind_s, one.at) for blow in away)]
    reasons = [f"{one.account} was {one.behind_s:.1f} s behind at {clock(one.at - began_at)}" for one in late] + list(
        wrong
    )
    return _verdict("caches answer right", f"{asked:,} answers compared under load, {compared:,} at the end", reasons)


def sweeps(kept: Sequence[Kept], accounts: int, *, least: int) -> Verdict:
    """Make sure that there was something to lose: every account was read again and again."""
    times = Counter(one.account for one in kept)
    fewest = min(times.values(), default=0) if len(times) == accounts else 0
    said = f"{accounts:,} accounts, each read {fewest} to {max(times.values(), default=0)} times"
    reasons = [] if fewest >= least else [f"an account was read {fewest} times, it should have been {least}"]
    return _verdict("sweeps go on", said, reasons)


def struck(blows: Iterable[Blow], wanted: Iterable[str]) -> Verdict:
    """Make sure that everything was struck that could be."""
    fallen = Counter(blow.name for blow in blows)
    reasons = [f"never: {name} (make it longer)" for name in wanted if not fallen[name]]
    return _verdict(
        "every blow fell", ", ".join(f"{name} {count}" for name, count in sorted(fallen.items())), reasons
    )


def returns(blows: Iterable[Blow]) -> Verdict:
    """Hold how long each service was away against what its start may take: what it excuses must end."""
    blows = list(blows)
    longest = max((blow.back_at - blow.at for blow in blows), default=0.0)
    reasons = [
        f"{blow.struck} was away for {blow.back_at - blow.at:.1f} s ({blow.name})"
        for blow in blows
        if blow.back_at - blow.at > MOST_AWAY_S
    ]
    return _verdict("what is struck comes back", f"after {longest:.1f} s at most", reasons)
