"""Where an answer is read that no cache holds: on the replica where that shows enough, else on the primary.

Twice a second each process notes its stamps (which purges were sent, and which it has heard) and after that how far
the primary's log has come. A purge follows its commit; so a replica that has replayed the log that far shows the commit
of every one of these purges, and what is read there is as good as read on the primary when the stamps were taken. It
bears these stamps: where one of its tags was purged since, it doesn't hold, and the primary is read instead.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import structlog

from api.cache.entries import Content, Stamps
from api.cache.shared import Shared
from api.cache.tags import Purges
from api.problems import Problem
from db import replica
from db.engine import Connection, DatabaseError, Engine, PoolTimeout, is_out_of_time, reading

log = structlog.get_logger()

LOOK_S = 0.5

Read = Callable[[Connection], Content]
State = Literal["follows", "lags", "away"]


class Mark(NamedTuple):
    """A place in the primary's log, and the stamps that were taken before it was looked up. `noted_at` is monotonic."""

    position: int
    stamps: Stamps
    noted_at: float


class Reader:
    """Reads for answers. A replica is left while it is away or lags more than `max_lag_s`, and taken up by itself."""

    def __init__(self, primary: Engine, replica: Engine | None, purges: Purges, *, max_lag_s: float) -> None:
        self._primary = primary
        self._replica = replica
        self._purges = purges
        self._max_lag_s = max_lag_s
        self._marks: tuple[Mark, ...] = ()
        self._state: State | None = None

    def read(self, read: Read, now: Stamps) -> tuple[Content, Stamps]:
        """Return what `read` made, and the stamps that it bears; `now` are those of a read on the primary.

        `read` is called a second time, on the primary, where the first on the replica failed or doesn't show enough.
        """
        if self._replica is not None and self._state == "follows":
            found = self._read_replica(self._replica, read)
            if found is not None:
                return found
        return self.read_primary(read, now)

    def read_primary(self, read: Read, now: Stamps) -> tuple[Content, Stamps]:
        """Do the same where the replica isn't to be asked."""
        with reading(self._primary) as conn:
            return read(conn), now

    async def follow(self, shared: Shared) -> None:
        """Keep an eye on the replica, if there is one, for as long as the process lives."""
        while self._replica is not None:
            heard, at = self._purges.stamp(), time.monotonic()
            sent = await shared.sequence()
            # Without Redis no purge is sent: nothing tells whether the replica shows enough.
            await asyncio.to_thread(self.look, None if sent is None else Stamps(heard, sent, at))
            await asyncio.sleep(LOOK_S)

    def look(self, stamps: Stamps | None) -> None:
        """Note where the primary is now, under stamps taken before, and see whether the replica follows."""
        self._note(stamps)
        if self._replica is None:
            return
        try:
            with reading(self._replica) as conn:
                at = replica.reached(conn)
        except (DatabaseError, PoolTimeout) as exc:
            self._become("away", error=type(exc).__name__)
            return
        if at is None:
            self._become("away", error="this server follows no other")
        else:
            self._become("lags" if self._newest(at) is None else "follows")

    def _note(self, stamps: Stamps | None) -> None:
        if stamps is None:
            self._marks = ()
            return
        now = time.monotonic()
        try:
            with reading(self._primary) as conn:
                mark = Mark(replica.position(conn), stamps, now)
        except (DatabaseError, PoolTimeout):
            return  # the older marks stand: while the primary is away nothing is committed either
        self._marks = (*(old for old in self._marks if now - old.noted_at <= self._max_lag_s), mark)

    def _newest(self, at: int | None) -> Mark | None:
        """Return the newest mark that a replica has reached; None when it lags too much, or is none (any more)."""
        return next((mark for mark in reversed(self._marks) if at is not None and at >= mark.position), None)

    def _read_replica(self, engine: Engine, read: Read) -> tuple[Content, Stamps] | None:
        """Return what the replica shows and as of when; None where that isn't enough."""
        try:
            with reading(engine) as conn:
                # Asked on the connection that is read: it may be a new one to a server that has begun anew.
                mark = self._newest(replica.reached(conn))
                if mark is None:
                    return None
                content = read(conn)
        except (Problem, PoolTimeout):  # such as an account that it hasn't got yet
            return None
        except DatabaseError as exc:
            if is_out_of_time(exc):
                raise  # the primary would take as long
            if not replica.is_conflict(exc):
                self._become("away", error=type(exc).__name__)
            return None
        return (content, mark.stamps) if self._purges.hold(content.tags, mark.stamps.heard) else None

    def _become(self, state: State, **why: str) -> None:
        if state != self._state:
            say = log.info if state == "follows" else log.warning
            say("replica", state=state, **why)
        self._state = state
