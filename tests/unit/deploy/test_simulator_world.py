"""The simulator's pure parts: ids that can be read back, growth that repeats, windows that end when they should."""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.simulator import names
from deploy.simulator.limits import Limit, Limits
from deploy.simulator.world import Account, Snowflake, World

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)
OUTCOMES = ("missing", "suspended", "deactivated", "private", "hidden", "renamed", "loginwall", "botpage", "zero")


@given(st.from_regex(r"[a-z0-9_]{1,15}", fullmatch=True))
def test_x_ids_are_read_back_as_the_name_they_were_made_from(name: str) -> None:
    number = names.WORDS.number(name)
    assert names.WORDS.name(number) == name
    assert len(str(number)) <= 24


@given(st.integers(min_value=1, max_value=10**19))
def test_every_number_is_the_id_of_one_name(number: int) -> None:
    assert names.WORDS.number(names.WORDS.name(number)) == number


@given(st.from_regex(r"[a-z0-9_.-]{1,22}", fullmatch=True))
def test_channel_ids_are_read_back_as_the_name_they_were_made_from(name: str) -> None:
    channel = names.channel_id(name)
    assert len(channel) == 24
    assert names.name_of_channel(channel) == name


@given(st.from_regex(r"[a-z0-9_.-]{1,100}", fullmatch=True))
def test_ids_of_digits_are_read_back_as_the_name_they_were_made_from(name: str) -> None:
    digits = names.numeric_id(name)
    assert digits.isdigit()
    assert names.name_of_number(digits) == name


def test_an_id_of_digits_from_elsewhere_has_no_name() -> None:
    assert [names.name_of_number(digits) for digits in ("100066204115008", "10897894")] == ["", ""]


@pytest.mark.parametrize("name", ["an_office_with_a_very_long_name", "größe", "with space", ""])
def test_channel_ids_of_other_names_are_repeatable_and_name_nobody(name: str) -> None:
    assert names.channel_id(name) == names.channel_id(name)
    assert len(names.channel_id(name)) == 24
    assert names.name_of_channel(names.channel_id(name)) is None


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?\.example\.org", fullmatch=True))
def test_dids_are_read_back_as_the_handle_they_were_made_from(handle: str) -> None:
    assert names.handle_of_did(names.did(handle)) == handle


def test_a_did_from_elsewhere_gets_a_handle_of_its_own() -> None:
    assert names.handle_of_did("did:plc:abcdefghijklmnopqrstuvwx") == "abcdefghijkl.bsky.social"


def test_outcomes_are_recognised_with_every_sign() -> None:
    assert names.is_marked("office_missing", "missing")
    assert names.is_marked("office-missing.example.org", "missing")
    assert names.is_marked("office.missing", "missing")
    assert not names.is_marked("missing", "missing")


def test_a_renamed_account_has_one_first_name() -> None:
    assert names.first_name("We_Moved") == names.first_name("we_renamed") == "we_renamed"
    assert names.present_name("we-renamed.example.org") == "we-moved.example.org"
    assert names.present_name(names.first_name("we.moved")) == "we.moved"


def test_every_account_of_the_shipped_list_is_an_ordinary_one(project: Path) -> None:
    with (project / "deploy/accounts/hhs.csv").open(newline="") as file:
        urls = [row["url"].lower() for row in csv.DictReader(file)]
    assert len(urls) == 99
    assert not [url for url in urls for outcome in OUTCOMES if names.is_marked(url, outcome)]


def _account(name: str = "newsroom", seed: int = 1) -> Account:
    return World(seed).account("x", name)


def test_the_same_question_gets_the_same_answer_and_another_seed_another_world() -> None:
    def numbers(seed: int) -> tuple[object, ...]:
        account = _account(seed=seed)
        return account.followers(NOON), account.following(NOON), account.posts(NOON), account.post(7, NOON)

    assert numbers(1) == numbers(1)
    assert numbers(1) != numbers(2)


def test_another_process_sees_the_same_world() -> None:
    # A simulator that is started again must go on with the numbers that were already stored.
    account = _account()
    assert (account.followers(NOON), account.following(NOON), account.posts(NOON)) == (1_531_044, 1_166, 533)


def test_growth_has_a_weekly_rhythm() -> None:
    """Over many accounts and weeks (the noise averages out) weekends bring less than Mondays."""
    by_weekday = [0.0] * 7
    for number in range(200):
        account = _account(f"office{number}")
        for day in range(28):
            begin = datetime(2026, 3, 2, tzinfo=UTC) + day * DAY
            gain = account.followers(begin + DAY) - account.followers(begin)
            by_weekday[begin.weekday()] += abs(gain) / account.followers(begin)
    saturday, monday = by_weekday[5], by_weekday[0]
    assert saturday < 0.8 * monday


def test_counts_change_within_the_day_without_a_jump_at_midnight() -> None:
    account = max((_account(f"office{number}") for number in range(50)), key=lambda one: one.followers(NOON))
    midnight = datetime(2026, 3, 3, tzinfo=UTC)
    daily = abs(account.followers(midnight) - account.followers(midnight - DAY))
    step = abs(account.followers(midnight) - account.followers(midnight - timedelta(seconds=1)))
    assert step <= max(1, daily // 100)


def test_an_account_marked_zero_has_nothing_but_zeros() -> None:
    account = _account("new_zero")
    assert account.followers(NOON) == account.following(NOON) == account.views(NOON) == account.posts(NOON) == 0


@given(st.integers(min_value=0, max_value=1500), st.integers(min_value=0, max_value=60))
def test_the_count_of_posts_is_the_number_of_posts_published_by_then(days: int, number: int) -> None:
    account = _account(f"office{number}")
    at = account.created_at + days * DAY
    posted = account.posts(at)
    assert account.post(posted, at).published_at > at
    assert posted == 0 or account.post(posted - 1, at).published_at <= at


def test_a_page_is_newest_first_and_never_from_the_future() -> None:
    page = _account().page(NOON, most=50, before=10**9)
    times = [post.published_at for post in page]
    assert len(page) == 50
    assert times == sorted(times, reverse=True)
    assert times[0] <= NOON


def test_engagement_grows_at_first_and_then_settles() -> None:
    account = max((_account(f"office{number}") for number in range(50)), key=lambda one: one.followers(NOON))
    published_at = account.post(100, NOON).published_at
    after = [account.post(100, published_at + days * DAY).likes for days in (0, 1, 3, 30, 300)]
    assert after == sorted(after)
    assert after[0] == 0
    assert after[1] > after[3] / 3
    assert after[3] == pytest.approx(after[4], rel=0.001)


def test_a_post_id_leads_back_to_the_moment_before_it() -> None:
    account = _account()
    ids = Snowflake(epoch_ms=1288834974657, bits=22)
    for index in (0, 1, 500):
        assert account.posts(ids.moment_before(ids.id(account.post(index, NOON)))) == index


def test_a_window_begins_with_its_first_request_and_is_renewed_at_its_end() -> None:
    limits, limit = Limits(), Limit(2, 900)
    granted = [limits.take("x", "users", limit, at).granted for at in (100, 999, 999.5, 1000)]
    assert granted == [True, True, False, True]
    assert limits.violations == {"x": 1}


def test_a_window_on_the_clock_ends_at_a_multiple_of_its_length() -> None:
    assert Limit(300, 300, on_the_clock=True).window_end(1_000_000.25) == 1_000_200


@pytest.mark.parametrize(
    ("at", "midnight"),
    [("2026-03-08T07:59:59", "2026-03-08T08:00:00"), ("2026-03-08T08:00:00", "2026-03-09T07:00:00")],
)
def test_a_day_in_california_ends_at_midnight_also_when_the_clocks_change(at: str, midnight: str) -> None:
    limit = Limit(10_000, 86_400, midnight_in="America/Los_Angeles")
    end = limit.window_end(datetime.fromisoformat(f"{at}+00:00").timestamp())
    assert datetime.fromtimestamp(end, UTC) == datetime.fromisoformat(f"{midnight}+00:00")


def test_a_rolling_window_gives_back_each_request_by_itself() -> None:
    limits, limit = Limits(), Limit(2, 100, rolling=True)
    taken = [limits.take("facebook", "app", limit, at) for at in (0, 60, 99, 100, 159, 160)]
    assert [one.granted for one in taken] == [True, True, False, True, False, True]
    assert [one.wait_s for one in taken] == [100, 40, 1, 60, 1, 40]
    assert [one.remaining for one in taken] == [1, 0, 0, 0, 0, 0]
    assert limits.violations == {"facebook": 2}


def test_windows_that_ended_are_forgotten() -> None:
    limits, limit = Limits(), Limit(300, 300)
    for number in range(20_000):
        limits.take("mastodon", f"host{number}.example", limit, float(number))
    assert len(list(limits.open_windows(0))) < 2000


def test_rolling_windows_that_still_count_are_not_forgotten() -> None:
    limits, limit = Limits(), Limit(2, 100, rolling=True)
    for at in (0.0, 90.0):
        limits.take("facebook", "app", limit, at)
    for number in range(3000):
        limits.take("facebook", f"app {number}", Limit(2, 5, rolling=True), 101.0)
    assert limits.take("facebook", "app", limit, 102.0).remaining == 0
    assert not limits.take("facebook", "app", limit, 103.0).granted
