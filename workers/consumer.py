"""Celery's consumer with exact limits: one armed timer per bucket, held messages in the order of their lanes.

The stock consumer arms a timer per held message and lets them race, which at 5/s gave 2 to 4 calls a second; it
holds messages first in, first out, so that what a person asked for waits behind the sweep; and each worker counts
for itself. Here one bucket per task asks the allowance that all workers share. Celery's remote command `rate_limit`
(and Flower's button for it) changes that allowance, and so the whole fleet.

A message that is none of ours (workers/strangers.py) is refused before Celery sees it, and logged without its words.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from celery.utils.time import rate as celery_rate
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.control import control_command, nok, ok
from redis import RedisError

from pipeline import lanes
from pipeline.limits import Rate
from workers import strangers
from workers.allowance import Slot, TaskAllowance
from workers.pauses import LONGEST_HOLD_S
from workers.turn import ASK_AGAIN_S

log = structlog.get_logger()

_RANKS = 2  # as `lanes.rank` gives them


class Bucket:
    """The held messages of one task, those of people first, then by arrival. Every operation costs the same."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.timer: Any = None
        """The armed entry of the consumer's timer, None while nothing waits."""
        self._held: tuple[deque[Any], ...] = tuple(deque() for _ in range(_RANKS))
        self._ranks: dict[str, int] = {}

    def __bool__(self) -> bool:
        return True  # Celery asks whether there is a bucket, not whether it holds something

    def __len__(self) -> int:
        return sum(map(len, self._held))

    @property
    def allowance(self) -> TaskAllowance:
        return self.task.allowance  # type: ignore[no-any-return]  # Celery has no types

    @property
    def is_for_person(self) -> bool:
        """Say whether the message whose turn it is was asked for by a person."""
        return bool(self._held[0])

    def add(self, request: Any) -> bool:
        """Hold a message; say no where its job is held already, as near to its turn."""
        rank = lanes.rank(request.delivery_info)
        if self._ranks.get(request.id, _RANKS) <= rank:
            return False
        self._ranks[request.id] = rank
        self._held[rank].append(request)
        return True

    def pop(self) -> Any:
        """Return the message whose turn it is."""
        return self._taken(next(held for held in self._held if held).popleft())

    def pop_last(self) -> Any:
        """Return the message that would wait longest."""
        return self._taken(next(held for held in reversed(self._held) if held).pop())

    def clear_pending(self) -> None:
        """Forget held messages: the connection they came by is gone, and they come again."""
        self.disarm()
        for held in self._held:
            held.clear()
        self._ranks.clear()

    def disarm(self) -> None:
        """Let the timer go, which Celery may have cancelled with those of a broken connection."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _taken(self, request: Any) -> Any:
        self._ranks.pop(request.id, None)
        return request


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery has no types
    """The consumer of a dedicated worker (`worker_consumer`), whose tasks carry their `TaskAllowance`."""

    def bucket_for_task(self, task: Any) -> Bucket | None:
        """Return the bucket of a task of ours, also where its rate is 0: pauses and quotas hold for it as well."""
        if not hasattr(task, "allowance"):
            return None  # one of Celery's own
        try:
            task.rate_limit = task.allowance.shared.rate_set(task.name) or task.allowance.rate
        except RedisError as exc:  # what was set counts all the same, and is shown with the first slot
            log.warning("allowance_unreachable", error=type(exc).__name__)
        return self.task_buckets[task.name] or Bucket(task)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Return what takes a lane's messages; jobs' ids for our own tasks alone."""
        take: Callable[[Any], None] = super().create_task_handler(*args, **options)
        ours = {name for name, task in self.app.tasks.items() if hasattr(task, "allowance")}

        def received(message: Any) -> None:
            if fault := strangers.fault(message, ours):
                log.error("message_refused", why=fault, queue=message.delivery_info.get("routing_key"))
                message.reject_log_error(log, self.connection_errors)
            else:
                take(message)

        return received

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuse a remote command that can't be read: Celery would write it into the log."""
        log.error("message_refused", why="it can't be read", error=type(exc).__name__)
        message.ack()

    def change_rate(self, task: Any, rate: str) -> None:
        """Give a task another rate, in every worker and from now on. Raises ValueError, and RedisError."""
        task.allowance.set_rate(rate, _interval_s(rate))
        task.rate_limit = rate
        bucket = self.task_buckets[task.name]
        bucket.disarm()
        self._drain(bucket)

    def _limit_task(self, request: Any, bucket: Bucket, tokens: int) -> None:
        was_for_person = bucket.is_for_person
        if not bucket.add(request):
            request.acknowledge()  # a second message for a job that is in this worker's hand
        elif bucket.timer is None:
            self._drain(bucket)
        elif bucket.is_for_person and not was_for_person:
            bucket.disarm()
            self._drain(bucket)  # asks for the next slot, before another worker's core message has it

    def _drain(self, bucket: Bucket) -> None:
        """Let go what the allowance gives now; come back once, when it gives again."""
        bucket.timer = None
        while len(bucket):
            slot = self._ask(bucket)
            if slot.wait_s > 0:
                self._let_go_far_ones(bucket, slot)
                if len(bucket):
                    bucket.timer = self.timer.call_after(slot.wait_s, self._drain, (bucket,))
                return
            # Without a credential the platform is paused: the job gives itself back instead of being held until its
            # lease ends.
            self._let_go(bucket.pop(), slot)

    def _let_go_far_ones(self, bucket: Bucket, slot: Slot) -> None:
        """Let messages whose turn is far away go without a slot: their jobs wait in the database instead.

        Held longer than its lease, a job would be given out again and again, and a worker would take no other.
        """
        space_s = slot.space_s / len(bucket.allowance.credentials)
        while len(bucket) and (wait_s := slot.wait_s + (len(bucket) - 1) * space_s) > LONGEST_HOLD_S:
            self._let_go(bucket.pop_last(), Slot(wait_s=wait_s))

    def _let_go(self, request: Any, slot: Slot) -> None:
        request.request_dict["slot"] = slot  # the task finds it in its request
        self._limit_move_to_pool(request)

    def _ask(self, bucket: Bucket) -> Slot:
        try:
            slot = bucket.allowance.reserve(for_person=bucket.is_for_person)
        except RedisError as exc:
            log.warning("allowance_unreachable", error=type(exc).__name__)
            return Slot(wait_s=ASK_AGAIN_S)
        bucket.task.rate_limit = slot.rate or bucket.allowance.rate  # changed in another worker, maybe
        return slot


@control_command(  # type: ignore[untyped-decorator]
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit (e.g. 300/15m | 5/s | 0)>"
)
def rate_limit(state: Any, task_name: str, rate_limit: Any, **kwargs: Any) -> Mapping[str, str]:
    """Change the rate of a task in every worker; 0 for none, the rate of the settings to end the change."""
    task = state.app.tasks.get(task_name)
    if not hasattr(task, "allowance"):
        return nok("unknown task")  # type: ignore[no-any-return]  # Celery has no types
    try:
        state.consumer.change_rate(task, str(rate_limit))
    except ValueError as exc:
        return nok(str(exc))  # type: ignore[no-any-return]
    except RedisError as exc:
        return nok(f"Redis can't be reached, so nothing was changed ({type(exc).__name__})")  # type: ignore[no-any-return]
    log.info("rate_changed", task=task_name, rate=task.rate_limit)
    return ok("new rate limit set successfully")  # type: ignore[no-any-return]


def _interval_s(text: str) -> float:
    """Read a rate as the settings write it (`300/15m`) or as Celery does (`5/s`, `0.5/m`, `5`); 0 s is no limit."""
    try:
        return Rate.parse(text).interval_s
    except ValueError as exc:
        said = f"{exc}, or as 0 for no limit"
    try:
        per_second = float(celery_rate(text or "?"))  # which takes nothing for no limit
    except (KeyError, ValueError):
        raise ValueError(said) from None
    if not math.isfinite(per_second) or per_second < 0:
        raise ValueError(said)
    return 1 / per_second if per_second else 0.0
