"""When a platform says to slow down or to stop: a pause of the credential, for every worker and the planner.

A pause stands in the database, where the planner looks before it claims, and in Redis, where every worker looks
before it calls. A refused credential is left alone while another may be used; where none is left, only what a person
asks for tries it again.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from redis import RedisError

from db import pauses
from db.engine import Engine, commit
from db.pauses import Pause
from pipeline.errors import QuotaSpent, RateLimited
from pipeline.messages import task_name
from pipeline.platforms import Platform
from pipeline.records import Kind
from workers.allowance import SharedAllowance
from workers.reset import Allowance

log = structlog.get_logger()

# With fewer calls left than this until the reset, what is left of the window is spread over them.
FEW_LEFT = 10
# From this share of a limit told in percent on, calls slow down; at the whole of it they stop.
SLOW_FROM_PERCENT = 75.0
# Where a platform tells percents without saying when they fall again: its windows roll over an hour.
ROLLING_WINDOW = timedelta(hours=1)
# The longest that a message waits in a worker's hand; a longer wait is a pause.
LONGEST_HOLD_S = 30.0


def pause_of(error: RateLimited, credential: str) -> Pause:
    """Return the pause that a platform's refusal asks for."""
    spent = isinstance(error, QuotaSpent)
    return Pause(error.platform, credential, error.retry_at, error.reason, "quota" if spent else "limited")


class Pauses:
    """The pauses of one platform, whose credentials have these labels.

    To write one down, a database that is away is waited for so many seconds.
    """

    def __init__(
        self,
        engine: Engine,
        platform: Platform,
        credentials: Sequence[str],
        allowance: SharedAllowance,
        *,
        patience_s: float = 0.0,
    ) -> None:
        self._engine = engine
        self._platform = platform
        self._credentials = credentials
        self._allowance = allowance
        self._patience_s = patience_s

    def until_free(self, standing: Sequence[Pause]) -> Pause | None:
        """Return what stands in the way when every credential has a pause, None when one of them may be used.

        `standing` are those of the database; Redis may know of one before it (a day's quota that is spent).
        """
        found = {pause.credential: pause for pause in standing if pause.platform == self._platform.name}
        for label in self._credentials:
            if label not in found and (pause := self._in_redis(label)) is not None:
                found[label] = pause
        if not all(label in found for label in self._credentials):
            return None
        return pauses.of_all([found[label] for label in self._credentials])

    def add(self, pause: Pause) -> None:
        """Pause a credential, for every worker and for the planner."""
        # Redis first: a database that is away would let every worker run into the same refusal.
        self._tell_redis(lambda: self._allowance.pause(pause))
        commit(self._engine, lambda conn: pauses.add(conn, pause), patience_s=self._patience_s)
        log.warning(
            "paused",
            credential=pause.credential,
            until=pause.until.isoformat(),
            reason=pause.reason,
            result=pause.result,
        )

    def unblock(self, credential: str) -> None:
        """Tell every worker that a refused credential works again: after the commit that ended its pause."""
        self._tell_redis(lambda: self._allowance.unblock(self._platform.name, credential))

    def heed(self, kind: Kind, credential: str, said: Allowance, now: datetime) -> None:
        """Slow down before the platform has to say 429: its headers outrank our table of limits."""
        wait_s = _wait_s(said, now)
        if wait_s > LONGEST_HOLD_S:
            until = said.reset_at or now + ROLLING_WINDOW
            self.add(Pause(self._platform.name, credential, until, "the allowance is used up", "limited"))
        elif wait_s > 0:
            task = task_name(self._platform.name, kind)
            self._tell_redis(lambda: self._allowance.slow(task, credential, for_s=wait_s))

    def _in_redis(self, credential: str) -> Pause | None:
        try:
            return self._allowance.paused(self._platform.name, credential)
        except RedisError:
            return None  # the consumer lets nothing through while it can't ask

    def _tell_redis(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except RedisError as exc:  # the database gets it too, and nobody calls while Redis is away
            log.warning("allowance_unreachable", error=type(exc).__name__)


def _wait_s(said: Allowance, now: datetime) -> float:
    """Return how long the next call should wait; 0 while enough is left, infinity when nothing is."""
    if said.used_percent is not None:
        used = (said.used_percent - SLOW_FROM_PERCENT) / (100 - SLOW_FROM_PERCENT)
        return math.inf if used >= 1 else max(0.0, used) * LONGEST_HOLD_S
    if said.remaining is None or said.reset_at is None or said.remaining >= FEW_LEFT:
        return 0.0
    left_s = max(0.0, (said.reset_at - now).total_seconds())
    return left_s / said.remaining if said.remaining >= 1 else math.inf if left_s else 0.0
