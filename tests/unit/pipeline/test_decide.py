"""What follows from an outcome."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide import Policy, backoff_s, decide, next_reading, outcome_of, outcomes, place_of
from pipeline.errors import BadPage, Gone, NotAllowed, PlatformDown, ScrapeError, TimedOut
from pipeline.records import Account, Missing, Next, Outcome, Result
from tests.fakes import NOON

POLICY = Policy(backoff_base_s=60, backoff_cap_s=21_600, gone_recheck_s=86_400, blocked_recheck_s=3_600)
DAY_S = 86_400
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def failed(before: int, chance: float, result: Result = "failed") -> Next:
    """Return what follows from an attempt without a reading, after so many of them in a row."""
    return decide(Outcome(1, result, "x"), before, NOON, POLICY, chance, again_at=None)


def account(seat: int = 0, platform: str = "x", host: str = "") -> Account:
    return Account(1, platform, "goose", "https://x.example/goose", host=host, seat=seat)


def test_a_good_reading_is_followed_by_the_next_and_ends_the_row_of_failures() -> None:
    decided = decide(Outcome(7, "ok"), 4, NOON, POLICY, chance=0.3, again_at=NOON + DAY)

    assert (decided.account_key, decided.result, decided.failures) == (7, "ok", 0)
    assert decided.due_at == NOON + DAY


def test_a_failure_waits_longer_each_time_up_to_the_cap() -> None:
    waits = [(failed(before, chance=1).due_at - NOON).total_seconds() for before in (0, 1, 2, 20, 5_000)]

    assert waits == [60, 120, 240, 21_600, 21_600]


@given(before=st.integers(0, 10_000), chance=st.floats(0, 1))
def test_jitter_spreads_a_retry_over_the_whole_wait(before: int, chance: float) -> None:
    decided = failed(before, chance)

    longest = timedelta(seconds=backoff_s(before + 1, base_s=60, cap_s=21_600))
    assert decided.due_at - NOON == pytest.approx(longest * chance, abs=timedelta(microseconds=1))
    assert decided.failures == before + 1


def test_a_gone_account_is_looked_for_ever_more_rarely_but_never_given_up() -> None:
    waits = [failed(n, 0, "gone").due_at - NOON for n in (0, 1, 2, 9)]

    assert waits == [DAY, 2 * DAY, 4 * DAY, 30 * DAY]


def test_a_blocked_account_keeps_its_reason_and_waits_for_a_person() -> None:
    decided = decide(Outcome(1, "blocked", "needs X_BEARER_TOKEN"), 0, NOON, POLICY, chance=0.5, again_at=None)

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


places = st.floats(0, 1, exclude_max=True)
intervals = st.integers(60, 400 * DAY_S)
moments = st.integers(0, 4_000_000_000).map(
    lambda s: datetime.fromtimestamp(s, UTC) + timedelta(microseconds=s % 977)
)


@given(now=moments, interval_s=intervals, place=places, read_at_s=st.none() | st.integers(0, DAY_S - 1))
def test_two_readings_are_never_far_more_than_the_interval_apart_nor_close_together(
    now: datetime, interval_s: int, place: float, read_at_s: int | None
) -> None:
    wait_s = (next_reading(now, interval_s, place=place, read_at_s=read_at_s) - now).total_seconds()

    assert interval_s // 24 < wait_s <= interval_s + max(1, interval_s // 24)


@given(now=moments, interval_s=intervals, place=places, late_s=st.lists(st.floats(0, 0.9), min_size=3, max_size=20))
def test_however_late_readings_are_each_round_has_one_at_the_account_s_own_place(
    now: datetime, interval_s: int, place: float, late_s: list[float]
) -> None:
    due = [next_reading(now, interval_s, place=place)]
    for share in late_s:  # of the interval
        due.append(next_reading(due[-1] + timedelta(seconds=share * interval_s), interval_s, place=place))

    assert {after - before for before, after in pairwise(due)} == {timedelta(seconds=interval_s)}


@given(
    place=places,
    attempts=st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 4)), min_size=5, max_size=60),
)
def test_through_failures_and_downtime_every_account_is_read_once_per_round_and_comes_back_to_its_place(
    place: float, attempts: list[tuple[bool, float, float]]
) -> None:
    now, failures, read = NOON, 0, []
    for is_good, chance, down_rounds in attempts:
        result: Result = "ok" if is_good else "failed"
        again_at = next_reading(now, DAY_S, place=place) if is_good else None
        decided = decide(Outcome(1, result), failures, now, POLICY, chance, again_at=again_at)
        read += [now] if is_good else []
        failures = decided.failures
        now = max(now, decided.due_at) + (down_rounds - 3) * DAY * (down_rounds > 3)

    own_s = int(place * (DAY_S - DAY_S // 24))
    rounds = [int((at.timestamp() - own_s) // DAY_S) for at in read]
    # A reading made up for just before the account's place stands for that round as well.
    assert max(Counter(rounds[1:]).values(), default=1) == 1
    last = next_reading(read[-1], DAY_S, place=place) if read else NOON
    assert not read or int(last.timestamp() - own_s) % DAY_S == 0


def test_accounts_that_one_call_carries_share_a_place_and_the_next_call_has_another() -> None:
    places = [place_of(account(seat), "profile", 100) for seat in range(300)]

    assert [set(places[start : start + 100]) for start in (0, 100, 200)] == [
        {places[0]},
        {places[100]},
        {places[200]},
    ]
    assert len(set(places)) == 3


def test_platforms_servers_and_posts_begin_their_rounds_at_different_times() -> None:
    starts = {
        place_of(account(), "profile", 1),
        place_of(account(), "posts", 1),
        place_of(account(platform="bluesky"), "profile", 1),
        place_of(account(platform="mastodon", host="one.example"), "profile", 1),
        place_of(account(platform="mastodon", host="two.example"), "profile", 1),
    }

    assert len(starts) == 5


@pytest.mark.parametrize(
    ("accounts", "batch"), [(10_000, 100), (10_000, 1), (9_973, 50), (250, 100), (1_000_000, 100)]
)
def test_no_hour_of_the_day_has_many_more_calls_than_another_and_the_last_is_kept_for_late_ones(
    accounts: int, batch: int
) -> None:
    calls = (place_of(account(seat), "profile", batch) for seat in range(0, accounts, batch))
    hours = Counter(next_reading(NOON, DAY_S, place=place).hour for place in calls)

    assert max(hours.values()) <= -(-accounts // batch) / 23 + 3
    assert 23 not in hours


def test_an_hour_of_the_day_gathers_every_account_and_late_ones_come_back_to_it() -> None:
    six = 6 * 3600
    on_time = NOON.replace(hour=6, minute=3)

    for read_at, due in [
        (on_time, on_time.replace(minute=0) + DAY),
        (on_time + 5 * HOUR, on_time.replace(minute=0) + DAY),
        (on_time - 2 * HOUR, on_time.replace(minute=0)),
        (on_time - timedelta(minutes=20), on_time.replace(minute=0) + DAY),
    ]:
        assert next_reading(read_at, DAY_S, place=0.4, read_at_s=six) == due


def test_at_an_hour_of_the_day_long_intervals_are_whole_days_and_short_ones_begin_there() -> None:
    six, on_time = 6 * 3600, NOON.replace(hour=6)

    assert next_reading(on_time, 7 * DAY_S, place=0.4, read_at_s=six) == on_time + 7 * DAY
    assert next_reading(on_time, 30 * 3600, place=0.4, read_at_s=six) == on_time + DAY
    due = [on_time]
    for _ in range(10):
        due.append(next_reading(due[-1], 5 * 3600, place=0.4, read_at_s=six))
    assert [at.hour for at in due] == [6, 11, 16, 21, 2, 6, 11, 16, 21, 2, 6]
