"""Both brokers as a test handles them: each can be asked what waits, and be stopped and started again."""

from pathlib import Path

import redis
from celery import Celery

from deploy import embedded
from pipeline import lanes
from pipeline.records import Lane
from tests.rabbitmq import RabbitMQ


class RedisBroker:
    """A Redis of one test's own, beside the one that keeps answers and allowances."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def pid(self) -> int:
        assert self._server.process is not None
        return self._server.process.pid

    def start(self) -> None:
        self._server = embedded.start_redis(self._folder)

    def stop(self) -> None:
        """Stop in order; the messages stay."""
        self._server.stop()

    def kill(self) -> None:
        """End it as a power cut does: what it hadn't written to its file yet is lost."""
        process = self._server.process
        assert process is not None
        process.kill()
        process.wait()

    def clear(self) -> None:
        """Lose every message, and all else that it knows."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def unacknowledged(self, queue: str) -> int:
        """Return how many messages of a queue are still to be done, once nobody consumes from the broker."""
        with redis.Redis.from_url(self.url) as client:
            return int(client.llen(queue)) + sum(client.hlen(key) for key in ("unacked", f"{queue}.unacked_key"))

    def waiting(self, queue: str) -> int:
        """Return how many messages of a queue no worker holds."""
        with redis.Redis.from_url(self.url) as client:
            return int(client.llen(queue))


Broker = RedisBroker | RabbitMQ


def received(celery: Celery, lane: Lane, count: int) -> list[str]:
    """Take so many messages from a lane of X; return the ids of their jobs."""
    with celery.connection_for_read() as connection, connection.SimpleQueue(lanes.queue("x", lane)) as waiting:
        messages = [waiting.get(timeout=10) for _ in range(count)]
        for message in messages:
            message.ack()
        return [message.headers["id"] for message in messages]
