"""Whether a worker makes progress, told to its process manager, which replaces one that doesn't.

A process that hangs is there like one that works. So word is sent only while the event loop turns and no call is
older than it may be. A worker that waits makes progress too: for work, a limit or a pause its loop turns, and
without a broker it has none and tries to connect.
"""

import threading
import time
from typing import Any

import structlog
from celery import signals
from celery.bootsteps import StartStopStep

from pipeline import notify
from workers.leaving import Leaving

log = structlog.get_logger()

TURN_S = 1.0
# Redis is asked from the loop, and may take this long to answer or not.
LONGEST_TURN_S = 10.0


class Watch(StartStopStep):  # type: ignore[misc]  # Celery has no types
    """The step of Celery's consumer that sees it turn, and a thread that sees the step and the calls.

    `call_s`, the longest time that a call may take, is set by the composition root.
    """

    requires = (Leaving,)

    call_s: float

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **options)
        self._turned_at: float | None = None
        # By thread: Celery's own set of requests goes by a clock that may be set.
        self._began_at: dict[int, float] = {}
        signals.task_prerun.connect(self._begin, weak=False)
        signals.task_postrun.connect(self._end, weak=False)
        threading.Thread(target=self._watch, args=(c.leaving,), name="watch", daemon=True).start()

    def start(self, c: Any) -> None:
        self._turn()
        c.timer.call_repeatedly(TURN_S, self._turn)

    def stop(self, c: Any) -> None:
        self._turned_at = None

    def _turn(self) -> None:
        self._turned_at = time.monotonic()

    def _begin(self, **_: Any) -> None:
        self._began_at[threading.get_ident()] = time.monotonic()

    def _end(self, **_: Any) -> None:
        self._began_at.pop(threading.get_ident(), None)

    def _watch(self, leaving: Leaving) -> None:
        hung = False
        while True:
            if (hangs := self._hangs()) is None:
                notify.alive()
            elif not hung:
                log.error("no_progress", hangs=hangs)
            hung = hangs is not None
            leaving.end_if_overdue()
            time.sleep(TURN_S)

    def _hangs(self) -> str | None:
        """Return what makes no progress, if anything."""
        now = time.monotonic()
        turned_at = self._turned_at
        if turned_at is not None and now - turned_at > LONGEST_TURN_S:
            return "the event loop"
        if now - min(list(self._began_at.values()), default=now) > self.call_s:
            return "a call"
        return None
