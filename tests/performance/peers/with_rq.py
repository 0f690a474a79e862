"""rq with a task that does nothing, or counts in Redis that it was done. PEER_QUEUE names the queue, a worker class each."""

import os

from redis import Redis
from rq import Queue

_redis = Redis.from_url(os.environ["PEER_REDIS"])


def task(counted: str) -> None:
    if counted:
        _redis.incr(counted)


def publish(number: int, counted: str) -> None:
    """Publish all in one pipeline; results aren't kept, as nobody asks for them."""
    queue = Queue(os.environ["PEER_QUEUE"], connection=_redis)
    queue.enqueue_many([Queue.prepare_data(task, (counted,), result_ttl=0) for _ in range(number)])
