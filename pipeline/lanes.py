"""The three lanes of a platform: three queues, which have the same names on both brokers.

What a person asked for is strict. Workers consume its queue on a channel of its own (`workers.express`), so that the
core messages that a worker holds never keep it in the broker; among those that wait for the same limit it goes first
(`rank`).

Core and retry share a channel. On Redis a worker looks at them in the order of `LaneCycle`. RabbitMQ serves the queues
of a channel in turn: retry gets half of the calls while both lanes hold messages. That is no more than it should
have, since the planner claims late and 4 to 1, and never less. Priorities of one queue (`x-max-priority`) would do
worse there: retry would wait for a moment without core messages, and priorities order only what is still in the
broker, not what workers hold already.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, get_args

from kombu import Exchange, Queue

from db.claims import DueLane
from pipeline.records import Lane

LANES: tuple[Lane, ...] = get_args(Lane)
EXPRESS: Lane = "user_requested"
PLANNED: tuple[Lane, ...] = ("core", "retry")
_SCRAPE = Exchange("scrape", type="direct")
# Retry goes ahead of core on every fifth job claimed, and on every fifth message, so that it is never starved.
TURNS: tuple[DueLane, ...] = ("core", "core", "core", "core", "retry")


def queue_name(platform: str, lane: Lane) -> str:
    return f"{platform}.{lane}"


def queue(platform: str, lane: Lane) -> Queue:
    """Return the queue that workers of a platform consume a lane from."""
    name = queue_name(platform, lane)
    return Queue(name, _SCRAPE, routing_key=name)


def route(platform: str, lane: Lane) -> dict[str, str]:
    """Return the publishing options that put a message into a lane.

    They name the queue and no exchange, so that Celery sends through the nameless one: on Redis that needs no table of
    bindings, which a flushed Redis would have lost, and every publishing with it.
    """
    return {"queue": queue_name(platform, lane)}


def rank(delivery: Mapping[str, Any]) -> int:
    """Return where a message stands among those that wait for the same limit (0, a person's, goes first)."""
    return 0 if lane_of(delivery["routing_key"]) == EXPRESS else 1


def lane_of(queue: str) -> str:
    """Return the lane that a queue's name ends in."""
    return queue.rpartition(".")[2]


class LaneCycle:
    """The order in which a channel on Redis looks at its queues, core and retry (kombu's `queue_order_strategy`)."""

    def __init__(self) -> None:
        self._queues: list[str] = []
        self._turns: Iterator[str] = cycle(TURNS)
        self._ahead = next(self._turns)

    def update(self, queues: Iterable[str]) -> None:
        self._queues[:] = queues

    def consume(self, n: int) -> Sequence[str]:
        """Return the queues in the order to look at them this time."""
        return sorted(self._queues, key=lambda queue: lane_of(queue) != self._ahead)[:n]

    def rotate(self, last_used: str) -> str:
        """Take note that a queue gave a message: a turn ends with it, not with a look that found nothing."""
        self._ahead = next(self._turns)
        return last_used
