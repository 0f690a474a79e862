"""Decide what follows from an outcome. Pure: the clock and the dice are arguments."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from zlib import crc32

from msgspec import Struct

from pipeline.errors import Gone, NotAllowed, ScrapeError
from pipeline.records import Account, Missing, Next, Outcome, Result, Subject

_DAY_S = 86_400
# Its multiples, less their whole parts, lie evenly between 0 and 1 however many there are.
_GOLDEN_RATIO = (5**0.5 - 1) / 2


class Policy(Struct, frozen=True):
    """The waits, in seconds, as the settings give them."""

    backoff_base_s: float
    backoff_cap_s: float
    gone_recheck_s: float
    blocked_recheck_s: float


def decide(
    outcome: Outcome, failures: int, now: datetime, policy: Policy, chance: float, *, again_at: datetime | None
) -> Next:
    """Return how an account stands after an attempt, and when to come back.

    `failures` counts those in a row before this attempt, `chance` is a number from 0 to 1 (full jitter). A good
    reading ends the row and is followed by the next `again_at`, which only it needs; a gone account is looked for ever
    more rarely; a blocked one waits for a person.
    """
    failures = 0 if outcome.result == "ok" else failures + 1
    return Next(
        account_key=outcome.account_key,
        result=outcome.result,
        reason=outcome.reason,
        failures=failures,
        due_at=again_at or now + timedelta(seconds=_wait_s(outcome.result, failures, policy, chance)),
    )


def _wait_s(result: Result, failures: int, policy: Policy, chance: float) -> float:
    match result:
        case "gone":
            # A month is the longest: names come back, suspensions end.
            return backoff_s(failures, base_s=policy.gone_recheck_s, cap_s=30 * policy.gone_recheck_s)
        case "blocked":
            return policy.blocked_recheck_s
        case "failed":
            return chance * backoff_s(failures, base_s=policy.backoff_base_s, cap_s=policy.backoff_cap_s)
        case "ok":
            raise ValueError("a good reading needs the time of the next")


def next_reading(now: datetime, interval_s: int, *, place: float, read_at_s: int | None = None) -> datetime:
    """Return when an account that was just read is read again: at its place in the round, a whole second.

    A round lasts `interval_s`, and `place` (from 0 to 1) says where in it. With `read_at_s`, the second of the UTC day
    for all accounts, an interval of days ends at that time and a shorter one is counted from it, anew each day. A
    reading early or late, whatever the reason, doesn't move the place: the wait is more than a 24th of the interval,
    so that nothing is read twice in a row, and at most that much longer than the interval.
    """
    slack_s = max(1, interval_s // 24)
    latest_s = int(now.timestamp()) + interval_s + slack_s
    if read_at_s is None:
        # Not in a round's last 24th: a reading late in the day that is delayed would leave that day without one.
        past_s = (latest_s - int(place * (interval_s - slack_s))) % interval_s
    else:
        past_s = (latest_s - read_at_s) % _DAY_S % interval_s
    return datetime.fromtimestamp(latest_s - past_s, UTC)


def place_of(account: Account, subject: Subject, batch: int) -> float:
    """Return an account's place in the round, from 0 to 1.

    Neighbours by seat, as many as one call carries, share a place, so that spreading tears no call apart. Their
    places lie evenly, those of each platform and server from a start of its own.
    """
    start = crc32(f"{account.platform}/{account.host}/{subject}".encode()) / 2**32
    return (start + account.seat // batch * _GOLDEN_RATIO) % 1


def backoff_s(failures: int, *, base_s: float, cap_s: float) -> float:
    """Return the capped exponential wait after so many failures in a row (1 is the first)."""
    # The exponent is bounded, since 2.0**1024 is no float any more.
    return float(min(cap_s, base_s * 2 ** min(failures - 1, 60)))


def outcomes(keys: Sequence[int], found: Mapping[int, Missing | None]) -> list[Outcome]:
    """Return exactly one outcome per account of a job.

    `keys` are the job's accounts; `found` says Missing, or None for a good reading. An account that the answer says
    nothing about has failed: it is neither gone nor zero.
    """
    silent = Missing(account_key=0, result="failed", reason="left out of the platform's answer")
    return [_outcome(key, found.get(key, silent)) for key in keys]


def _outcome(key: int, missing: Missing | None) -> Outcome:
    return Outcome(key, "ok") if missing is None else Outcome(key, missing.result, missing.reason)


def outcome_of(key: int, error: ScrapeError) -> Outcome:
    """Return what a call that failed as a whole means for one of its accounts."""
    match error:
        case Gone():
            return Outcome(key, "gone", error.reason)
        case NotAllowed():
            return Outcome(key, "blocked", error.reason)
        case _:
            return Outcome(key, "failed", error.reason)
