"""The threads in which the database is read."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from pipeline.metrics import Times


class Threads(ThreadPoolExecutor):
    """A pool that knows whether it has anything to do: what nobody waits for is only begun when it has not.

    Work belongs to the request that it is for, in logs and traces.
    """

    def __init__(self, most: int) -> None:
        super().__init__(most, thread_name_prefix="read")
        self._lock = threading.Lock()
        self._in_hand = 0
        self._waited = Times()

    @property
    def is_idle(self) -> bool:
        return self._in_hand == 0

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._lock:
            self._in_hand += 1
        try:
            future = super().submit(copy_context().run, self._begin, time.perf_counter(), work, *args, **kwargs)
        except BaseException:
            self._ended()
            raise
        future.add_done_callback(self._ended)
        return future

    def take_waited(self) -> Times:
        """Return how long work waited for a thread since this was asked last."""
        with self._lock:
            waited, self._waited = self._waited, Times()
        return waited

    def _begin(self, put_in_at: float, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._waited.add(time.perf_counter() - put_in_at)
        return work(*args, **kwargs)

    def _ended(self, _: object = None) -> None:
        with self._lock:
            self._in_hand -= 1
