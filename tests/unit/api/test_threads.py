"""Work in threads comes back to the loop that asks, whatever comes of it."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar

import pytest

from api.cache import threads as pool
from api.cache.threads import Threads

PATIENCE_S = 60
who: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture
def threads() -> Iterator[Threads]:
    with Threads(2) as threads:
        yield threads


class Busy:
    """Takes up a thread until it is let go."""

    def __init__(self, threads: Threads) -> None:
        self.began, self._ends = threading.Event(), threading.Event()
        self.work = threads.submit(self._work)
        assert self.began.wait(PATIENCE_S)

    def _work(self) -> str:
        self.began.set()
        assert self._ends.wait(PATIENCE_S)
        return "done"

    def end(self) -> None:
        self._ends.set()
        assert self.work.result(PATIENCE_S) == "done"


def test_what_it_returns_or_raises_comes_back(threads: Threads) -> None:
    async def ask() -> None:
        assert await threads.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 7, 0)
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(threads, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(threads, divmod, 7, 0)

    asyncio.run(ask())
    assert threads.is_idle
    assert sum(threads.take_waited().classes) == 4
    assert not any(threads.take_waited().classes)


def test_work_belongs_to_whom_it_is_for(threads: Threads) -> None:
    async def ask(name: str) -> str:
        who.set(name)
        return await threads.run(who.get)

    async def ask_all() -> list[str]:
        return await asyncio.gather(*(ask(f"n{number}") for number in range(20)))

    assert asyncio.run(ask_all()) == [f"n{number}" for number in range(20)]


def test_no_more_is_done_at_a_time_than_there_are_threads(threads: Threads) -> None:
    busy = [Busy(threads), Busy(threads)]
    third = threads.submit(threading.get_ident)
    assert not third.done()
    assert not threads.is_idle
    for one in busy:
        one.end()
    assert third.result(PATIENCE_S) != threading.get_ident()


def test_few_read_at_a_time_and_a_further_one_begins_when_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_SLOW_S", 60.0)

    async def ask() -> None:
        with Threads(8) as threads:
            ends = [threading.Event() for _ in range(4)]
            began = [threading.Event() for _ in range(4)]
            reads = [threads.run(lambda n=n: (began[n].set(), ends[n].wait(PATIENCE_S))) for n in range(4)]
            for one in began[:2]:
                assert await asyncio.to_thread(one.wait, PATIENCE_S)
            assert not await asyncio.to_thread(began[2].wait, 0.1), "it takes turns with the others"
            ends[1].set()
            assert await asyncio.to_thread(began[2].wait, PATIENCE_S)
            assert not began[3].is_set()
            for one in ends:
                one.set()
            await asyncio.gather(*reads)

    asyncio.run(ask())


def test_reads_that_wait_for_something_keep_no_other_from_beginning() -> None:
    async def ask() -> None:
        with Threads(4) as threads:
            end, began = threading.Event(), threading.Semaphore(0)
            reads = [threads.run(lambda: (began.release(), end.wait())) for _ in range(6)]
            try:
                for _ in range(4):
                    assert await asyncio.to_thread(began.acquire, timeout=PATIENCE_S)
                assert not await asyncio.to_thread(began.acquire, timeout=0.1), "there are four threads"
            finally:
                end.set()
            await asyncio.gather(*reads)

    asyncio.run(ask())
    asyncio.run(ask())  # on another loop, as well


def test_who_goes_away_in_line_takes_his_work_along(threads: Threads) -> None:
    done: list[str] = []

    async def ask() -> None:
        busy = [Busy(threads), Busy(threads)]
        gone, stays = threads.run(done.append, "gone"), threads.run(done.append, "stays")
        also_gone = threads.submit(done.append, "also gone")
        assert gone.cancel()
        assert also_gone.cancel()
        for one in busy:
            one.end()
        await stays

    asyncio.run(ask())
    threads.shutdown()
    assert done == ["stays"]
    assert threads.is_idle


def test_a_loop_that_has_ended_costs_no_thread(threads: Threads) -> None:
    ends, began = threading.Event(), threading.Event()

    async def ask() -> None:
        threads.run(lambda: (began.set(), ends.wait(PATIENCE_S)))
        await asyncio.to_thread(began.wait, PATIENCE_S)

    asyncio.run(ask())
    ends.set()
    assert [threads.submit(pow, 2, number).result(PATIENCE_S) for number in range(4)] == [1, 2, 4, 8]


def test_what_waits_at_the_end_is_told_so() -> None:
    threads = Threads(1)
    busy = Busy(threads)
    waits = threads.submit(pow, 2, 2)
    threads.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waits.result(PATIENCE_S)
    busy.end()
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(pow, 2, 2)
