"""The threads in which the database is read."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from msgspec import Struct

from pipeline.metrics import Times

T = TypeVar("T")


class _Piece(Struct, frozen=True):
    """Some work on its way: `begin` tells whether somebody still wants it, the others how it ended."""

    put_in_at: float
    context: Context
    work: Callable[[], Any]
    begin: Callable[[], bool]
    returned: Callable[[Any], object]
    raised: Callable[[BaseException], object]


class Threads(Executor):
    """A pool that knows whether it has anything to do: what nobody waits for is only begun when it has not.

    Work belongs to the request that it is for, in logs and traces. Python's own pool hands a result from future to future:
    more than half of what it costs to get into a thread and back.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: SimpleQueue[_Piece | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._in_hand = 0
        self._is_ending = False
        self._waited = Times()

    @property
    def is_idle(self) -> bool:
        return self._in_hand == 0

    def run(self, work: Callable[..., T], /, *args: Any) -> asyncio.Future[T]:
        """Return what `work` returns, to the loop that asks; who goes away before it began takes it with him."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[T] = loop.create_future()

        def tell(how: Callable[[Any], object], what: Any) -> None:
            if not ended.done():
                how(what)

        def told(how: Callable[[Any], object], what: Any) -> None:
            with suppress(RuntimeError):  # a loop that was closed meanwhile hears nothing any more
                loop.call_soon_threadsafe(tell, how, what)

        self._put(
            lambda: work(*args),
            lambda: not ended.cancelled(),
            lambda found: told(ended.set_result, found),
            lambda error: told(ended.set_exception, error),
        )
        return ended

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        ended: Future[T] = Future()
        self._put(
            lambda: work(*args, **kwargs), ended.set_running_or_notify_cancel, ended.set_result, ended.set_exception
        )
        return ended

    def take_waited(self) -> Times:
        """Return how long work waited for a thread since this was asked last."""
        with self._lock:
            waited, self._waited = self._waited, Times()
        return waited

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._is_ending = True
        if cancel_futures:
            with suppress(Empty):
                while piece := self._pieces.get_nowait():
                    self._end()
                    piece.raised(CancelledError())
        for _ in self._threads:
            self._pieces.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _put(
        self,
        work: Callable[[], Any],
        begin: Callable[[], bool],
        returned: Callable[[Any], object],
        raised: Callable[[BaseException], object],
    ) -> None:
        piece = _Piece(time.perf_counter(), copy_context(), work, begin, returned, raised)
        with self._lock:
            if self._is_ending:
                raise RuntimeError("no work is taken any more")
            self._in_hand += 1
            if self._in_hand > len(self._threads) < self._most:
                thread = threading.Thread(target=self._do_all, name=f"read_{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._pieces.put(piece)

    def _do_all(self) -> None:
        while piece := self._pieces.get():
            self._do(piece)
            del piece  # what it holds isn't kept until the next comes

    def _do(self, piece: _Piece) -> None:
        with self._lock:
            self._waited.add(time.perf_counter() - piece.put_in_at)
        if not piece.begin():
            self._end()
            return
        try:
            found = piece.context.run(piece.work)
        except BaseException as exc:  # noqa: BLE001  # whatever it is, it is whose work this is
            self._end()
            piece.raised(exc)
        else:
            self._end()
            piece.returned(found)

    def _end(self) -> None:
        with self._lock:
            self._in_hand -= 1
