"""How a worker stops: it takes nothing more, hands back what it only held, finishes its calls, and leaves.

Celery's warm stop ends the event loop first: held messages then return to the broker when the last call is over, and
until then nothing is acknowledged and RabbitMQ hears no heartbeat. Here the loop goes on turning to the end. Its cold
stop can't end threads at all.
"""

import os
import signal
import time
from typing import Any

import structlog
from celery.bootsteps import StartStopStep
from celery.platforms import EX_FAILURE, EX_OK
from celery.worker import state as celery_state
from celery.worker.control import control_command
from kombu.common import ignore_errors

from pipeline import notify
from workers.express import Express

log = structlog.get_logger()

LOOK_S = 0.25


class Leaving(StartStopStep):  # type: ignore[misc]  # Celery has no types
    """The step of Celery's consumer that stops the worker: on SIGTERM, Ctrl-C or the remote command `shutdown`.

    `within_s`, the longest time that it may take, is set by the composition root.
    """

    requires = (Express,)

    within_s: float

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **options)
        c.leaving = self
        self._asked_at: float | None = None
        self._signals = 0
        self._takes = True
        self._loop_turns = False

    def start(self, c: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self._loop_turns = True
        c.timer.call_repeatedly(LOOK_S, self._look, (c,))

    def stop(self, c: Any) -> None:
        """The connection is lost, and what was held with it; or Celery stops, in its own way."""
        self._loop_turns = False
        if self._asked_at is not None:
            celery_state.should_stop = EX_OK

    def ask(self) -> None:
        """Begin to stop. A signal's handler calls this, so it takes no lock."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        if not self._loop_turns:
            celery_state.should_stop = EX_OK  # while it tries to reach its broker, Celery looks for that only

    def end_if_overdue(self) -> None:
        """End the process if its time is up or two signals came. Its calls are made again when their leases end."""
        if self._asked_at is None:
            return
        if self._signals > 1 or time.monotonic() - self._asked_at > self.within_s:
            log.error("stopped_hard", calls=len(celery_state.active_requests))
            os._exit(EX_FAILURE)  # threads can't be ended otherwise

    def _signalled(self, *_: Any) -> None:
        self._signals += 1
        self.ask()

    def _look(self, c: Any) -> None:
        if self._asked_at is None:
            return
        if self._takes:
            self._takes = False
            log.info("stopping", calls=len(celery_state.active_requests))
            notify.leaving()
            for consumer in (c.express, c.task_consumer):
                ignore_errors(c, consumer.cancel)
        for bucket in filter(None, c.task_buckets.values()):
            while len(bucket):
                bucket.pop().reject(requeue=True)
        if not celery_state.reserved_requests:
            celery_state.should_stop = EX_OK


@control_command()  # type: ignore[untyped-decorator]
def shutdown(state: Any) -> dict[str, str]:
    """Finish the calls under way, then stop."""
    # In place of Celery's own, for `rollcall drain` and for Flower's button.
    state.consumer.leaving.ask()
    return {"ok": "it stops when its calls under way are done"}
