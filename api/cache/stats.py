"""What the caches did, by endpoint: counted in each process, kept in Redis for the fleet, and what follows from it.

A process writes all that it has counted every few seconds, into a key of its own; what one that ended had counted stays
for an hour.
"""

import asyncio
import socket
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct, structs
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

KEY = "rollcall:cache:counts:"
KEPT_S = 3600
EVERY_S = 5.0

# Below so many answers nothing is recommended: it would be chance.
_ENOUGH = 200


class Counts(Struct, kw_only=True):
    """Of one endpoint: answers by where they came from, and why answers left the memory of a process.

    `l1`, `l2`, `stale` and `misses` are answers to people; `not_modified` of them were 304s, `absent` said 404.
    `bytes` are those of the bodies. `refreshed` were read in the background, `warmed` were asked for by ourselves.
    """

    l1: int = 0
    l2: int = 0
    stale: int = 0
    misses: int = 0
    not_modified: int = 0
    absent: int = 0
    bytes: int = 0
    refreshed: int = 0
    warmed: int = 0
    expired: int = 0
    evicted: int = 0
    purged: int = 0

    @property
    def answers(self) -> int:
        return self.l1 + self.l2 + self.stale + self.misses

    @property
    def hit_rate(self) -> float | None:
        """Return which part of the answers came from a cache; None when there were none."""
        return None if not self.answers else 1 - self.misses / self.answers

    def add(self, other: "Counts") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Snapshot(Struct, frozen=True, kw_only=True):
    """What one process has counted `since` it was started; `purges` are those that it has heard."""

    since: datetime
    purges: int
    endpoints: Mapping[str, Counts]


class Stats:
    """Counts for one process."""

    def __init__(self) -> None:
        self._since = datetime.now(UTC)
        self._endpoints: dict[str, Counts] = {}
        self.purges = 0

    def of(self, endpoint: str) -> Counts:
        """Return the counts of an endpoint, to be raised in place."""
        return self._endpoints.setdefault(endpoint, Counts())

    def snapshot(self) -> Snapshot:
        return Snapshot(
            since=self._since,
            purges=self.purges,
            endpoints={name: structs.replace(counts) for name, counts in self._endpoints.items()},
        )


_decoder = msgspec.msgpack.Decoder(Snapshot)


async def keep_snapshots(stats: Stats, redis: AsyncRedis) -> None:
    """Keep the newest snapshot in Redis, for as long as the process lives."""
    key = f"{KEY}{socket.gethostname()}:{uuid.uuid4().hex}"
    while True:
        with suppress(RedisError, OSError):  # the next one has all that this one would have had
            await redis.set(key, msgspec.msgpack.encode(stats.snapshot()), ex=KEPT_S)
        await asyncio.sleep(EVERY_S)


def kept(redis: Redis) -> list[Snapshot]:
    """Return every process's snapshot; those of another version are left out."""
    found = []
    for key in redis.scan_iter(match=f"{KEY}*"):
        value: Any = redis.get(key)  # None when it has just expired
        with suppress(msgspec.DecodeError):
            found.append(_decoder.decode(value or b""))
    return found


def by_endpoint(snapshots: Iterable[Snapshot]) -> dict[str, Counts]:
    """Return the sums of all processes, the endpoints asked most first."""
    sums: dict[str, Counts] = {}
    for snapshot in snapshots:
        for endpoint, counts in snapshot.endpoints.items():
            sums.setdefault(endpoint, Counts()).add(counts)
    return dict(sorted(sums.items(), key=lambda item: -item[1].answers))


def whole(endpoints: Mapping[str, Counts]) -> Counts:
    total = Counts()
    for counts in endpoints.values():
        total.add(counts)
    return total


def recommendations(endpoints: Mapping[str, Counts]) -> list[str]:
    """Return what would make more answers hits, in words."""
    said = []
    total = whole(endpoints)
    if total.answers >= _ENOUGH and total.evicted > total.answers * 0.05:
        share = total.evicted / total.answers
        said.append(
            f"The memory of the API processes is too small: {total.evicted:,} answers made room for others"
            f" ({share:.0%} of those given). Raise CACHE_ENTRIES."
        )
    for endpoint, counts in endpoints.items():
        if counts.answers < _ENOUGH:
            continue
        left = counts.expired + counts.purged
        if counts.l2 > counts.l1 and counts.expired > counts.purged:
            said.append(
                f"{endpoint}: {counts.l2:,} answers had to be fetched from Redis against {counts.l1:,} from memory,"
                " where most had reached their age. Raise CACHE_MEMORY_S."
            )
        elif counts.misses > counts.answers * 0.2 and counts.expired > left * 0.8:
            said.append(
                f"{endpoint}: {counts.misses / counts.answers:.0%} were read from the database, though hardly any"
                " had changed. Its time to live is too short."
            )
        elif counts.misses > counts.answers * 0.5 and counts.purged > left * 0.8:
            said.append(
                f"{endpoint}: {counts.misses / counts.answers:.0%} were read from the database, since they change"
                " about as often as they are asked for. No cache can help there."
            )
    return said
