"""GET /metrics: everything that is counted, and how things stand, for Prometheus.

It is the whole fleet's, whichever process answers: what processes counted comes from the recorder's sums, which never
fall, however many processes there are, restart or end. Only gauges are looked up.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from falcon.asgi import Request, Response
from prometheus_client import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from api.operations import Operation, Operations
from api.performance import Limits, Sums
from api.room import Room
from api.routes import Route
from api.spaces import spaces_set
from db import claims, metrics, pauses, queues
from db.engine import Connection, reading
from db.metrics import BOUNDS, Sample
from db.profiler import scoped
from db.queues import OpenJobs
from pipeline import metrics as declared
from pipeline.lanes import LANES
from pipeline.metrics import Metric

_LATELY = timedelta(minutes=5)
TEXT = "text/plain"
OPEN_METRICS = "application/openmetrics-text"


class Metrics:
    """Needs a key where reading needs one. Not even loopback is excepted: behind a proxy everybody comes from there."""

    operations = Operations(
        get=Operation(summary="Counters and gauges of the whole fleet.", media_types=(TEXT, OPEN_METRICS))
    )

    def __init__(self, room: Room) -> None:
        self._settings = room.settings
        self._platforms = tuple(room.platforms.values())
        self._engine = room.engine
        self._threads = room.threads
        self._redis = room.redis

    async def on_get(self, req: Request, resp: Response) -> None:
        limits = Limits(self._settings, self._platforms, await spaces_set(self._redis))
        read = scoped("/metrics", self._read)
        body, content_type = await asyncio.get_running_loop().run_in_executor(
            self._threads, read, limits, req.get_header("Accept") or ""
        )
        resp.data = body
        resp.content_type = content_type
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get

    def _read(self, limits: Limits, accept: str) -> tuple[bytes, str]:
        with reading(self._engine) as conn:
            samples = [*metrics.totals(conn), *standing(conn, limits, datetime.now(UTC))]
        return exposed(samples, accept)


class _Found(Collector):
    """What was found, as the library takes it."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        by_name: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in self._samples:
            by_name[sample.name].append(sample)
        # A series whose metric isn't declared, or has other labels now, was counted by another version.
        for metric in declared.ALL:
            alike = [one for one in by_name[metric.name] if len(one.labels) == len(metric.labels)]
            yield _family(metric, alike)


def exposed(samples: Iterable[Sample], accept: str) -> tuple[bytes, str]:
    """Return these samples as text in the format that an Accept header prefers, and its content type."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none
        encode, content_type = choose_encoder("")
    return encode(_Found(samples)), content_type


def _family(metric: Metric, samples: Sequence[Sample]) -> Family:
    if metric.kind == "timer":
        timer = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for one in samples:
            timer.add_metric(one.labels, _up_to(one.buckets or ()), one.value)
        return timer
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for one in samples:
        family.add_metric(one.labels, one.value)
    return family


def _up_to(classes: Sequence[int]) -> list[tuple[str, float]]:
    """Return how many times were at most each bound."""
    found, total = list[tuple[str, float]](), 0
    for bound, count in zip((*BOUNDS, float("inf")), classes, strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else repr(bound), total))
    return found


def standing(conn: Connection, limits: Limits, now: datetime) -> Iterator[Sample]:
    """Yield how things stand now."""
    yield from _processes(conn)
    yield from _jobs(conn, limits, now)
    for (platform, lane), seconds in claims.overdue_s(conn, limits.calls, now=now).items():
        yield declared.OVERDUE.sample(seconds, platform, lane)
    resting: defaultdict[tuple[str, str], int] = defaultdict(int)
    for pause in pauses.standing(conn, now):
        resting[pause.platform, pause.result] += 1
    for labels, count in resting.items():
        yield declared.PAUSES.sample(count, *labels)
    yield from _limits(conn, limits, now)


def _processes(conn: Connection) -> Iterator[Sample]:
    """Yield how the API's processes stand together: what each said last."""
    apis = [process.gauges for process in metrics.processes(conn) if process.gauges]
    yield declared.API_PROCESSES.sample(len(apis))
    sums: defaultdict[str, float] = defaultdict(float)
    for gauge in (gauge for gauges in apis for gauge in gauges):
        sums[gauge.name] += gauge.value
    for metric in (declared.POOL_IN_USE, declared.POOL_SIZE):
        if metric.name in sums:
            yield metric.sample(sums[metric.name])
    if recorded_at := metrics.recorded_at(conn):
        yield declared.RECORDED_AT.sample(recorded_at.timestamp())


def _jobs(conn: Connection, limits: Limits, now: datetime) -> Iterator[Sample]:
    """Yield what waits and runs. An empty queue of a platform that can be called has 0 jobs, and goes on as a series."""
    running: defaultdict[str, int] = defaultdict(int)
    expired: defaultdict[str, int] = defaultdict(int)
    platforms = sorted({platform for platform, _ in limits.calls})
    found = {(name, lane): OpenJobs(name, lane, 0, 0, None, 0, 0) for name in platforms for lane in LANES}
    found |= {(jobs.platform, jobs.lane): jobs for jobs in queues.open_jobs(conn, now=now)}
    for jobs in found.values():
        where = (jobs.platform, jobs.lane)
        yield declared.QUEUED.sample(jobs.queued, *where)
        yield declared.QUEUED_ACCOUNTS.sample(jobs.queued_accounts, *where)
        age = (now - jobs.oldest_at).total_seconds() if jobs.oldest_at else 0
        yield declared.OLDEST_QUEUED.sample(max(0.0, age), *where)
        running[jobs.platform] += jobs.running
        expired[jobs.platform] += jobs.expired
    for platform in running:
        yield declared.RUNNING.sample(running[platform], platform)
        yield declared.LEASES_OVER.sample(expired[platform], platform)


def _limits(conn: Connection, limits: Limits, now: datetime) -> Iterator[Sample]:
    """Yield what was used of the limits. The running minute counts with the five before it."""
    begin = (now - _LATELY).replace(second=0, microsecond=0)
    calls: defaultdict[tuple[str, str], float] = defaultdict(float)
    for (platform, kind, _), sample in Sums(metrics.lately(conn, begin)).of(declared.CALLS).items():
        calls[platform, kind] += sample.value
    for platform, kind in limits.calls:
        used = limits.used(platform, kind, calls[platform, kind], (now - begin).total_seconds())
        if used is not None:
            yield declared.LIMIT_USED.sample(round(used, 4), platform, kind)


def routes(room: Room) -> Iterator[Route]:
    yield "/metrics", Metrics(room)
