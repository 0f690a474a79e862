"""What this process counts of its requests, and sends every few seconds: never while somebody waits for an answer."""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from falcon.asgi import Response

from api.cache.stats import Stats
from api.cache.threads import Threads
from api.request import ApiRequest
from db.engine import Engine, connections
from db.metrics import Sample
from pipeline import metrics
from pipeline.metrics import Metric, Times
from pipeline.outbox import Outbox

EVERY_S = 5.0
# Falcon's `{handle:path}` is `{handle}` to people.
_CONVERTER = re.compile(r":\w+(?=})")
# What Falcon has no template for: addresses that don't exist, requests that ended before they were looked up.
NOWHERE = "none"


class Counting:
    """Counts every answer on the loop, and hands on what it counted. As middleware it stands first, to see the last."""

    def __init__(self, stats: Stats, threads: Threads, engines: Sequence[Engine], outbox: Outbox) -> None:
        self._stats = stats
        self._threads = threads
        self._engines = engines
        self._outbox = outbox
        self._tallies: dict[tuple[str | None, int], Times] = {}
        self._began = datetime.now(UTC)
        self._told: dict[tuple[str, tuple[str, ...]], int] = {}
        self._sending: asyncio.Future[None] | None = None

    async def process_response(self, req: ApiRequest, resp: Response, resource: object, succeeded: bool) -> None:
        if req.is_warming:
            return
        self.count(req.uri_template, resp.status_code, time.perf_counter() - req.began)

    def count(self, template: str | None, status: int, took_s: float) -> None:
        """Count one answer."""
        key = (template, status)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Times()
        tally.add(took_s)

    async def work(self) -> None:
        """Send what was counted, at full multiples of `EVERY_S` so that no message is of two minutes."""
        self._outbox.start()
        while True:
            await asyncio.sleep(EVERY_S - time.time() % EVERY_S)
            await self._send()

    async def close(self) -> None:
        """Send the rest: the process ends."""
        if self._sending:
            await asyncio.wait([self._sending])
        await self._send()
        await asyncio.to_thread(self._outbox.close)

    async def _send(self) -> None:
        began, self._began = self._began, datetime.now(UTC)
        samples, gauges = [*self._requests(), *self._cache(), *self._waits()], self._standing()
        # A cancellation ends the waiting and not what has been taken out already: `close` waits for it.
        self._sending = asyncio.ensure_future(asyncio.to_thread(self._outbox.send, samples, at=began, gauges=gauges))
        await asyncio.shield(self._sending)

    def _requests(self) -> Iterator[Sample]:
        tallies, self._tallies = self._tallies, {}
        by_endpoint: dict[str, Times] = {}
        for (template, status), tally in tallies.items():
            endpoint = endpoint_of(template)
            yield metrics.REQUESTS.sample(sum(tally.classes), endpoint, f"{status // 100}xx")
            if endpoint in by_endpoint:
                by_endpoint[endpoint].merge(tally)
            else:
                by_endpoint[endpoint] = tally
        for endpoint, times in by_endpoint.items():
            yield metrics.REQUEST_TIME.timed(times, endpoint)

    def _cache(self) -> Iterator[Sample]:
        snapshot = self._stats.snapshot()
        yield from self._gained(metrics.CACHE_PURGES, snapshot.purges)
        for template, counts in snapshot.endpoints.items():
            endpoint = endpoint_of(template)
            levels = {"l1": counts.l1, "l2": counts.l2, "stale": counts.stale, "miss": counts.misses}
            for level, count in levels.items():
                yield from self._gained(metrics.CACHE_ANSWERS, count, endpoint, level)
            for reason in metrics.LEFT:
                yield from self._gained(metrics.CACHE_LEFT, getattr(counts, reason), endpoint, reason)

    def _gained(self, metric: Metric, count: int, *labels: str) -> Iterator[Sample]:
        """Yield what came to a count since it was told last."""
        before = self._told.get((metric.name, labels), 0)
        if count > before:
            self._told[metric.name, labels] = count
            yield metric.sample(count - before, *labels)

    def _waits(self) -> Iterator[Sample]:
        waited = self._threads.take_waited()
        if any(waited.classes):
            yield metrics.READ_WAIT.timed(waited)

    def _standing(self) -> list[Sample]:
        pools = [connections(engine) for engine in self._engines]
        return [
            metrics.POOL_IN_USE.sample(sum(pool.in_use for pool in pools)),
            metrics.POOL_SIZE.sample(sum(pool.most for pool in pools)),
        ]


@lru_cache(1024)
def endpoint_of(template: str | None) -> str:
    """Return how people call an endpoint."""
    return _CONVERTER.sub("", template) if template else NOWHERE
