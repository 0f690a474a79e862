"""The rates of calls that somebody changed while running, as the API asks Redis for them."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from pipeline import slots


async def spaces_set(redis: Redis) -> Mapping[str, float]:
    """Return the seconds between two calls by the tasks' names; none without Redis, where the settings' count."""
    try:
        found: Any = await redis.hgetall(slots.RATES_KEY)
    except (RedisError, OSError):
        return {}
    return {task: override.space_s for task, override in slots.overrides_of(found).items()}
