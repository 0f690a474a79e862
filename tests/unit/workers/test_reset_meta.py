"""When Meta says that calls are answered again."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from workers.reset import retry_at

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def header(*minutes: object) -> dict[str, str]:
    uses = [{"type": "pages", "call_count": 100, "estimated_time_to_regain_access": one} for one in minutes]
    return {"x-business-use-case-usage": json.dumps({"17841400000000001": uses})}


def test_access_is_regained_after_the_longest_of_the_waits_that_are_named() -> None:
    assert retry_at(header(3, 19, 7), NOON) == NOON + 19 * MINUTE


def test_a_wait_of_more_than_a_day_is_a_mistake() -> None:
    assert retry_at(header(999_999), NOON) == NOON + timedelta(days=1)


@pytest.mark.parametrize(
    "headers", [{}, header(0), header(None), header(-5), {"x-business-use-case-usage": "rubbish"}]
)
def test_access_is_regained_in_an_hour_when_no_wait_is_named(headers: dict[str, str]) -> None:
    assert retry_at(headers, NOON, timedelta(hours=1)) == NOON + timedelta(hours=1)
