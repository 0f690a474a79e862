"""Streams of server-sent events, as many at a time as a process may have: each waits for what its page shows to change."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
from msgspec import Struct

from api.cache.tags import Purges
from db.progress import Progress

# A stream says at most so often that something has changed, however often it has.
PULSE_S = 2.0
# A proxy takes a connection that says nothing for a minute for dead, and so do we.
HEARTBEAT_S = 15.0
# A sweep's last commit is followed by its purge: a stream goes on for a moment when nothing is on its way any more.
IDLE_S = 6.0
# What watching costs the database, as a share of one connection's time.
_MOST_BUSY = 0.05

Look = Callable[[], Awaitable[Progress | None]]


class Watched:
    """How far the readings are, looked up at most every `PULSE_S` for all streams of the process together.

    A list so long that counting it takes time is counted less often.
    """

    def __init__(self, look: Look, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._looking: asyncio.Task[Progress | None] | None = None
        self._known: Progress | None = None
        self._holds_until = float("-inf")

    async def get(self) -> Progress | None:
        """Return how far the readings are; None while the database can't say."""
        if self._clock() < self._holds_until:
            return self._known
        if self._looking is None:
            self._looking = asyncio.create_task(self._renew())
        # Whoever's stream ends here doesn't end the look that others wait for.
        return await asyncio.shield(self._looking)

    async def _renew(self) -> Progress | None:
        try:
            began = self._clock()
            self._known = await self._look()
            now = self._clock()
            self._holds_until = now + max(PULSE_S, (now - began) / _MOST_BUSY)
            return self._known
        finally:
            self._looking = None


class Event(Struct, frozen=True):
    """What a stream says: `progress`, `changed`, `idle`, or nothing but that it's there."""

    name: str | None = None
    progress: Progress | None = None

    def encoded(self) -> bytes:
        if self.name is None:
            return b": still here\n\n"
        said = {} if self.progress is None else {"wanted": self.progress.wanted, "done": self.progress.done}
        return b"event: %s\ndata: %s\n\n" % (self.name.encode(), msgspec.json.encode(said))


HEARTBEAT = Event()


class Streams:
    """The streams of one process. `close` ends them all and lets no further one begin."""

    def __init__(self, purges: Purges, *, most: int, lifetime_s: float) -> None:
        self.purges = purges
        self.lifetime_s = lifetime_s
        self.ending = asyncio.Event()
        self._most = most
        self._open: set[Stream] = set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_full(self) -> bool:
        return len(self._open) >= self._most

    def open(self, tag: str, watched: Watched) -> "Stream":
        stream = Stream(self, tag, watched, self._open.discard)
        self._open.add(stream)
        return stream

    def close(self) -> None:
        """End every stream at once: the process is told to stop, and would wait for them."""
        self.ending.set()


class Stream:
    """What one page is sent. It ends by itself: with its time, when nothing is being read, or with the process.

    Falcon closes it when it has sent the last of it, or when the server has given up a client that went away.
    """

    def __init__(self, streams: Streams, tag: str, watched: Watched, on_close: "Callable[[Stream], None]") -> None:
        self._streams = streams
        self._tag = tag
        self._watched = watched
        self._on_close = on_close
        self._stamp = streams.purges.stamp()
        self._events = self._run()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        return (await anext(self._events)).encoded()

    async def close(self) -> None:
        self._on_close(self)
        await self._events.aclose()

    async def _run(self) -> AsyncGenerator[Event, None]:
        until = time.monotonic() + self._streams.lifetime_s
        told: Progress | None = None
        spoke_at = busy_at = time.monotonic()
        is_first = True
        # While purges can't be heard, silence would mean nothing: the page asks again, and is told so.
        while (
            (now := time.monotonic()) < until and not self._streams.ending.is_set() and self._streams.purges.listening
        ):
            events = [Event("changed")] if self._has_changed() else []
            progress = await self._watched.get()
            if progress is None:
                return
            if progress != told:
                events.append(Event("progress", told := progress))
            if progress.done < progress.wanted or (events and not is_first):
                busy_at = now
            elif is_first or now - busy_at >= IDLE_S:
                yield Event("idle", progress)
                return
            is_first = False
            if not events and now - spoke_at >= HEARTBEAT_S:
                events.append(HEARTBEAT)
            for event in events:
                yield event
                spoke_at = now
            await self._pause(min(PULSE_S, max(0.0, until - now)))

    def _has_changed(self) -> bool:
        """Tell whether a purge of the tag was heard since the last time."""
        since, self._stamp = self._stamp, self._streams.purges.stamp()
        return self._streams.purges.unseen_since((self._tag,), since) is not None

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._streams.ending.wait()
        except TimeoutError:
            pass
