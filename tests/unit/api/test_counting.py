"""What a process counts of its requests, and what it says of them."""

import asyncio
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from api import counting
from api.cache.stats import Stats
from api.cache.threads import Threads
from api.counting import Counting
from db.metrics import Sample
from pipeline.metrics import CACHE_ANSWERS, CACHE_LEFT, CACHE_PURGES, READ_WAIT, REQUEST_TIME, REQUESTS


class Outbox:
    """Keeps what it is given to send."""

    def __init__(self) -> None:
        self.sent: list[Sample] = []
        self.is_closed = False

    def start(self) -> None:
        pass

    def send(self, samples: Iterable[Sample], **_: Any) -> None:
        self.sent += samples

    def close(self) -> None:
        self.is_closed = True

    def total(self, name: str, *labels: str) -> float:
        return sum(one.value for one in self.sent if (one.name, one.labels) == (name, labels))


class Process:
    def __init__(self) -> None:
        self.stats = Stats()
        self.outbox = Outbox()
        self.threads = Threads(1)
        box: Any = self.outbox
        self.counting = Counting(self.stats, self.threads, [], box)

    async def answer(self, template: str | None, status: int = 200, *, warming: bool = False) -> None:
        request: Any = SimpleNamespace(is_warming=warming, began=time.perf_counter(), uri_template=template)
        response: Any = SimpleNamespace(status_code=status)
        await self.counting.process_response(request, response, None, True)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setattr(counting, "EVERY_S", 0.02)
    return Process()


async def _working(process: Process, seconds: float = 0.1) -> None:
    work = asyncio.create_task(process.counting.work())
    await asyncio.sleep(seconds)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await process.counting.close()


def test_every_request_is_told_once_by_template_and_class_of_status(process: Process) -> None:
    async def serve() -> None:
        work = asyncio.create_task(process.counting.work())
        for status in (200, 304, 404, 422, 500, 503):
            await process.answer("/api/history/{platform}/{handle:path}", status)
            await asyncio.sleep(0.01)
        await process.answer(None, 404)
        await process.answer("/api/summary", warming=True)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await process.counting.close()

    asyncio.run(serve())

    box, name = process.outbox, "/api/history/{platform}/{handle}"
    assert [box.total(REQUESTS.name, name, f"{n}xx") for n in (2, 3, 4, 5)] == [1, 1, 2, 2]
    assert box.total(REQUESTS.name, counting.NOWHERE, "4xx") == 1
    assert {one.labels[0] for one in box.sent if one.name == REQUESTS.name} == {name, counting.NOWHERE}
    timed = [one.buckets for one in box.sent if one.name == REQUEST_TIME.name and one.labels == (name,)]
    assert sum(sum(buckets or ()) for buckets in timed) == 6


def test_what_is_counted_last_is_sent_when_the_process_ends(process: Process) -> None:
    async def serve() -> None:
        await process.answer("/api/summary")
        await process.counting.close()

    asyncio.run(serve())

    assert process.outbox.total(REQUESTS.name, "/api/summary", "2xx") == 1
    assert process.outbox.is_closed


def test_of_the_caches_only_what_is_new_is_told(process: Process) -> None:
    counts = process.stats.of("/api/accounts/{platform}/{handle:path}")
    counts.l1, counts.misses, counts.evicted, process.stats.purges = 5, 2, 1, 3

    asyncio.run(_working(process))
    counts.l1 += 1
    asyncio.run(_working(process))

    box, name = process.outbox, "/api/accounts/{platform}/{handle}"
    assert [box.total(CACHE_ANSWERS.name, name, level) for level in ("l1", "l2", "miss", "stale")] == [6, 0, 2, 0]
    assert box.total(CACHE_LEFT.name, name, "evicted") == 1
    assert box.total(CACHE_PURGES.name) == 3


def test_the_time_that_reads_wait_for_a_thread_is_told(process: Process) -> None:
    for _ in range(3):
        process.threads.submit(time.sleep, 0.02)
    process.threads.shutdown()

    asyncio.run(_working(process))

    (waited,) = [one for one in process.outbox.sent if one.name == READ_WAIT.name]
    assert sum(waited.buckets or ()) == 3
    assert waited.value >= 0.02 + 0.04
