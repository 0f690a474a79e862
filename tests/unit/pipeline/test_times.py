"""Times on the command line: spans, days and times that are past; anything else is told how to write it."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.times import past, span

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("6h", 21_600), (" 2d ", 172_800), ("1w", 604_800)]
)
def test_a_span_is_a_number_and_a_unit(text, seconds):
    assert span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "6", "h", "0s", "-6h", "6 h", "1.5h", "6H", "٣h", "6h30m", "1e9d"])
def test_what_is_no_span_is_told_how_to_write_one(text):
    with pytest.raises(ValueError, match="write it as 30s, 10m, 6h or 2d"):
        span(text)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("6h", NOON - timedelta(hours=6)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-02T11:30", datetime(2026, 3, 2, 11, 30, tzinfo=UTC)),
        ("2026-03-02T12:30+02:00", datetime(2026, 3, 2, 10, 30, tzinfo=UTC)),
    ],
)
def test_a_past_time_is_a_span_ago_or_written_out_in_utc(text, at):
    assert past(text, NOON) == at
    assert past(text, NOON).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("yesterday", "is not a time"),
        ("2026-13-01", "is not a time"),
        ("0001-01-01T00:00+23:00", "is not a time"),
        ("2026-03-03", "still to come"),
        ("999999999d", "before all time"),
        ("999999999w", "before all time"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        past(text, NOON)
