from datetime import date, timedelta
from typing import Any

from api.resources.history import columns, missing_days
from api.schemas import Interval
from db.reads import Day

FIRST, LAST = date(2026, 2, 25), date(2026, 3, 10)  # a Wednesday, a Tuesday


def day(number: int, followers: int | None) -> Day:
    return Day(FIRST + timedelta(days=number), followers, None, None, None)


def followers(days: list[Day], interval: Interval) -> dict[str, Any]:
    dates, newest = columns(days, FIRST, LAST, interval)
    return {f"{d:%m-%d}": None if read is None else read.followers for d, read in zip(dates, newest, strict=True)}


def test_every_day_of_the_range_is_present_and_one_without_a_reading_is_null() -> None:
    found = followers([day(0, 10), day(2, 0)], "day")
    assert list(found.items())[:4] == [("02-25", 10), ("02-26", None), ("02-27", 0), ("02-28", None)]
    assert len(found) == 14


def test_a_week_or_month_is_its_last_reading_and_no_sum() -> None:
    days = [day(0, 10), day(1, 20), day(6, 30), day(12, 40)]
    assert followers(days, "week") == {"02-25": 20, "03-02": 30, "03-09": 40}
    assert followers(days, "month") == {"02-25": 20, "03-01": 40}
    assert followers([day(0, 10)], "week") == {"02-25": 10, "03-02": None, "03-09": None}


def test_a_held_day_is_no_reading_of_its_week() -> None:
    held = Day(FIRST + timedelta(days=1), None, None, None, None, is_held=True)
    assert followers([day(0, 10), held], "week") == {"02-25": 10, "03-02": None, "03-09": None}
    assert missing_days([day(0, 10), held], FIRST, FIRST + timedelta(days=2)) == [
        FIRST + timedelta(days=1),
        FIRST + timedelta(days=2),
    ]


def test_a_day_read_without_a_number_is_no_gap() -> None:
    assert missing_days([day(n, None) for n in range(14)], FIRST, LAST) == []
