"""Exports: read as fast as the database gives, and handed on as fast as the client takes.

So a transaction, which shows all rows as of one moment, is as long as its read and never as long as the slowest client
likes. Threads and connections are exports' own: they take none from the answers that people wait for.
"""

import asyncio
import shutil
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import structlog

from api.problems import Problem
from api.spool import BrokenOff, Inlet, Spool
from db import check
from db.engine import Connection, make_engine, transaction
from db.rows import Batches
from pipeline.settings import Settings

log = structlog.get_logger()

# An export waits so long for one of the threads before it is refused.
PATIENCE_S = 5.0
_RETRY_S = "10"
_GONE_CHECK_S = 2.0

Rows = Callable[[Connection], Batches]
Encode = Callable[[Batches], Generator[bytes, None, None]]
Keep = Callable[[Batches], Batches]


class Exports:
    """Begins exports, so many at a time, on the primary: it has all that was committed when an export begins."""

    def __init__(self, settings: Settings) -> None:
        self.engine = make_engine(
            settings.database_url.get_secret_value(),
            pool_size=settings.export_threads,
            max_overflow=0,
            pool_recycle=settings.db_pool_recycle,
            application_name="rollcall export",
            # The same bounds, kept by the server where this process can't any more.
            statement_timeout_s=settings.export_snapshot_s,
            idle_timeout_s=settings.db_idle_timeout_s,
            gone_check_s=_GONE_CHECK_S,
        )
        self.folder = Path(settings.export_folder)
        self._snapshot_s = settings.export_snapshot_s
        self.stall_s = settings.export_stall_s
        self._most_open = settings.export_open
        self._keep_free_bytes = settings.export_keep_free_mb << 20
        self._threads = ThreadPoolExecutor(settings.export_threads, thread_name_prefix="export")
        self._idle_threads = asyncio.Semaphore(settings.export_threads)
        self._open: set[Spool] = set()

    async def begin(
        self, rows: Rows, encode: Encode, *, keep: Keep | None = None, whole: bool
    ) -> tuple[Spool, int | None]:
        """Return an export once it has bytes, or all of them where that is wanted; with its length where it has all.

        What encodes slower than it could be read is given a `keep` that takes all rows in first.
        Raises Problem 503 where too many are under way, where there is no room, and where it can't be had whole.
        """
        spool = self._opened()
        try:
            await self._start(spool, rows, encode, keep)
            return spool, await spool.ready(whole=whole)
        except BrokenOff as exc:
            await spool.close()
            raise Problem(503, str(exc), headers={"Retry-After": _RETRY_S}) from exc
        except BaseException:
            await spool.close()
            raise

    def close(self) -> None:
        """End all that are under way."""
        for spool in self._open:
            spool.inlet.stop("The server is being stopped.")
        self._threads.shutdown(cancel_futures=True)

    def _opened(self) -> Spool:
        if len(self._open) >= self._most_open:
            raise _busy(f"{self._most_open} exports are being taken already (EXPORT_OPEN).")
        try:
            if shutil.disk_usage(self.folder).free < self._keep_free_bytes:
                raise _busy(f"{self.folder} has less room left than EXPORT_KEEP_FREE_MB.")
            spool = Spool(
                self.folder,
                keep_free_bytes=self._keep_free_bytes,
                stall_s=self.stall_s,
                on_close=self._open.discard,
            )
        except OSError as exc:
            log.error("export_folder_unusable", folder=str(self.folder), error=exc.strerror)
            raise _busy("There is no room for an export (EXPORT_FOLDER).") from exc
        self._open.add(spool)
        return spool

    async def _start(self, spool: Spool, rows: Rows, encode: Encode, keep: Keep | None) -> None:
        """Begin to fill a spool as soon as a thread is idle. Raises Problem 503 when none becomes so in time."""
        try:
            await asyncio.wait_for(self._idle_threads.acquire(), PATIENCE_S)
        except TimeoutError:
            raise _busy("Other exports are being read (EXPORT_THREADS).") from None

        def ended(filling: asyncio.Future[None]) -> None:
            self._idle_threads.release()
            spool.inlet.end(filling.exception())

        spool.inlet.begin()
        filling = asyncio.get_running_loop().run_in_executor(
            self._threads, self._fill, spool.inlet, rows, encode, keep
        )
        filling.add_done_callback(ended)

    def _fill(self, inlet: Inlet, rows: Rows, encode: Encode, keep: Keep | None) -> None:
        """Write all of an export."""
        # Each is closed, and not left to whoever still holds the exception: a transaction and a file hang on them.
        with ExitStack() as stack:
            batches = inlet.watched(stack.enter_context(closing(self._read(inlet, rows))))
            if keep is not None:
                batches = inlet.watched(stack.enter_context(closing(keep(batches))))
            pieces = stack.enter_context(closing(encode(batches)))
            try:
                for piece in pieces:
                    inlet.write(piece)
            except OSError as exc:
                raise BrokenOff(f"{self.folder}: {exc.strerror}.") from exc

    def _read(self, inlet: Inlet, rows: Rows) -> Batches:
        """Yield all rows, in one transaction, which ends with the last of them."""
        reason = f"Its read took longer than EXPORT_SNAPSHOT_S ({self._snapshot_s:g} s): ask for it in parts."
        too_long = threading.Timer(self._snapshot_s, inlet.stop, [reason])
        too_long.daemon = True
        too_long.start()
        try:
            # The rows are closed before their connection is given back: what is open of them belongs to it.
            with transaction(self.engine) as conn, inlet.using(conn), closing(rows(conn)) as batches:
                check.one_moment(conn)
                yield from batches
        finally:
            too_long.cancel()


def _busy(detail: str) -> Problem:
    return Problem(503, detail, headers={"Retry-After": _RETRY_S})
