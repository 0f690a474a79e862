"""kombu's channel on Redis, where a connection that is gone is a connection error.

A message that is in a worker's hand when Redis goes away is acknowledged, or put back, by a channel whose connection has
been closed for good. kombu then fails with an AttributeError, which Celery takes for the end: the worker stops.

And one that acknowledges many messages in one round trip.

And connections that notice by themselves that they were cut: kombu's wait for an answer that never comes, and Linux
takes two hours to look after one that is silent.
"""

import socket
from collections.abc import Iterable, Mapping
from typing import Any

from kombu.transport import redis, virtual
from redis import ConnectionError

# An answer that takes longer doesn't come.
_ANSWER_S = 5
# A line that is silent for so long is tried, and given up when nothing came back for so long.
_SILENT_S = 10
_UNANSWERED_S = 15
_TRIES = {
    "TCP_KEEPIDLE": _SILENT_S,
    "TCP_KEEPINTVL": _UNANSWERED_S // 3,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": _UNANSWERED_S * 1000,
}


def line_options(broker: str) -> Mapping[str, object]:
    """Return the transport options by which a connection to this broker ends soon after it was cut.

    RabbitMQ's has heartbeats for that; a unix socket can't be cut, and kombu leaves these out there.
    """
    if not broker.startswith(("redis", "rediss")):
        return {}
    return {
        "socket_timeout": _ANSWER_S,
        "socket_connect_timeout": _ANSWER_S,
        "socket_keepalive": True,
        # Other systems than Linux lack some.
        "socket_keepalive_options": {getattr(socket, k): v for k, v in _TRIES.items() if hasattr(socket, k)},
        "health_check_interval": 10,
    }


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
