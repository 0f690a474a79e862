"""The metrics as they are declared, and the arithmetic of times by class."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.metrics import BOUNDS, CLASSES
from pipeline.metrics import ALL, BY_NAME, CALLS, ERROR_PCT, READ_WAIT, Times, percentile_s


def test_names_are_prometheus_own_and_each_is_declared_once() -> None:
    assert len(BY_NAME) == len(ALL) > 20
    for metric in ALL:
        assert metric.name.startswith("rollcall_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.name.endswith("_seconds") or metric.kind != "timer", metric.name
        assert metric.help
        assert not {"handle", "account", "account_key", "worker", "process", "key"} & {*metric.labels}


def test_a_series_needs_every_label() -> None:
    with pytest.raises(AssertionError):
        CALLS.sample(1, "x", "profiles")
    with pytest.raises(AssertionError):
        READ_WAIT.timed(Times(), "x")


def test_bounds_rise_by_no_more_than_percentiles_may_err() -> None:
    assert [*BOUNDS] == sorted(set(BOUNDS))
    assert len(BOUNDS) + 1 == CLASSES
    for low, high in pairwise(BOUNDS):
        assert (high / low) ** 0.5 <= 1 + ERROR_PCT / 100


@given(st.lists(st.floats(min_value=1e-5, max_value=100), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_right_to_the_error_that_is_said(seconds: list[float], share: float) -> None:
    times = Times()
    for took_s in seconds:
        times.add(took_s)
    exact = sorted(seconds)[max(0, -(-len(seconds) * round(share * 100) // 100) - 1)]

    found = percentile_s(times.classes, share)

    assert found is not None
    assert exact / (1 + ERROR_PCT / 100) <= found <= exact * (1 + ERROR_PCT / 100) + 1e-9


def test_of_no_time_and_of_endless_ones() -> None:
    times = Times()
    assert percentile_s(times.classes, 0.5) is None
    times.add(1_000_000)
    assert percentile_s(times.classes, 0.5) == BOUNDS[-1]
    assert percentile_s((1, *(0,) * (CLASSES - 1)), 0.5) < BOUNDS[0]


def test_merged_times_are_those_of_both() -> None:
    random.seed(1)
    seconds = [random.expovariate(5) for _ in range(100)]
    one, two, both = Times(), Times(), Times()
    for place, took_s in enumerate(seconds):
        (one, two)[place % 2].add(took_s)
        both.add(took_s)

    one.merge(two)

    assert one.classes == both.classes
    assert one.seconds == pytest.approx(both.seconds)
