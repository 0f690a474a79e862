"""Decide what follows from an outcome. Pure: the clock and the dice are arguments."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from pipeline.errors import Gone, NotAllowed, ScrapeError
from pipeline.records import Missing, Next, Outcome


class Policy(Struct, frozen=True):
    """The waits, in seconds, as the settings give them."""

    interval_s: float
    backoff_base_s: float
    backoff_cap_s: float
    gone_recheck_s: float
    blocked_recheck_s: float


def decide(outcome: Outcome, failures: int, now: datetime, policy: Policy, chance: float) -> Next:
    """Return how an account stands after an attempt, and when to come back.

    `failures` counts those in a row before this attempt, `chance` is a number from 0 to 1 (full jitter). A good
    reading ends the row; a gone account is looked for ever more rarely; a blocked one waits for a person.
    """
    failures = 0 if outcome.result == "ok" else failures + 1
    wait_s = _wait_s(outcome, failures, policy, chance)
    return Next(
        account_key=outcome.account_key,
        result=outcome.result,
        reason=outcome.reason,
        failures=failures,
        due_at=now + timedelta(seconds=wait_s),
    )


def _wait_s(outcome: Outcome, failures: int, policy: Policy, chance: float) -> float:
    match outcome.result:
        case "ok":
            return policy.interval_s
        case "gone":
            # A month is the longest: names come back, suspensions end.
            return backoff_s(failures, base_s=policy.gone_recheck_s, cap_s=30 * policy.gone_recheck_s)
        case "blocked":
            return policy.blocked_recheck_s
        case "failed":
            return chance * backoff_s(failures, base_s=policy.backoff_base_s, cap_s=policy.backoff_cap_s)


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
