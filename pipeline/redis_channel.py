"""kombu's channel on Redis, where a connection that is gone is a connection error.

A message that is in a worker's hand when Redis goes away is acknowledged, or put back, by a channel whose connection has
been closed for good. kombu then fails with an AttributeError, which Celery takes for the end: the worker stops.

And one that acknowledges many messages in one round trip, and that doesn't make a client (60 µs) for each command: a
worker gives some ten per job.

And connections that notice by themselves that they were cut: kombu's wait for an answer that never comes, and Linux
takes two hours to look after one that is silent.

What lies in a queue without being a message ends nobody who consumes from it: it is thrown away, and logged without its
words. As it comes, kombu raises what the reading of it meets, and the process ends.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from queue import Empty
from typing import Any

import structlog
from kombu import compression
from kombu.transport import redis, virtual
from kombu.utils.json import loads
from redis import ConnectionError

log = structlog.get_logger()

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


class _NoMessage(Exception):
    """Bytes out of Redis are none that a process of ours sent."""


def _loads(text: Any) -> Any:
    try:
        return loads(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise _NoMessage from exc


class Message(redis.Channel.Message):  # type: ignore[misc]  # kombu has no types
    def __init__(self, payload: Any, *args: Any, **options: Any) -> None:
        try:
            super().__init__(payload, *args, **options)
            is_whole = isinstance(self.headers, dict) and isinstance(self.delivery_info["routing_key"], str)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise _NoMessage from exc
        if not is_whole or not self.body:
            raise _NoMessage


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
    Message = Message
    _lent: Any = None

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("the connection of this channel is closed")
        return super()._connparams(asynchronous)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Lend the channel's own client, which any number of threads may use, instead of making one for each command."""
        if client is None:
            pool = self.pool
            lent = self._lent
            # After a broken connection there is another pool.
            if lent is None or lent.connection_pool is not pool:
                lent = self._lent = self._create_client()
            client = lent
        yield client

    def _brpop_read(self, **options: Any) -> Any:
        with _throwing_away():
            return super()._brpop_read(**options)

    def _receive_one(self, c: Any) -> Any:
        with _throwing_away():
            return super()._receive_one(c)


@contextmanager
def _throwing_away() -> Iterator[None]:
    try:
        yield
    except _NoMessage:
        log.error("message_refused", why="it is no message")
        raise Empty from None


def install() -> None:
    """Let every connection to Redis that kombu makes from now on have such channels."""
    redis.Transport.Channel = Channel
    redis.loads = _loads
    # Nothing of ours is compressed, and what somebody else compressed may unpack to any size.
    compression._decoders.clear()
