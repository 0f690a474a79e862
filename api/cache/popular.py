"""Which requests are made most often: counted in each process, and by day in Redis for the whole fleet."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

KEY = "rollcall:cache:asked:"
_KEPT_S = 3 * 86_400
# A process counts so many different requests between two reports, and reports so many of them.
_MOST_COUNTED = 5_000
_MOST_REPORTED = 100


class Asked(NamedTuple):
    """A request in its own words: all that its answer can depend on. `query` is what stands behind the `?`."""

    path: str
    query: bytes
    accept: str | None
    accept_encoding: str | None


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    path: str
    query: str
    accept: str | None
    accept_encoding: str | None


class Popular:
    """Counts for one process. Used on the loop only."""

    def __init__(self) -> None:
        self._lately: Counter[Asked] = Counter()
        self._now: Counter[Asked] = Counter()

    def count(self, asked: Asked) -> None:
        if asked in self._now or len(self._now) < _MOST_COUNTED:
            self._now[asked] += 1

    def hottest(self, most: int) -> list[Asked]:
        """Return what was asked for most since the report before the last one."""
        return [asked for asked, _ in (self._lately + self._now).most_common(most)]

    async def report(self, redis: AsyncRedis) -> None:
        """Add what was counted since the last report to the counts of the day."""
        self._lately, self._now = self._now, Counter()
        key = _key(datetime.now(UTC).date())
        async with redis.pipeline(transaction=False) as pipe:
            for asked, times in self._lately.most_common(_MOST_REPORTED):
                pipe.zincrby(key, times, pack(asked))
            pipe.zremrangebyrank(key, 0, -_MOST_COUNTED)
            pipe.expire(key, _KEPT_S)
            await pipe.execute()


def pack(asked: Asked) -> bytes:
    return msgspec.json.encode(
        _Packed(asked.path, asked.query.decode("latin-1"), asked.accept, asked.accept_encoding)
    )


def unpack(packed: bytes | str) -> Asked:
    """Raises msgspec.DecodeError for what another version wrote."""
    found = msgspec.json.decode(packed, type=_Packed)
    return Asked(found.path, found.query.encode("latin-1"), found.accept, found.accept_encoding)


async def most_asked(redis: AsyncRedis, most: int) -> list[bytes]:
    """Return what was asked for most today and yesterday, packed, the most popular first."""
    found: Any = await redis.zunion(_days(), aggregate="SUM")
    return list(found[::-1][:most])


def most_asked_now(redis: Redis, most: int) -> list[bytes]:
    """Return the same to a command."""
    found: Any = redis.zunion(_days(), aggregate="SUM")
    return list(found[::-1][:most])


def _days() -> list[str]:
    today = datetime.now(UTC).date()
    return [_key(today), _key(today - timedelta(days=1))]


def _key(day: date) -> str:
    return f"{KEY}{day}"
