"""A file between a thread that makes bytes as fast as it can and a client that takes them at its own pace.

What a client hasn't taken yet lies on the disk, in a file without a name, and not in memory.
"""

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import structlog

from db.engine import Connection, DatabaseError, cancel
from db.rows import Batches

log = structlog.get_logger()

PIECE_BYTES = 131_072


class BrokenOff(Exception):
    """It ended before its end, `str()` says why: nobody may take what there is for the whole."""


class Inlet:
    """The end where bytes come in, in a thread: `write`, `watched`, `using`, and `end` in any case."""

    def __init__(self, folder: Path, *, keep_free_bytes: int, told: Callable[[], None]) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # the last one to need it closes it
        self.written_bytes = 0
        self.has_ended = False
        self.failure: BaseException | None = None
        self._is_filled = True
        self._folder = folder
        self._keep_free_bytes = keep_free_bytes
        self._told = told
        self._lock = threading.Lock()
        self._conn: Connection | None = None
        self._stopped_because: str | None = None
        self._is_abandoned = False

    def write(self, piece: bytes) -> None:
        self.file.write(piece)
        self.file.flush()
        self.written_bytes += len(piece)
        self._told()

    def watched(self, batches: Batches) -> Batches:
        """Pass rows on for as long as they are wanted and there is room for them. Raises BrokenOff."""
        for rows in batches:
            self._check()
            if shutil.disk_usage(self._folder).free < self._keep_free_bytes:
                raise BrokenOff(f"{self._folder} has less room left than EXPORT_KEEP_FREE_MB.")
            yield rows

    @contextmanager
    def using(self, conn: Connection) -> Iterator[None]:
        """Let `stop` end what this connection is doing, within the block and never after it."""
        with self._lock:
            self._check()
            self._conn = conn
        try:
            yield
        finally:
            with self._lock:
                self._conn = None

    def begin(self) -> None:
        """Say that a thread has the file from now on, until `end`."""
        self._is_filled = False

    def end(self, failure: BaseException | None) -> None:
        """Say that nothing more comes, and what went wrong, if so."""
        if self._stopped_because and isinstance(failure, DatabaseError):  # of the statement that `stop` ended
            failure = BrokenOff(self._stopped_because)
        with self._lock:
            self.failure = failure
            self.has_ended = self._is_filled = True
            if self._is_abandoned:
                self.file.close()
        self._told()

    def stop(self, because: str) -> None:
        """Let the thread end, in the midst of a statement as well. May be called from any thread; it blocks a moment."""
        with self._lock:
            self._stopped_because = self._stopped_because or because
            if self._conn is not None:
                cancel(self._conn)

    def abandon(self) -> bool:
        """Give the file up; say whether the thread is at work still."""
        with self._lock:
            self._is_abandoned = True
            if self._is_filled:
                self.file.close()
            return not self._is_filled

    def _check(self) -> None:
        if self._stopped_because:
            raise BrokenOff(self._stopped_because)


class Spool:
    """The end where bytes go out, on the loop: an iterator for Falcon, that must be closed.

    A client that takes nothing for `stall_s` is left: the task that iterates is cancelled.
    """

    def __init__(
        self, folder: Path, *, keep_free_bytes: int, stall_s: float, on_close: Callable[["Spool"], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        self.inlet = Inlet(folder, keep_free_bytes=keep_free_bytes, told=self._tell)
        self._stall_s = stall_s
        self._on_close = on_close
        self._taken_bytes = 0
        self._stall: asyncio.TimerHandle | None = None

    async def ready(self, *, whole: bool) -> int | None:
        """Wait for the first bytes, or for all; return how many there are where all are. Raises what went wrong."""
        while not self.inlet.has_ended and (whole or not self.inlet.written_bytes):
            await self._wait()
        if self.inlet.failure:
            raise self.inlet.failure
        return self.inlet.written_bytes if self.inlet.has_ended else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._rest()
        while self._taken_bytes == self.inlet.written_bytes and not self.inlet.has_ended:
            await self._wait()
        if failure := self.inlet.failure:
            log.error("export_broken_off", reason=str(failure), written_bytes=self.inlet.written_bytes)
            raise BrokenOff(str(failure)) from failure
        if self._taken_bytes == self.inlet.written_bytes:
            raise StopAsyncIteration
        file = self.inlet.file.fileno()
        piece = await self._loop.run_in_executor(None, os.pread, file, PIECE_BYTES, self._taken_bytes)
        self._taken_bytes += len(piece)
        if task := asyncio.current_task():
            self._stall = self._loop.call_later(self._stall_s, task.cancel)
        return piece

    async def close(self) -> None:
        """Want no more, at whatever point."""
        self._rest()
        self._on_close(self)
        if self.inlet.abandon():
            await self._loop.run_in_executor(None, self.inlet.stop, "Its client has gone.")

    async def _wait(self) -> None:
        """Wait until there is more, or the end."""
        self._moved.clear()
        if not self.inlet.has_ended:
            await self._moved.wait()

    def _tell(self) -> None:
        self._loop.call_soon_threadsafe(self._moved.set)

    def _rest(self) -> None:
        if self._stall:
            self._stall.cancel()
