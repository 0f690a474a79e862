"""Where the calls of each task stand in Redis, for those that look ahead: how far apart, and when the next one may go.

`workers.allowance` keeps these keys. A task's rate is what the settings say unless somebody changed it while running
(Celery's `rate_limit` command, or its button in Flower); what they said holds for every worker until it is taken back.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct
from redis import Redis

NEXT_KEY = "rollcall:allowance:next:"
RATES_KEY = "rollcall:allowance:rates"
QUOTA_KEY = "rollcall:allowance:quota:"
# Since when Redis remembers: it has forgotten the calls before then, if there were any.
SINCE_KEY = "rollcall:allowance:since"


class Override(Struct, frozen=True):
    """A rate set while running: seconds between two calls (0: no limit) and the rate as it was written."""

    space_s: float
    rate: str


class Units(Struct, frozen=True):
    """What is known of a day's quota: the units used by each credential since Redis remembers; None: it knows of no call."""

    since: datetime | None
    used: Mapping[str, int]


class Slots:
    """Reads the allowance that the workers share. Every method may raise RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # its types leave open whether answers are bytes

    def overrides(self) -> dict[str, Override]:
        """Return the rates that were set while running, by the task's name."""
        return overrides_of(self._redis.hgetall(RATES_KEY))

    def spaces(self) -> dict[str, float]:
        """Return the seconds between two calls of each task whose rate was set while running."""
        return {task: override.space_s for task, override in self.overrides().items()}

    def opens_in_s(self, pairs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], float]:
        """Return the seconds until each (task, label of a credential) may call again: 0 where it may now."""
        if not pairs:
            return {}
        with self._redis.pipeline(transaction=False) as both:
            both.time()
            both.mget([next_key(task, credential) for task, credential in pairs])
            (seconds, micros), moments = both.execute()
        now_s = seconds + micros / 1_000_000
        return {pair: max(0.0, float(at or 0) - now_s) for pair, at in zip(pairs, moments, strict=True)}

    def units(self, platform: str, credentials: Sequence[str], renewed_at: datetime) -> Units:
        """Return what these credentials (their labels) have used of the quota that is renewed then."""
        keys = [quota_key(platform, label, renewed_at) for label in credentials]
        since, *used = self._redis.mget([SINCE_KEY, *keys])
        if since is None:
            return Units(None, {})
        counted = {label: int(units or 0) for label, units in zip(credentials, used, strict=True)}
        return Units(datetime.fromtimestamp(float(since), UTC), counted)


def overrides_of(found: Mapping[bytes, bytes]) -> dict[str, Override]:
    """Return what the hash under RATES_KEY says."""
    return {task.decode(): msgspec.json.decode(raw, type=Override) for task, raw in found.items()}


def next_key(task: str, credential: str) -> str:
    """Return the key of the moment (Redis's clock, epoch seconds) from which the next call may go."""
    return f"{NEXT_KEY}{task}:{credential}"


def quota_key(platform: str, credential: str, renewed_at: datetime) -> str:
    """Return the key of the units that a credential has used of the day's quota that is renewed then."""
    return f"{QUOTA_KEY}{platform}:{credential}:{renewed_at:%Y%m%dT%H}"
