from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from api.resources.history import Gap, columns, gaps
from api.schemas import Interval
from db.reads import AccountStanding, Day

FIRST, LAST = date(2026, 2, 25), date(2026, 3, 10)  # a Wednesday, a Tuesday
ACCOUNT = AccountStanding(
    account_key=1,
    platform="x",
    handle="agency",
    display_name=None,
    org_name=None,
    owner_team=None,
    account_type=None,
    is_core_account=False,
    is_active=True,
    account_url="https://x.example/agency",
    verified=None,
    bio=None,
    avatar_url=None,
    status="fresh",
    reason=None,
    consecutive_failures=0,
    last_attempt_at=datetime(2026, 3, 10, tzinfo=UTC),
    last_success_at=None,
    next_due_at=None,
)


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


def test_a_held_day_is_no_reading_of_its_week_and_a_gap_with_its_reason() -> None:
    held = Day(FIRST + timedelta(days=1), None, None, None, None, is_held=True)
    days = [day(0, 10), held, *(day(n, 30) for n in range(2, 14))]
    assert followers([day(0, 10), held], "week") == {"02-25": 10, "03-02": None, "03-09": None}
    assert gaps(days, FIRST, LAST, (FIRST, LAST), ACCOUNT) == [
        Gap(held.snapshot_date, held.snapshot_date, "held: a suspicious reading that no second one has confirmed")
    ]


def test_a_gap_says_what_is_known_of_it() -> None:
    days = [day(n, 1) for n in (3, 4, 7, 8)]
    known = (days[0].snapshot_date, days[-1].snapshot_date)
    failing = msgspec.structs.replace(ACCOUNT, status="failing", reason="timed out")
    assert gaps(days, FIRST, LAST, known, failing) == [
        Gap(date(2026, 2, 25), date(2026, 2, 27), "before the first reading"),
        Gap(date(2026, 3, 2), date(2026, 3, 3), "no reading on this day"),
        Gap(date(2026, 3, 6), date(2026, 3, 10), "timed out"),
    ]


def test_a_day_read_without_a_number_is_no_gap() -> None:
    assert gaps([day(n, None) for n in range(14)], FIRST, LAST, (FIRST, LAST), ACCOUNT) == []


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [("never", None, "not read yet"), ("paused", None, "paused"), ("blocked", "needs a key", "needs a key")],
)
def test_an_account_never_read_has_one_gap_with_its_reason(status: Any, reason: str | None, said: str) -> None:
    account = msgspec.structs.replace(ACCOUNT, status=status, reason=reason)
    assert gaps([], FIRST, LAST, None, account) == [Gap(FIRST, LAST, said)]
