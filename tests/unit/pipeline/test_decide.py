"""What follows from an outcome."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide import Policy, backoff_s, decide, outcome_of, outcomes
from pipeline.errors import BadPage, Gone, NotAllowed, PlatformDown, ScrapeError, TimedOut
from pipeline.records import Missing, Outcome
from tests.fakes import NOON

POLICY = Policy(
    interval_s=86_400, backoff_base_s=60, backoff_cap_s=21_600, gone_recheck_s=86_400, blocked_recheck_s=3_600
)
DAY = timedelta(days=1)


def test_a_good_reading_comes_back_after_the_interval_and_ends_the_row_of_failures() -> None:
    decided = decide(Outcome(7, "ok"), 4, NOON, POLICY, chance=0.3)

    assert (decided.account_key, decided.result, decided.failures) == (7, "ok", 0)
    assert decided.due_at == NOON + DAY


def test_a_failure_waits_longer_each_time_up_to_the_cap() -> None:
    waits = [
        (decide(Outcome(1, "failed", "x"), before, NOON, POLICY, chance=1).due_at - NOON).total_seconds()
        for before in (0, 1, 2, 20, 5_000)
    ]

    assert waits == [60, 120, 240, 21_600, 21_600]


@given(before=st.integers(0, 10_000), chance=st.floats(0, 1))
def test_jitter_spreads_a_retry_over_the_whole_wait(before: int, chance: float) -> None:
    decided = decide(Outcome(1, "failed", "x"), before, NOON, POLICY, chance)

    longest = timedelta(seconds=backoff_s(before + 1, base_s=60, cap_s=21_600))
    assert decided.due_at - NOON == pytest.approx(longest * chance, abs=timedelta(microseconds=1))
    assert decided.failures == before + 1


def test_a_gone_account_is_looked_for_ever_more_rarely_but_never_given_up() -> None:
    waits = [decide(Outcome(1, "gone", "deleted"), n, NOON, POLICY, chance=0).due_at - NOON for n in (0, 1, 2, 9)]

    assert waits == [DAY, 2 * DAY, 4 * DAY, 30 * DAY]


def test_a_blocked_account_keeps_its_reason_and_waits_for_a_person() -> None:
    decided = decide(Outcome(1, "blocked", "needs X_BEARER_TOKEN"), 0, NOON, POLICY, chance=0.5)

    assert decided.reason == "needs X_BEARER_TOKEN"
    assert decided.due_at == NOON + timedelta(hours=1)


def test_every_account_of_a_job_gets_exactly_one_outcome_and_silence_is_a_failure() -> None:
    gone = Missing(account_key=2, result="gone", reason="suspended")

    found = outcomes([1, 2, 3], {1: None, 2: gone})

    assert found == [
        Outcome(1, "ok"),
        Outcome(2, "gone", "suspended"),
        Outcome(3, "failed", "left out of the platform's answer"),
    ]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (Gone("x", "not found"), "gone"),
        (NotAllowed("x", "needs X_BEARER_TOKEN"), "blocked"),
        (TimedOut("x", "no answer"), "failed"),
        (PlatformDown("x", "answered 503"), "failed"),
        (BadPage("x", "data[0].id"), "failed"),
    ],
)
def test_the_class_of_an_error_says_what_it_means_for_an_account(error: ScrapeError, result: str) -> None:
    assert outcome_of(9, error) == Outcome(9, result, str(error))
