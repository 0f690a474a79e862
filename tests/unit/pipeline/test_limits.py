"""Rates as people write them."""

import pytest
from celery.utils.time import rate

from pipeline.limits import Rate


@pytest.mark.parametrize(
    ("text", "interval_s"),
    [("300/15m", 3.0), ("2/s", 0.5), ("1000/d", 86.4), ("60/m", 1.0), ("10000/15m", 0.09), ("1/h", 3600)],
)
def test_a_rate_says_the_seconds_between_two_calls(text: str, interval_s: float) -> None:
    assert Rate.parse(text).interval_s == pytest.approx(interval_s)


@pytest.mark.parametrize("text", ["300/15m", "2/s", "1000/d", "10000/15m", "7/3h"])
def test_celery_reads_the_same_rate(text: str) -> None:
    parsed = Rate.parse(text)

    assert 1 / rate(parsed.for_celery) == pytest.approx(parsed.interval_s, rel=1e-6)


@pytest.mark.parametrize("text", ["", "300", "0/s", "-1/s", "3/0m", "3/w", "3.5/s", "3/15", "3/m/s", "٣/s"])
def test_what_is_no_rate_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 300/15m"):
        Rate.parse(text)
