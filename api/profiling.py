"""Hands on what this process has counted of its statements, for `rollcall db profile` and `/api/performance`."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from db.profiler import Profile, Report
from pipeline import profiles

EVERY_S = 5.0


async def keep_reports(profile: Profile, redis: Redis) -> None:
    """Keep the newest report in Redis, for as long as the process lives."""
    key = profiles.own_key()
    while True:
        await asyncio.sleep(EVERY_S)
        with suppress(RedisError, OSError):  # the next one has all that this one would have had
            now = time.time()
            async with redis.pipeline(transaction=False) as keep:
                keep.set(key, profiles.packed(profile.report()), ex=profiles.KEPT_S)
                keep.zadd(profiles.NAMES_KEY, {key: now})
                keep.zremrangebyscore(profiles.NAMES_KEY, 0, now - profiles.KEPT_S)
                await keep.execute()


async def kept_reports(redis: Redis) -> list[Report] | None:
    """Return what every process has counted; None when Redis is away."""
    try:
        names: Any = await redis.zrange(profiles.NAMES_KEY, 0, -1)
        values: Any = await redis.mget(names) if names else []
    except (RedisError, OSError):
        return None
    return profiles.unpacked(values)
