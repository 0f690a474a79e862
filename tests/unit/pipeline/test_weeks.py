"""Weeks: what they are called, which days they have, and which one a report is about."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from pipeline.weeks import Week, last_whole, reported

MONDAY = date(2026, 11, 23)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-W48", "2026W48", " 2026-w48 "])
def test_a_week_is_read_by_its_name(text: str) -> None:
    week = Week.parse(text)

    assert (week.first, week.last, week.before, str(week)) == (
        MONDAY,
        date(2026, 11, 29),
        date(2026, 11, 22),
        "2026-W48",
    )


def test_weeks_belong_to_the_year_that_has_most_of_their_days() -> None:
    assert str(Week.of(date(2027, 1, 3))) == "2026-W53"
    assert Week.parse("2026-W53").last == date(2027, 1, 3)


@pytest.mark.parametrize(
    "text", ["", "2026-W54", "2025-W53", "2026-W00", "0000-W01", "2026-48", "2026-11-23", "٢٠٢٦-W48"]
)
def test_what_is_no_week_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 2026-W48"):
        Week.parse(text)


@pytest.mark.parametrize(
    ("now", "week"),
    [
        (at(30, 6, 59), "2026-W47"),
        (at(30, 7), "2026-W48"),
        (at(30, 7).astimezone(timezone(timedelta(hours=-10))), "2026-W48"),
        (datetime(2026, 12, 6, 23, 59, tzinfo=UTC), "2026-W48"),
        (datetime(2026, 12, 7, 7, tzinfo=UTC), "2026-W49"),
    ],
)
def test_a_report_falls_due_at_its_hour_and_stays_so_until_the_next_one(now: datetime, week: str) -> None:
    assert str(reported(now, "monday", 7)) == week


def test_a_report_in_the_middle_of_a_week_is_about_the_one_before() -> None:
    assert str(reported(at(25, 12), "wednesday", 12)) == "2026-W47"
    assert str(reported(at(25, 11), "wednesday", 12)) == "2026-W46"
    assert str(last_whole(at(29, 23, 59))) == "2026-W47"
