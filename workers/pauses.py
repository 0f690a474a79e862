"""When a platform says to slow down or to stop: its pause, for every worker and the planner.

A pause stands in the database, where the planner looks before it claims, and in Redis, where every worker looks
before it calls.
"""

from collections.abc import Callable
from datetime import datetime

import structlog
from redis import RedisError

from db import claims
from db.claims import Pause
from db.engine import Engine, transaction
from pipeline.errors import NotAllowed, QuotaSpent, RateLimited
from pipeline.messages import task_name
from pipeline.platforms import Platform
from pipeline.records import Job, Kind
from workers.allowance import SharedAllowance
from workers.reset import Allowance

log = structlog.get_logger()

# With fewer calls left than this until the reset, what is left of the window is spread over them.
FEW_LEFT = 10
# The longest that a message waits in a worker's hand; a longer wait is a pause.
LONGEST_HOLD_S = 30.0


def pause_of(error: RateLimited) -> Pause:
    """Return the pause that a platform's refusal asks for."""
    return Pause(
        error.platform, error.retry_at, error.reason, "quota" if isinstance(error, QuotaSpent) else "limited"
    )


class Pauses:
    """The pauses of one platform."""

    def __init__(self, engine: Engine, platform: Platform, allowance: SharedAllowance) -> None:
        self._engine = engine
        self._platform = platform
        self._allowance = allowance

    def standing(self) -> Pause | None:
        """Return a pause that Redis holds and the database perhaps not yet (the day's quota is spent), or None."""
        try:
            return self._allowance.paused(self._platform.name)
        except RedisError:
            return None  # the consumer lets nothing through while it can't ask

    def give_back(self, job: Job, pause: Pause) -> None:
        """Pause the platform as a whole and put the job back until then, at no cost of attempts."""
        self._pause(pause)
        with transaction(self._engine) as conn:
            claims.release(conn, job, until=pause.until)

    def block(self, error: NotAllowed, until: datetime) -> None:
        """Let a refused credential rest until a person has mended it, or for a while."""
        if "{host}" in self._platform.base_url:
            return  # a platform of many servers: one that refuses says nothing of the others
        with transaction(self._engine) as conn:
            claims.pause(conn, platform=self._platform.name, until=until, reason=error.reason, result="blocked")

    def heed(self, kind: Kind, said: Allowance, now: datetime) -> None:
        """Slow down before the platform has to say 429: its headers outrank our table of limits."""
        if said.remaining is None or said.reset_at is None or said.remaining >= FEW_LEFT:
            return
        left_s = (said.reset_at - now).total_seconds()
        spread_s = left_s / max(said.remaining, 1)
        if said.remaining < 1 or spread_s > LONGEST_HOLD_S:
            self._pause(Pause(self._platform.name, said.reset_at, "the allowance is used up", "limited"))
        elif left_s > 0:
            self._in_redis(lambda: self._allowance.slow(task_name(self._platform.name, kind), for_s=spread_s))

    def _pause(self, pause: Pause) -> None:
        with transaction(self._engine) as conn:
            claims.pause(
                conn, platform=self._platform.name, until=pause.until, reason=pause.reason, result=pause.result
            )
        self._in_redis(lambda: self._allowance.pause(pause))
        log.warning(
            "platform_paused", platform=self._platform.name, until=pause.until.isoformat(), reason=pause.reason
        )

    def _in_redis(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except RedisError as exc:  # the database has it, and nobody calls while Redis is away
            log.warning("allowance_unreachable", error=type(exc).__name__)
