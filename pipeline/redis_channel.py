"""kombu's channel on Redis, where a connection that is gone is a connection error.

A message that is in a worker's hand when Redis goes away is acknowledged, or put back, by a channel whose connection has
been closed for good. kombu then fails with an AttributeError, which Celery takes for the end: the worker stops.

And one that acknowledges many messages in one round trip.
"""

from collections.abc import Iterable
from typing import Any

from kombu.transport import redis, virtual
from redis import ConnectionError


class QoS(redis.QoS):  # type: ignore[misc]  # kombu has no types
    def ack_all(self, delivery_tags: Iterable[str]) -> None:
        """Do what `ack` does for each of them."""
        tags = list(delivery_tags)
        with self.pipe_or_acquire() as pipe:
            for tag in tags:
                self._remove_from_indices(tag, pipe)
            pipe.execute()
        for tag in tags:
            virtual.QoS.ack(self, tag)


class Channel(redis.Channel):  # type: ignore[misc]  # kombu has no types
    QoS = QoS

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("the connection of this channel is closed")
        return super()._connparams(asynchronous)


def install() -> None:
    """Let every connection to Redis that kombu makes from now on have such channels."""
    redis.Transport.Channel = Channel
