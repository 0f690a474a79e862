"""How much each caller may ask for: counted here, and settled with the other processes in the background.

A counter in Redis asked at each request would cost more than the hit that it guards (docs/performance.md). So each
process counts by itself and adds what it counted to Redis twice a second, where it learns what the others counted. What
a caller gets beyond the limit is at most what the other processes let through in that time. Without Redis each process
goes on to count for itself: the limit holds, once per process.

The windows are fixed ones, aligned to the clock: one number per caller adds up over processes, and the headers are
exact about it; the price is that the end of one window and the beginning of the next may be used up at once.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence

import structlog
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pipeline.limits import Rate

log = structlog.get_logger()

# Asked by load balancers, which must hear the truth however often they ask.
UNCOUNTED = frozenset({"/healthz", "/readyz"})
LIMIT_KEY = "rollcall:limit:"
SETTLE_S = 0.5
# Further callers of a window aren't counted: a flood from more addresses is none that counting addresses would stop.
MOST_CALLERS = 50_000
# Callers settled by one round trip.
_CHUNK = 1_000


class Standing(Struct, frozen=True):
    """What a caller has left in this window, of which `reset_s` seconds are left."""

    is_over: bool
    limit: int
    remaining: int
    reset_s: int


class _Spent:
    """What one caller asked for in this window: here, and by what the other processes had told when last settled."""

    __slots__ = ("others", "own", "told")

    def __init__(self) -> None:
        self.others = 0
        self.own = 0
        self.told = 0


class Allowance:
    """So many calls per window for each caller. `name` tells this limit's counters from another's. On the loop only."""

    def __init__(self, name: str, rate: Rate, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.rate = rate
        self.policy = f"{rate.calls};w={rate.period_s}"
        self._clock = clock
        self._process = uuid.uuid4().hex
        self._window = 0
        self._spent: dict[str, _Spent] = {}

    def spend(self, caller: str) -> Standing:
        """Count one call, unless the caller has none left."""
        spent = self._of(caller)
        calls = self.rate.calls
        is_over = spent.others + spent.own >= calls
        if not is_over:
            spent.own += 1
        left = max(0, calls - spent.others - spent.own)
        period_s = self.rate.period_s
        return Standing(is_over, calls, left, period_s - int(self._clock()) % period_s)

    def give_back(self, caller: str) -> None:
        """Count one call less: it turned out to be another caller's."""
        self._of(caller).own -= 1

    async def settle(self, redis: Redis) -> None:
        """Tell what was counted here, and hear what the others counted. Raises RedisError, OSError.

        A process tells its whole count and not what came to it: told twice, since an answer was lost, it counts once.
        """
        window, spent = self._window, self._spent
        unsettled = [(caller, one, one.own) for caller, one in spent.items() if one.own != one.told]
        for start in range(0, len(unsettled), _CHUNK):
            chunk = unsettled[start : start + _CHUNK]
            async with redis.pipeline(transaction=False) as pipe:
                for caller, _, own in chunk:
                    key = f"{LIMIT_KEY}{self.name}:{window}:{caller}"
                    pipe.hset(key, self._process, own)
                    pipe.expire(key, 2 * self.rate.period_s)
                    pipe.hvals(key)
                counts = (await pipe.execute())[2::3]
            for (_, one, own), of_each in zip(chunk, counts, strict=True):
                one.told = own
                one.others = sum(map(int, of_each)) - own

    def _of(self, caller: str) -> _Spent:
        window = int(self._clock()) // self.rate.period_s
        if window != self._window:
            self._window, self._spent = window, {}
        spent = self._spent.get(caller)
        if spent is None:
            spent = _Spent()
            if len(self._spent) < MOST_CALLERS:
                self._spent[caller] = spent
        return spent


async def keep_settling(allowances: Sequence[Allowance], redis: Redis) -> None:
    """Settle with the other processes, for as long as this one lives."""
    is_away = False
    while allowances:
        await asyncio.sleep(SETTLE_S)
        try:
            for allowance in allowances:
                await allowance.settle(redis)
            is_away = False
        except (RedisError, OSError) as exc:
            if not is_away:
                log.warning("limits_apart", error=type(exc).__name__)
            is_away = True
