"""Both cache levels behind one door: an answer from memory, from Redis, or made now, never of an older commit."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Executor

from api import encodings
from api.cache.entries import Answer, Content, Key, Level
from api.cache.flights import Flights
from api.cache.memory import Memory
from api.cache.shared import Shared
from api.cache.tags import Purges


class Answers:
    """Gives answers by key. Reads run in `threads`, so that nothing blocks the loop that serves the hits."""

    def __init__(self, purges: Purges, memory: Memory, shared: Shared, threads: Executor) -> None:
        self._purges = purges
        self._memory = memory
        self._shared = shared
        self._threads = threads
        self._flights: Flights[tuple[Answer, Level]] = Flights()

    async def get(self, key: Key, ttl_s: int, read: Callable[[], Content]) -> tuple[Answer, Level]:
        """Return the answer and where it came from. `read` is called, in a thread, when no cache holds it.

        What `read` raises is raised here, and kept nowhere.
        """
        if answer := self._memory.get(key):
            return answer, "l1"
        return await self._flights.join(key, lambda: self._find(key, ttl_s, read))

    async def _find(self, key: Key, ttl_s: int, read: Callable[[], Content]) -> tuple[Answer, Level]:
        if answer := self._memory.get(key):
            return answer, "l1"
        # Both stamps are taken before anything is read: a commit in between makes the answer invalid, not wrong.
        heard = self._purges.stamp()
        found = await self._shared.look(key)
        if found.answer:
            self._memory.put(key, found.answer, heard)
            return found.answer, "l2"
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, lambda: _made(key, ttl_s, read()))
        self._memory.put(key, answer, heard)
        if found.stamp is not None:
            await self._shared.keep(key, answer, found.stamp, ttl_s)
        return answer, "miss"


def _made(key: Key, ttl_s: int, content: Content) -> Answer:
    """Compress a body. Its ETag is strong: equal in every process for equal bytes, different per encoding."""
    return Answer(
        digest=key.digest,
        body=encodings.compress(content.body, key.encoding),
        encoding=key.encoding,
        etag=f'"{hashlib.sha256(content.body).hexdigest()[:32]}-{key.encoding}"',
        tags=tuple(sorted(content.tags)),
        modified_at=content.modified_at,
        expires_at=time.time() + ttl_s,
    )
