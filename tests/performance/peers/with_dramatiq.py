"""dramatiq with a task that does nothing, or counts in Redis that it was done."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from redis import Redis

dramatiq.set_broker(RedisBroker(url=os.environ["PEER_REDIS"]))


@dramatiq.actor
def task(counted: str) -> None:
    if counted:
        Redis.from_url(os.environ["PEER_REDIS"]).incr(counted)


def publish(number: int, counted: str) -> None:
    for _ in range(number):
        task.send(counted)
