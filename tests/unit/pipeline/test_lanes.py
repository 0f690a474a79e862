"""Strict for people, weighted between core and retry, the same on both brokers."""

import pytest

from pipeline import lanes
from pipeline.lanes import LaneCycle

REDIS = "redis://localhost/0"
RABBITMQ = "amqp://localhost//"
QUEUES = ["x.retry", "x.core", "x.user_requested"]


def test_each_lane_is_a_queue_on_redis() -> None:
    assert [queue.name for queue in lanes.queues("x", REDIS)] == ["x.user_requested", "x.core", "x.retry"]
    assert lanes.route("x", "retry", REDIS) == {"queue": "x.retry"}


def test_the_lanes_are_priorities_of_one_queue_on_rabbitmq() -> None:
    (queue,) = lanes.queues("x", RABBITMQ)
    priorities = [lanes.route("x", lane, RABBITMQ)["priority"] for lane in lanes.LANES]

    assert queue.queue_arguments == {"x-max-priority": 2}
    assert priorities == sorted(priorities, reverse=True) == [2, 1, 0]


def test_what_a_person_asked_for_is_always_looked_at_first() -> None:
    cycle = _cycle()

    for _ in range(20):
        assert cycle.consume(3)[0] == "x.user_requested"
        cycle.rotate("x.core")


def test_retry_goes_ahead_of_core_on_every_fifth_message() -> None:
    cycle = _cycle()
    seconds = []
    for _ in range(10):
        seconds.append(cycle.consume(3)[1])
        cycle.rotate(seconds[-1])

    assert seconds == ["x.core"] * 4 + ["x.retry"] + ["x.core"] * 4 + ["x.retry"]


def test_looking_without_finding_and_messages_of_people_use_up_no_turn() -> None:
    cycle = _cycle()
    for _ in range(7):
        cycle.consume(3)
        cycle.rotate("x.user_requested")

    turns = []
    for _ in range(5):
        turns.append(cycle.consume(3)[1])
        cycle.rotate(turns[-1])
    assert turns == ["x.core"] * 4 + ["x.retry"]


@pytest.mark.parametrize(
    ("delivery", "rank"),
    [
        ({"routing_key": "x.user_requested", "priority": 0}, 0),
        ({"routing_key": "x.core", "priority": 0}, 1),
        ({"routing_key": "x.retry", "priority": None}, 1),
        ({"routing_key": "x", "priority": 2}, 0),
        ({"routing_key": "x", "priority": 1}, 1),
    ],
)
def test_a_held_message_of_a_person_ranks_before_the_others(delivery: dict[str, object], rank: int) -> None:
    assert lanes.rank(delivery) == rank


def _cycle() -> LaneCycle:
    cycle = LaneCycle()
    cycle.update(QUEUES)
    return cycle
