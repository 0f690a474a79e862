"""What a row of a history means, and what is wrong with one that isn't taken."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from pipeline.history_row import FIRST_DAY, Faulty, judge

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
NAIVE = datetime(2024, 3, 1, tzinfo=UTC).replace(tzinfo=None)
GOOD = {"account": "x/goose", "date": "2024-03-01", "followers": "5"}


def judged(**values):
    return judge({**GOOD, **values}, oldest=FIRST_DAY, now=NOW)


def test_a_row_says_its_day_and_its_numbers_and_what_is_empty_is_unknown():
    wanted = judged(followers=" 0 ", following="", engagement=None)
    assert (wanted.day, wanted.numbers) == (date(2024, 3, 1), (0, None, None, None))
    assert (wanted.captured_at, wanted.precision) == (datetime(2024, 3, 1, tzinfo=UTC), "exact")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("-5", "is negative"),
        (-5, "is negative"),
        ("12.5", "has a separator: write whole numbers"),
        (12.5, "is not a whole number"),
        (float("inf"), "is not a whole number"),
        ("1,234", "has a separator"),
        ("1.234", "has a separator"),
        ("1 234", "has a separator"),
        ("1\u202f234", "has a separator"),
        ("1'234", "has a separator"),
        ("12K", "is not a number: leave it empty"),
        ("n/a", "is not a number: leave it empty"),
        ("null", "is not a number: leave it empty"),
        ("-", "is not a number: leave it empty"),
        ("1e6", "is not a number"),
        ("+5", "is not a number"),
        ("0x10", "is not a number"),
        ("٥", "is not a number"),
        ("5²", "is not a number"),
        (True, "is not a number"),
        ([5], "is not a number"),
        ("9" * 19, "more than anyone counts"),
        ("9" * 5_000, "is not a number"),
        (2**63, "more than anyone counts"),
        (1e300, "is not a whole number"),
    ],
)
def test_a_count_that_is_none_is_told_with_its_column(value, reason):
    with pytest.raises(Faulty, match=f"^posts: .*{reason}") as told:
        judged(posts=value)
    assert len(str(told.value)) < 200


@pytest.mark.parametrize(
    ("value", "number"), [("5", 5), (5, 5), (5.0, 5), (float("nan"), None), ("007", 7), (2**63 - 1, 2**63 - 1)]
)
def test_counts_are_read_as_programs_write_them(value, number):
    assert judged(posts=value).numbers[2] == number


@pytest.mark.parametrize(
    "value",
    [
        "2024-03-01",
        " 2024-03-01 ",
        date(2024, 3, 1),
        NAIVE,
        "2024-03-01 00:00:00",
        "2024-03-01T23:59:59Z",
        "2024-02-29T20:00:00-05:00",
        datetime(2024, 2, 29, 20, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_a_day_may_carry_a_time_where_that_is_clear(value):
    assert judged(date=value).day == date(2024, 3, 1)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "has no date"),
        ("", "has no date"),
        ("01/03/2024", "is not a day: write it as"),
        ("2024-3-1", "is not a day"),
        ("20240301", "is not a day"),
        ("2024-W09-5", "is not a day"),
        ("2023-02-29", "is not a day"),
        ("yesterday", "is not a day"),
        (45_352, "is not a day"),
        ("2024-03-01 18:30", "has a time without its zone"),
        (NAIVE.replace(hour=18), "has a time without its zone"),
        ("2024-03-01Tea", "is not a day"),
        ("2026-03-03", "is still to come"),
        ("2002-12-31", "is before 2003-01-01, the oldest day"),
        ("0001-01-01T00:00:00+23:59", "is not a day that anyone"),
    ],
)
def test_a_day_that_is_none_is_told(value, reason):
    with pytest.raises(Faulty, match=reason):
        judged(date=value)


def test_today_is_taken_and_so_is_the_oldest_day_that_is_kept():
    assert judged(date="2026-03-02").captured_at < NOW
    assert judge({**GOOD, "date": "2024-03-01"}, oldest=date(2024, 3, 1), now=NOW).day == date(2024, 3, 1)
    with pytest.raises(Faulty, match="is before 2024-03-02"):
        judge(GOOD, oldest=date(2024, 3, 2), now=NOW)


def test_a_row_without_any_number_is_a_day_without_reading_unless_it_says_why():
    with pytest.raises(Faulty, match="has no number"):
        judged(followers="")
    assert judged(followers="", precision="hidden").numbers == (None,) * 4
    assert judged(followers="", posts="0").numbers == (None, None, 0, None)


def test_when_and_how_exactly_a_number_was_read_is_taken_over():
    wanted = judged(captured_at="2024-03-01T06:30:00Z", precision="rounded")
    assert (wanted.captured_at, wanted.precision) == (datetime(2024, 3, 1, 6, 30, tzinfo=UTC), "rounded")
    with pytest.raises(Faulty, match="precision: 'vague' is none of exact"):
        judged(precision="vague")


@pytest.mark.parametrize("value", ["2024-03-02T00:00:00Z", "2024-03-01T06:30:00", "2024-03-01", "morning", 7, NAIVE])
def test_a_time_of_reading_that_does_not_fit_the_day_is_told(value):
    with pytest.raises(Faulty, match=r"^captured_at: "):
        judged(captured_at=value)


def test_simulated_numbers_never_become_history():
    with pytest.raises(Faulty, match="simulated numbers are no history"):
        judged(source="simulated")
    assert judged(source="live").numbers[0] == 5


def test_a_handle_that_an_export_made_safe_is_read_as_it_was():
    assert judged(account=None, platform="reddit", handle="'-goose").name == ("", "", "reddit", "-goose")
    assert judged(account=None, platform="reddit", handle="'goose").name[3] == "'goose"
    with pytest.raises(Faulty, match=r"account: .* is not a name"):
        judged(account=["x/goose"])
