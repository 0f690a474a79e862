"""Both cache levels behind one door: an answer from memory, from Redis, or made now.

What shows one account is never older than a purged commit, nor than what this process has shown of it before. What shows many (`db.tags.is_aggregate`) is, during a sweep,
out of date all the time: it is given out as `stale` while its successor is read in the background, at most once in
STALE_S, for all processes by one of them. So it never misses a commit for longer than STALE_S and one such read.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from msgspec import Struct

from api.cache.entries import Answer, Content, Kept, Key, Level, Stamps, Variant
from api.cache.flights import Flights
from api.cache.making import answer_of, improved, recoded, variant_of
from api.cache.memory import Memory
from api.cache.reader import Read, Reader
from api.cache.shared import FLIGHT_S, Found, Shared, Take, packed
from api.cache.stats import Counts
from api.cache.tags import STALE_S, Purges
from api.cache.threads import Threads
from api.problems import Absent, body_of
from db.tags import NAMES

log = structlog.get_logger()

# "There is no such account" is kept for so long.
ABSENT_S = 30.0
# An answer given so often in its short life is worth compressing well.
HOT_HITS = 20
# How often those that wait for another process's read look for it, and for how long before they read themselves.
_POLL_S = 0.03
_PATIENCE_S = 2 * FLIGHT_S
# A read that began before a commit which has been shown meanwhile is done again, so often at most: then what the database
# says holds, such as a time that was put right.
_MOST_READS = 3


Hit = tuple[Kept, Variant, Level]


class Want(Struct, frozen=True, kw_only=True):
    """What is asked for, in which encoding; how it is read where no cache holds it, and where that is counted.

    What isn't shared never goes to Redis: it's asked for once by most, and to read it costs no more than to keep it there.
    """

    key: Key
    coding: str
    ttl_s: float
    read: Read
    counts: Counts
    is_shared: bool = True


class Answers:
    """Gives answers by key. Reads run in `threads`, so that nothing blocks the loop that serves the hits."""

    def __init__(self, purges: Purges, memory: Memory, shared: Shared, reader: Reader, threads: Threads) -> None:
        self._purges = purges
        self._memory = memory
        self._shared = shared
        self._reader = reader
        self._threads = threads
        self._flights: Flights[tuple[Kept, Level]] = Flights()
        self._refreshing: set[Key] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def hit(self, key: Key, coding: str) -> Hit | None:
        """Return what can be given out at once, without waiting for anything."""
        ready = self._ready(key)
        if ready is None:
            return None
        kept, level = ready
        variant = kept.variants.get(coding)
        if variant is None or (level == "stale" and key not in self._refreshing):
            return None
        kept.hits += 1
        if kept.hits % HOT_HITS == 0 and not variant.is_best:
            self._begin(self._improve(key, kept, variant))
        return kept, variant, level

    async def get(self, want: Want) -> Hit:
        """Return the answer and where it came from. `want.read` is called, in a thread, when no cache holds it.

        What it raises is raised here, and kept nowhere; but that there is no such account is an answer, too.
        """
        if hit := self.hit(want.key, want.coding):
            return hit
        kept, level = self._ready(want.key) or await self._flights.join(want.key, lambda: self._find(want, "missing"))
        if level == "stale":
            self._refresh(want, kept)
        variant = kept.variants.get(want.coding) or await self._recode(want.key, kept, want.coding)
        return kept, variant, level

    async def fetch(self, key: Key, coding: str, counts: Counts) -> Hit | None:
        """Return what the second level holds if it shows every commit, and keep it in memory. Nothing is read or made."""
        if self._memory.peek(key):  # not good enough, or it would have been a hit
            return None
        heard, at = self._purges.stamp(), time.monotonic()
        found = await self._shared.look(key, coding)
        if found.answer is None or found.variant is None or found.unseen_s is not None:
            return None
        if found.variant.coding != coding or self._memory.is_behind(found.answer):
            return None
        if hit := self.hit(key, coding):  # somebody else has just put it there
            return hit
        return self._adopt(key, counts, found, heard, at), found.variant, "l2"

    async def close(self) -> None:
        """End what is being done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._flights.close()

    def _ready(self, key: Key) -> tuple[Kept, Level] | None:
        found = self._memory.get(key)
        if found is None:
            return None
        kept, state = found
        if state == "fresh":
            return kept, "l1"
        return (kept, "stale") if state == "stale" or key in self._refreshing else None

    async def _find(self, want: Want, take: Take) -> tuple[Kept, Level]:
        """Look into both levels and read what they don't hold; wait where another process is reading it."""
        ready = self._ready(want.key)
        if ready and (take == "missing" or ready[1] == "l1"):
            return ready
        gives_up_at = time.monotonic() + _PATIENCE_S
        while True:
            # The stamps are taken before anything is read: a commit in between makes the answer invalid, not wrong.
            heard, at = self._purges.stamp(), time.monotonic()
            found = await self._shared.look(want.key, want.coding, take=take) if want.is_shared else Found()
            is_behind = found.answer is not None and self._memory.is_behind(found.answer)
            if found.token or found.stamp is None or is_behind or at > gives_up_at:
                return await self._read(want, Stamps(heard, found.stamp, at), found.token), "miss"
            if found.answer and (take == "missing" or found.unseen_s is None or found.age_s < STALE_S):
                kept = self._adopt(want.key, want.counts, found, heard, at)
                return kept, "l2" if found.unseen_s is None else "stale"
            await asyncio.sleep(_POLL_S)

    async def _read(self, want: Want, now: Stamps, token: str | None) -> Kept:
        before = self._memory.peek(want.key)
        try:
            read = self._reader.read
            for _ in range(_MOST_READS):
                answer, variant, stamps, kept_as = await self._threads.run(self._make, read, want, now, before)
                if not self._memory.is_behind(answer):
                    break
                read = self._reader.read_primary
        except Exception:
            if token:
                await self._shared.leave(want.key, token)
            raise
        kept = self._keep(
            want.key, want.counts, answer, variant, read_at=stamps.at, stamp=stamps.heard, unseen_since=None
        )
        if kept_as is not None:
            await self._shared.keep(want.key, answer, variant.coding, kept_as, stamps, token)
        return kept

    def _make(
        self,
        read: Callable[[Read, Stamps], tuple[Content, Stamps]],
        want: Want,
        now: Stamps,
        before: Kept | None,
    ) -> tuple[Answer, Variant, Stamps, bytes | None]:
        ttl_s = want.ttl_s
        try:
            content, stamps = read(want.read, now)
        except Absent as exc:
            content = Content(body=body_of(exc), tags=frozenset({NAMES}), modified_at=None, status=exc.status_code)
            stamps, ttl_s = now, ABSENT_S
        answer = answer_of(want.key, content, ttl_s)
        if before and before.answer.content == answer.content and want.coding in before.variants:
            variant = before.variants[want.coding]
        else:
            variant = variant_of(answer, content.body, want.coding)
        return answer, variant, stamps, None if now.shared is None else packed(variant)

    def _adopt(self, key: Key, counts: Counts, found: Found, heard: int, at: float) -> Kept:
        assert found.answer and found.variant
        since = None if found.unseen_s is None else at - found.unseen_s
        read_at = at - found.age_s
        return self._keep(key, counts, found.answer, found.variant, read_at=read_at, stamp=heard, unseen_since=since)

    def _keep(
        self,
        key: Key,
        counts: Counts,
        answer: Answer,
        variant: Variant,
        *,
        read_at: float,
        stamp: int,
        unseen_since: float | None,
    ) -> Kept:
        before = self._memory.peek(key)
        # Other encodings of the same bytes are as good as they were.
        variants = dict(before.variants) if before and before.answer.content == answer.content else {}
        kept = Kept(
            answer=answer,
            variants=variants | {variant.coding: variant},
            counts=counts,
            stamp=stamp,
            read_at=read_at,
            until=read_at + answer.ttl_s,
            unseen_since=unseen_since,
        )
        self._memory.put(key, kept)
        return kept

    def _refresh(self, want: Want, kept: Kept) -> None:
        """Have the successor of a stale answer read, not sooner than STALE_S after its own read."""
        if want.key not in self._refreshing:
            self._refreshing.add(want.key)
            self._begin(self._renew(want, kept.read_at + STALE_S - time.monotonic()))

    async def _renew(self, want: Want, wait_s: float) -> None:
        try:
            await asyncio.sleep(wait_s)
            _, level = await self._flights.join(want.key, lambda: self._find(want, "stale"))
            want.counts.refreshed += level == "miss"
        finally:
            self._refreshing.discard(want.key)

    async def _recode(self, key: Key, kept: Kept, coding: str) -> Variant:
        """Make a further encoding of what is kept. Not in the threads of the reads: a hit waits for no database."""
        given = next(iter(kept.variants.values()))
        variant = await asyncio.to_thread(recoded, kept.answer, given, coding)
        kept.variants[coding] = variant
        await self._shared.add(key, variant, kept.answer.content)
        return variant

    async def _improve(self, key: Key, kept: Kept, variant: Variant) -> None:
        better = await asyncio.to_thread(improved, kept.answer, variant)
        kept.variants[variant.coding] = better
        await self._shared.add(key, better, kept.answer.content)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()):
            # Whoever asks next reads it himself, and is told what is wrong.
            log.warning("cache_background_failed", error=type(exc).__name__, exc_info=exc)
