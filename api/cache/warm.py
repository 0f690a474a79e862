"""Warming: what is asked for most is asked for by ourselves, after a start and when a purge ended its answer.

What is to be warmed after a start, or by command, stands in a list in Redis, from which each process takes some at a
time: so each request is made by one process, and the others find its answer in Redis.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.cache.popular import Asked, Popular, most_asked, unpack
from api.cache.threads import Threads

QUEUE_KEY = "rollcall:cache:to_warm"
STARTED_KEY = "rollcall:cache:started"
# How many are warmed after a start, and how many a second by one process at most.
MOST = 100
PER_SECOND = 20
# Of processes that start together, one says what is to be warmed.
_TOGETHER_S = 30
# So many are looked after when something was purged.
HOTTEST = 10
_LOOK_S = 1.0
_REPORT_EVERY = 5
_IDLE_S = 0.02

Ask = Callable[[Asked], Awaitable[None]]


class Warmer:
    """Asks for one answer at a time, and only while nobody waits for the database."""

    def __init__(self, popular: Popular, redis: Redis, threads: Threads) -> None:
        self._popular = popular
        self._redis = redis
        self._threads = threads
        self._purged = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def purged(self) -> None:
        """Note that a purge was heard; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._purged.set)

    async def work(self, ask: Ask) -> None:
        """Warm what there is to warm, for as long as the process lives."""
        self._loop = asyncio.get_running_loop()
        with suppress(RedisError, OSError):
            await self._queue_after_start()
        rounds = 0
        while True:
            if await self._hears_purge():
                await self._warm(ask, self._popular.hottest(HOTTEST))
            rounds += 1
            with suppress(RedisError, OSError):  # without Redis there is nothing to warm for others
                if rounds % _REPORT_EVERY == 0:
                    await self._popular.report(self._redis)
                await self._warm(ask, await self._taken())

    async def _hears_purge(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._purged.wait()
        was_purged = self._purged.is_set()
        self._purged.clear()
        return was_purged

    async def _queue_after_start(self) -> None:
        if await self._redis.set(STARTED_KEY, 1, nx=True, ex=_TOGETHER_S) and (
            packed := await most_asked(self._redis, MOST)
        ):
            await self._redis.delete(QUEUE_KEY)
            await self._redis.rpush(QUEUE_KEY, *packed)

    async def _taken(self) -> list[Asked]:
        found = []
        packed: Any = await self._redis.lpop(QUEUE_KEY, PER_SECOND)
        for one in packed or ():
            with suppress(msgspec.DecodeError):
                found.append(unpack(one))
        return found

    async def _warm(self, ask: Ask, requests: Iterable[Asked]) -> None:
        for asked in requests:
            while not self._threads.is_idle:
                await asyncio.sleep(_IDLE_S)
            await ask(asked)
            await asyncio.sleep(1 / PER_SECOND)
