"""Strict for people, weighted between core and retry, the same queues on both brokers."""

import pytest

from pipeline import lanes
from pipeline.lanes import LaneCycle


def test_each_lane_is_a_durable_queue_without_arguments_that_a_broker_would_compare() -> None:
    queues = [lanes.queue("x", lane) for lane in lanes.LANES]

    assert [queue.name for queue in queues] == ["x.user_requested", "x.core", "x.retry"]
    assert [(queue.durable, queue.queue_arguments) for queue in queues] == [(True, None)] * 3
    assert lanes.route("x", "retry") == {"queue": "x.retry"}


def test_the_person_s_lane_is_consumed_apart_from_the_others() -> None:
    assert (lanes.EXPRESS, *lanes.PLANNED) == lanes.LANES


def test_retry_goes_ahead_of_core_on_every_fifth_message() -> None:
    cycle = _cycle()
    firsts = []
    for _ in range(10):
        firsts.append(cycle.consume(2)[0])
        cycle.rotate(firsts[-1])

    assert firsts == ["x.core"] * 4 + ["x.retry"] + ["x.core"] * 4 + ["x.retry"]


def test_looking_without_finding_uses_up_no_turn() -> None:
    cycle = _cycle()
    for _ in range(7):
        assert cycle.consume(2) == ["x.core", "x.retry"]


@pytest.mark.parametrize(("lane", "rank"), [("user_requested", 0), ("core", 1), ("retry", 1)])
def test_a_held_message_of_a_person_ranks_before_the_others(lane: str, rank: int) -> None:
    assert lanes.rank({"routing_key": f"x.{lane}"}) == rank


def _cycle() -> LaneCycle:
    cycle = LaneCycle()
    cycle.update(["x.retry", "x.core"])
    return cycle
