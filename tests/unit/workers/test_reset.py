"""Headers of limits, in every spelling that platforms use and in those that they don't."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.reset import DEFAULT_WAIT, LONGEST_WAIT, Allowance, allowance, retry_at

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
IN_5_MIN = NOW + timedelta(minutes=5)
EPOCH_IN_5_MIN = str(int(IN_5_MIN.timestamp()))


@pytest.mark.parametrize(
    ("headers", "remaining", "reset_at"),
    [
        ({"x-rate-limit-remaining": "299", "x-rate-limit-reset": EPOCH_IN_5_MIN}, 299, IN_5_MIN),
        ({"x-ratelimit-remaining": "299", "x-ratelimit-reset": "2026-03-02T12:05:00.000000Z"}, 299, IN_5_MIN),
        ({"x-ratelimit-remaining": "997.0", "x-ratelimit-reset": "300"}, 997, IN_5_MIN),
        ({"ratelimit-remaining": "0", "ratelimit-reset": EPOCH_IN_5_MIN}, 0, IN_5_MIN),
        ({"ratelimit-remaining": "7", "ratelimit-reset": "300"}, 7, IN_5_MIN),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "2026-03-02T13:05:00+01:00"}, 7, IN_5_MIN),
        ({"x-ratelimit-reset": "2026-03-02T12:05:00"}, None, IN_5_MIN),
        ({"x-rate-limit-remaining": "3"}, 3, None),
    ],
)
def test_every_spelling_of_a_window_is_read(
    headers: dict, remaining: float | None, reset_at: datetime | None
) -> None:
    assert allowance(headers, NOW) == Allowance(remaining, reset_at)


def usage(calls: float, cpu: float = 0, minutes: float = 0) -> dict[str, float | str]:
    return {
        "type": "pages",
        "call_count": calls,
        "total_cputime": cpu,
        "total_time": 3,
        "estimated_time_to_regain_access": minutes,
    }


@pytest.mark.parametrize(
    ("app", "businesses", "expected"),
    [
        pytest.param({"call_count": 28, "total_time": 31, "total_cputime": 25}, None, (31, None), id="of the app"),
        pytest.param(None, {"17": [usage(80)]}, (80, None), id="of a business"),
        pytest.param(
            None, {"17": [usage(10), usage(5, cpu=76)], "18": [usage(40)]}, (76, None), id="the fullest of all"
        ),
        pytest.param({"call_count": 99}, {"17": [usage(12)]}, (99, None), id="the app fuller than its businesses"),
        pytest.param(None, {"17": [usage(100, minutes=5)]}, (100, IN_5_MIN), id="minutes to wait"),
        pytest.param(None, {"17": [usage(104, minutes=5)], "18": [usage(2)]}, (104, IN_5_MIN), id="over the limit"),
        pytest.param(
            {"call_count": 100}, {"17": [usage(0, minutes=9999)]}, (100, NOW + LONGEST_WAIT), id="a day at most"
        ),
        pytest.param(None, {"17": [usage(0, minutes=-3)]}, (3, None), id="no time to go back"),
        pytest.param({}, None, (0, None), id="nothing used"),
        pytest.param({"call_count": "many"}, {"17": [usage(7)]}, (7, None), id="one that can't be read"),
    ],
)
def test_a_share_used_is_read_from_what_meta_says_of_each_limit(
    app: dict | None, businesses: dict | None, expected: tuple[float, datetime | None]
) -> None:
    said = {"x-app-usage": app, "x-business-use-case-usage": businesses}
    headers = {name: json.dumps(value) for name, value in said.items() if value is not None}
    used_percent, reset_at = expected
    assert allowance(headers, NOW) == Allowance(None, reset_at, used_percent)


@pytest.mark.parametrize(
    "said", ["", "{", "[]", "7", "null", '{"17": 3}', '{"17": [{"call_count": 1e999}]}', "{" * 5000]
)
def test_a_usage_that_can_t_be_read_counts_as_not_said(said: str) -> None:
    assert allowance({"x-business-use-case-usage": said}, NOW) is None


@pytest.mark.parametrize(
    "reset",
    [
        pytest.param(str(int((NOW - timedelta(hours=1)).timestamp())), id="past"),
        pytest.param("0", id="now"),
        pytest.param(str(int((NOW + timedelta(days=2)).timestamp())), id="days ahead"),
        pytest.param(str(int(IN_5_MIN.timestamp() * 1000)), id="milliseconds"),
        pytest.param("soon", id="a word"),
        pytest.param("nan", id="not a number"),
        pytest.param("1e400", id="infinity"),
        pytest.param("9" * 30, id="beyond the calendar"),
        pytest.param("299, 299", id="sent twice"),
    ],
)
def test_a_reset_that_can_t_be_true_counts_as_not_said(reset: str) -> None:
    said = {"x-rate-limit-remaining": "5", "x-rate-limit-reset": reset}
    assert allowance(said, NOW) == Allowance(5, None)
    assert retry_at(said, NOW) == NOW + DEFAULT_WAIT


def test_an_answer_that_says_nothing_of_a_limit_has_no_allowance() -> None:
    assert allowance({"date": "Mon, 02 Mar 2026 12:00:00 GMT", "x-rate-limit-limit": "300"}, NOW) is None
    assert allowance({"x-rate-limit-remaining": "-1"}, NOW) is None


@pytest.mark.parametrize(
    ("headers", "waited_s"),
    [
        ({"retry-after": "90"}, 90),
        ({"retry-after": "Mon, 02 Mar 2026 12:02:00 GMT"}, 120),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2026-03-02T12:05:00Z"}, 300),
        pytest.param({"retry-after": "90", "ratelimit-reset": EPOCH_IN_5_MIN}, 90, id="retry-after outranks"),
        pytest.param({"retry-after": "0", "ratelimit-reset": EPOCH_IN_5_MIN}, 300, id="no time at all is no answer"),
        pytest.param({"retry-after": "later", "ratelimit-reset": EPOCH_IN_5_MIN}, 300, id="garbage is passed over"),
        pytest.param({"x-business-use-case-usage": json.dumps({"17": [usage(100, minutes=19)]})}, 1140, id="minutes"),
        pytest.param(
            {"x-app-usage": '{"call_count": 100}'}, DEFAULT_WAIT.total_seconds(), id="all used, no time said"
        ),
        pytest.param({}, DEFAULT_WAIT.total_seconds(), id="nothing said"),
        pytest.param({"retry-after": "0"}, DEFAULT_WAIT.total_seconds(), id="never at once"),
        pytest.param({"retry-after": "172800"}, LONGEST_WAIT.total_seconds(), id="a day at most"),
    ],
)
def test_a_429_says_when_to_come_back(headers: dict, waited_s: float) -> None:
    assert retry_at(headers, NOW) == NOW + timedelta(seconds=waited_s)


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "x-ratelimit-reset", "ratelimit-remaining", "x-app-usage"]),
        st.text()
        | st.from_regex(
            r'\{"(call_count|estimated_time_to_regain_access)": -?[0-9]{1,3}e?[0-9]{1,3}\}', fullmatch=True
        ),
    )
)
def test_no_header_breaks_the_reading_or_causes_a_hot_loop(headers: dict) -> None:
    allowance(headers, NOW)
    assert NOW < retry_at(headers, NOW) <= NOW + LONGEST_WAIT


@given(st.from_regex(r"[-+0-9TZ:. WGMTa-z,]{1,40}", fullmatch=True))
def test_nothing_that_looks_like_a_date_breaks_the_reading(reset: str) -> None:
    assert NOW < retry_at({"retry-after": reset, "ratelimit-reset": reset}, NOW) <= NOW + LONGEST_WAIT
