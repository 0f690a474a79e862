"""huey with a task that does nothing, or counts in Redis that it was done."""

import os

from huey import RedisHuey
from redis import Redis

huey = RedisHuey("peer", url=os.environ["PEER_REDIS"])


@huey.task()
def task(counted: str) -> None:
    if counted:
        Redis.from_url(os.environ["PEER_REDIS"]).incr(counted)


def publish(number: int, counted: str) -> None:
    for _ in range(number):
        task(counted)
