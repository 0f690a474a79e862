"""The three lanes of a platform, and what they are on each broker.

On Redis a lane is a queue. On RabbitMQ, which serves queues in turn, the lanes of a platform are priorities of one
queue (`x-max-priority`). Both are said here and nowhere else.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, get_args

from kombu import Exchange, Queue

from pipeline.records import Lane

LANES: tuple[Lane, ...] = get_args(Lane)
_SCRAPE = Exchange("scrape", type="direct")
_PRIORITY: dict[Lane, int] = {"user_requested": 2, "core": 1, "retry": 0}
# Retry goes ahead of core on every fifth look, so that it is never starved.
_TURNS = ("core", "core", "core", "core", "retry")


def queue_name(platform: str, lane: Lane) -> str:
    return f"{platform}.{lane}"


def queues(platform: str, broker: str) -> list[Queue]:
    """Return the queues that the workers of a platform consume from."""
    if _has_priorities(broker):
        options = {"x-max-priority": max(_PRIORITY.values())}
        return [Queue(platform, _SCRAPE, routing_key=platform, queue_arguments=options)]
    names = [queue_name(platform, lane) for lane in LANES]
    return [Queue(name, _SCRAPE, routing_key=name) for name in names]


def route(platform: str, lane: Lane, broker: str) -> dict[str, str | int]:
    """Return the publishing options that put a message into a lane.

    They name the queue and no exchange, so that Celery sends through the nameless one: on Redis that needs no table of
    bindings, which a flushed Redis would have lost, and every publishing with it.
    """
    if _has_priorities(broker):
        return {"queue": platform, "priority": _PRIORITY[lane]}
    return {"queue": queue_name(platform, lane)}


def rank(delivery: Mapping[str, Any]) -> int:
    """Return where a message stands among those that wait for the same limit (0, a person's, goes first)."""
    asked_for = lane_of(delivery["routing_key"]) == "user_requested"
    return 0 if asked_for or delivery.get("priority") == _PRIORITY["user_requested"] else 1


def lane_of(queue: str) -> str:
    """Return the lane that a queue's name ends in."""
    return queue.rpartition(".")[2]


class LaneCycle:
    """The order in which a worker on Redis looks at its queues (kombu's `queue_order_strategy`).

    What a person asked for comes first, always; core and retry share the rest by `_TURNS`.
    """

    def __init__(self) -> None:
        self._queues: list[str] = []
        self._turns: Iterator[str] = cycle(_TURNS)
        self._ahead = next(self._turns)

    def update(self, queues: Iterable[str]) -> None:
        self._queues[:] = queues

    def consume(self, n: int) -> Sequence[str]:
        """Return the queues in the order to look at them this time."""
        order = {"user_requested": 0, self._ahead: 1}
        return sorted(self._queues, key=lambda queue: order.get(lane_of(queue), 2))[:n]

    def rotate(self, last_used: str) -> str:
        """Take note of the queue that gave a message: a turn of core and retry is over when one of them gave."""
        if lane_of(last_used) != "user_requested":
            self._ahead = next(self._turns)
        return last_used


def _has_priorities(broker: str) -> bool:
    return broker.startswith(("amqp:", "amqps:", "pyamqp:"))
