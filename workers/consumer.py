"""Celery's consumer with exact limits: one armed timer per bucket, held messages in the order of their lanes.

The stock consumer arms a timer per held message and lets them race, which at 5/s gave 2 to 4 calls a second; it
holds messages first in, first out, so that what a person asked for waits behind the sweep; and each worker counts
for itself. Here one bucket per task asks the allowance that all workers share.
"""

from bisect import insort
from collections.abc import Callable
from typing import Any

import structlog
from celery.utils.time import rate
from celery.worker.consumer import Consumer as CeleryConsumer
from redis import RedisError

from pipeline import lanes
from workers.allowance import SharedAllowance, Slot

log = structlog.get_logger()

# Redis is away: calling without an allowance would be a guess, so wait and ask again.
ASK_AGAIN_S = 1.0


class Bucket:
    """The held messages of one task, those of people first, then by arrival."""

    def __init__(self, reserve: Callable[[], Slot]) -> None:
        self.reserve = reserve
        self.armed = False
        self._held: list[tuple[int, int, Any]] = []
        self._arrivals = 0

    def __bool__(self) -> bool:
        return True  # Celery asks whether there is a bucket, not whether it holds something

    def __len__(self) -> int:
        return len(self._held)

    def add(self, request: Any) -> None:
        self._arrivals += 1
        insort(self._held, (lanes.rank(request.delivery_info), self._arrivals, request))

    def pop(self) -> Any:
        return self._held.pop(0)[2]

    def clear_pending(self) -> None:
        """Forget held messages: the connection they came by is gone, and they come again."""
        self._held.clear()


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery has no types
    """The consumer of a dedicated worker (`worker_consumer`). `allowance` is set by the composition root."""

    allowance: SharedAllowance

    def bucket_for_task(self, task: Any) -> Bucket | None:
        """Return a bucket for the task's rate limit; Celery calls this again when `rate_limit` is changed remotely."""
        per_second = rate(task.rate_limit)
        if not per_second:
            return None
        space_s = task.call.requests / per_second

        def reserve() -> Slot:
            return self.allowance.reserve(
                task.name, task.platform, task.credentials, space_s=space_s, requests=task.call.requests
            )

        return Bucket(reserve)

    def _limit_task(self, request: Any, bucket: Bucket, tokens: int) -> None:
        bucket.add(request)
        if not bucket.armed:
            self._drain(bucket)

    def _drain(self, bucket: Bucket) -> None:
        """Let go what the allowance gives now; come back once, when it gives again."""
        bucket.armed = False
        while len(bucket):
            slot = self._ask(bucket)
            if slot.wait_s > 0:
                bucket.armed = True
                self.timer.call_after(slot.wait_s, self._drain, (bucket,))
                return
            request = bucket.pop()
            # Without a credential the platform is paused: the job gives itself back instead of being held until its
            # lease ends. The task finds it in its request.
            request.request_dict["credential"] = slot.credential
            self._limit_move_to_pool(request)

    def _ask(self, bucket: Bucket) -> Slot:
        try:
            return bucket.reserve()
        except RedisError as exc:
            log.warning("allowance_unreachable", error=type(exc).__name__)
            return Slot(wait_s=ASK_AGAIN_S)
