"""What this process has counted, on its way to the recorder, until the database says that it has arrived.

The broker is a hint here too: it may be away, be flushed, or lose what a recorder that was killed had just taken (on
Redis a message is taken first and noted as taken after that). So every message is kept until it stands among those
that have been counted, and sent again where it doesn't. It counts once, however often it comes.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from itertools import count
from uuid import uuid4

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from msgspec import Struct

from db import metrics
from db.engine import DatabaseError, Engine, PoolTimeout, reading
from db.metrics import Counted, Sample
from pipeline.messages import publish_counted

log = structlog.get_logger()

# Messages kept at most, sent and unsent: some 10 MB, and hours of an API process.
MOST = 10_000
LOOK_S = 1.0
# A recorder takes a second or two. From the second time on, twice as long each time: it may be away for hours.
FIRST_WAIT_S = 10.0
LONGEST_WAIT_S = 3_600.0


class _Kept(Struct):
    """A message that may have to be sent again, and when (monotonic)."""

    counted: Counted
    wait_s: float
    again_at: float = 0.0


class Outbox:
    """Sends messages, whichever threads put them in; none of them waits for a broker that is known to be away."""

    def __init__(self, celery: Celery, engine: Engine, role: str) -> None:
        self._celery = celery
        self._engine = engine
        self._role = role
        self._sender = f"{role}-{uuid4().hex}"
        self._numbers = count(1)
        self._unsent: deque[_Kept] = deque()
        self._sent: dict[int, _Kept] = {}
        self._sending = threading.Lock()
        self._is_away = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="outbox", daemon=True)

    def start(self) -> None:
        """Send again what doesn't arrive, from now on."""
        self._thread.start()

    def send(self, samples: Iterable[Sample], *, at: datetime, gauges: Iterable[Sample] = ()) -> None:
        """Send what was counted in the minute of `at`, and how things stand."""
        if len(self._unsent) >= MOST:
            log.error("metrics_lost", reason=f"the broker has taken none of {MOST:,} messages")
            return
        counted = Counted(
            sender=self._sender,
            role=self._role,
            number=next(self._numbers),
            at=at,
            samples=tuple(samples),
            gauges=tuple(gauges),
        )
        self._unsent.append(_Kept(counted, FIRST_WAIT_S))
        # Whoever is sending sees what is put in meanwhile, or looks once more when it is done.
        while self._unsent and not self._is_away and self._sending.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._sending.release()

    def close(self) -> None:
        """Try once more to send what is left: the process ends."""
        self._closed.set()
        with self._sending:
            self._flush()
        if self._unsent:
            log.error("metrics_lost", messages=len(self._unsent), reason="the broker is away while this process ends")

    def _tend(self) -> None:
        while not self._closed.wait(LOOK_S):
            with suppress(DatabaseError, PoolTimeout):  # asked again in a second
                self._find_lost()
            with self._sending:
                self._flush()

    def _flush(self) -> None:
        """Send all that is unsent, as long as the broker takes it. Only for whoever has `_sending`."""
        self._is_away = False
        while self._unsent:
            kept = self._unsent[0]
            try:
                publish_counted(self._celery, kept.counted)
            except (OperationalError, OSError) as exc:
                log.warning("metrics_delayed", error=type(exc).__name__)
                self._is_away = True
                return
            self._unsent.popleft()
            kept.again_at = time.monotonic() + kept.wait_s
            self._sent[kept.counted.number] = kept
            if len(self._sent) > MOST:
                del self._sent[next(iter(self._sent))]

    def _find_lost(self) -> None:
        """Forget what has arrived of the messages that should have by now, and put the others in again."""
        now = time.monotonic()
        with self._sending:
            due = {number: kept for number, kept in self._sent.items() if kept.again_at <= now}
        if not due:
            return
        with reading(self._engine) as conn:
            missing = metrics.missing(conn, self._sender, due)
        with self._sending:
            for number, kept in due.items():
                self._sent.pop(number, None)
                if number in missing:
                    kept.wait_s = min(2 * kept.wait_s, LONGEST_WAIT_S)
                    self._unsent.append(kept)
