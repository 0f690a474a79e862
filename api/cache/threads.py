"""The threads in which the database is read."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

from msgspec import Struct

from pipeline.metrics import Times

T = TypeVar("T")

# So many reads are made at a time, one with Python's lock and one at the database. Further ones take turns with them: with
# eight a page of a list costs a quarter more (docs/performance.md).
_AT_ONCE = 2
# What takes longer waits for the database, and counts no more.
_SLOW_S = 0.02


class _Piece(Struct, frozen=True):
    """Some work on its way: `begin` tells whether somebody still wants it, the others how it ended."""

    put_in_at: float
    is_patient: bool
    context: Context
    work: Callable[[], Any]
    begin: Callable[[], bool]
    returned: Callable[[Any], object]
    raised: Callable[[BaseException], object]


_Inbox = SimpleQueue[_Piece | None]


class Threads(Executor):
    """A pool that knows whether it has anything to do: what nobody waits for is only begun when it has not.

    Of what `run` is given, few are begun at a time as long as they are quick: `most` threads are for what waits. Work
    belongs to the request that it is for, in logs and traces. Python's own pool hands a result from future to future: more
    than half of what it costs to get into a thread and back.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._line: deque[_Piece] = deque()
        # Since when each piece has been in a thread.
        self._begun: dict[int, float] = {}
        self._threads: list[tuple[threading.Thread, _Inbox]] = []
        # Those that have nothing to do, the latest last: what it used is still in the processor's caches.
        self._idle: list[_Inbox] = []
        self._watching: asyncio.AbstractEventLoop | None = None
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
            is_patient=True,
        )
        if self._line and self._watching is not loop:
            self._watch(loop)
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
            given_up = list(self._line) if cancel_futures else []
            if cancel_futures:
                self._line.clear()
                self._in_hand -= len(given_up)
        for piece in given_up:
            piece.raised(CancelledError())
        for _, inbox in self._threads:
            inbox.put(None)
        for thread, _ in self._threads if wait else ():
            thread.join()

    def _put(
        self,
        work: Callable[[], Any],
        begin: Callable[[], bool],
        returned: Callable[[Any], object],
        raised: Callable[[BaseException], object],
        *,
        is_patient: bool = False,
    ) -> None:
        piece = _Piece(time.perf_counter(), is_patient, copy_context(), work, begin, returned, raised)
        with self._lock:
            if self._is_ending:
                raise RuntimeError("no work is taken any more")
            self._in_hand += 1
            self._line.append(piece)
            self._hand_on()

    def _hand_on(self) -> None:
        """Have begun what may."""
        while piece := self._next():
            if self._idle:
                self._idle.pop().put(piece)
                continue
            inbox: _Inbox = SimpleQueue()
            inbox.put(piece)
            thread = threading.Thread(
                target=self._do_all, args=[inbox], name=f"read_{len(self._threads)}", daemon=True
            )
            self._threads.append((thread, inbox))
            thread.start()

    def _next(self) -> _Piece | None:
        """Take out of the line what may begin now."""
        if not self._line or len(self._begun) >= self._most:
            return None
        now = time.perf_counter()
        if self._line[0].is_patient and sum(now - at < _SLOW_S for at in self._begun.values()) >= _AT_ONCE:
            return None
        piece = self._line.popleft()
        self._begun[id(piece)] = now
        self._waited.add(now - piece.put_in_at)
        return piece

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again when what is under way has turned out to be slow."""
        self._watching = loop
        loop.call_later(_SLOW_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if not self._is_ending:  # then those that are busy do the rest
                self._hand_on()
        self._watching = None
        if self._line and not self._is_ending:
            self._watch(loop)

    def _do_all(self, inbox: _Inbox) -> None:
        while piece := inbox.get():
            while piece:
                tell, what = _outcome(piece)
                with self._lock:
                    del self._begun[id(piece)]
                    self._in_hand -= 1
                    piece = self._next()
                    if piece is None:
                        self._idle.append(inbox)
                tell(what)
                del tell, what  # what they hold isn't kept until the next comes


def _outcome(piece: _Piece) -> tuple[Callable[[Any], object], Any]:
    """Do some work if it is still wanted, and return whom to tell what of it."""
    if not piece.begin():
        return _ignore, None
    try:
        return piece.returned, piece.context.run(piece.work)
    except BaseException as exc:  # noqa: BLE001  # whatever it is, it is whose work this is
        return piece.raised, exc


def _ignore(_: object) -> None:
    pass
