"""GET /api/performance: how fast everything is, and what stands in the way; for the whole fleet, since its first day."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.stats import recommendations
from api.lists import picked
from api.operations import Operation, Operations
from api.performance import Limits, Sums, Window, cache_counts, window
from api.profiling import kept_reports
from api.room import Room
from api.routes import Route
from api.schemas import ObjectQuery, chosen_fields, parse
from api.spaces import spaces_set
from db import metrics, profiler, queues
from db.engine import reading
from db.metrics import Process, Sample
from db.profiler import Figures, scoped
from db.queues import OpenJobs
from pipeline.lanes import queue_name
from pipeline.metrics import ERROR_PCT, POOL_IN_USE, POOL_SIZE
from pipeline.settings import Settings

# A recorder that has kept nothing for so long is behind, or gone.
BEHIND_S = 60.0
_LATELY = timedelta(minutes=5)
_A_DAY = timedelta(hours=24)


class PoolFigures(Struct, frozen=True, kw_only=True):
    """Connections to the database, of all API processes; null where none has been heard of lately."""

    processes: int
    in_use: int | None
    most: int | None


class QueueFigures(Struct, frozen=True, kw_only=True):
    """What waits in a queue now: jobs (`backlog`), the accounts in them, and the age of the oldest."""

    queue: str
    backlog: int
    backlog_accounts: int
    oldest_queued_s: float | None
    running: int


class Performance(Struct, frozen=True, kw_only=True):
    """Everything that is known. Percentiles are right to `percentile_error_pct`; `unknown` says why something is null."""

    as_of: datetime
    percentile_error_pct: int
    recorded_at: datetime | None
    since_start: Window | None
    last_24_hours: Window | None
    last_5_minutes: Window | None
    pool: PoolFigures
    queries: Sequence[Figures] | None
    queues: Sequence[QueueFigures]
    recommendations: Sequence[str] | None
    unknown: Mapping[str, str]


class _Record(Struct, frozen=True):
    """What the database knows."""

    since: datetime | None
    recorded_at: datetime | None
    totals: Sequence[Sample]
    day: Sequence[Sample]
    lately: Sequence[Sample]
    processes: Sequence[Process]
    open_jobs: Sequence[OpenJobs]


class Performing:
    """Counts are some seconds old at most, since processes send them that often; nothing of it is cached."""

    operations = Operations(
        get=Operation(
            summary="Requests, caches, statements and readings: how many, how fast, how well.",
            query=ObjectQuery,
            answer=Performance,
        )
    )

    def __init__(self, room: Room) -> None:
        self._settings = room.settings
        self._platforms = tuple(room.platforms.values())
        self._engine = room.engine
        self._threads = room.threads
        self._redis = room.redis

    async def on_get(self, req: Request, resp: Response) -> None:
        names = chosen_fields(parse(req.context.params, ObjectQuery).fields, Performance)
        loop = asyncio.get_running_loop()
        reports, spaces, record = await asyncio.gather(
            kept_reports(self._redis),
            spaces_set(self._redis),
            loop.run_in_executor(self._threads, scoped("/api/performance", self._read)),
        )
        queries = await asyncio.to_thread(profiler.figures, reports) if reports else None
        limits = Limits(self._settings, self._platforms, spaces)
        resp.data = msgspec.json.encode(picked(self._said(record, limits, queries, redis=reports is not None), names))
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get

    def _read(self) -> _Record:
        now = datetime.now(UTC)
        with reading(self._engine) as conn:
            return _Record(
                since=metrics.since(conn),
                recorded_at=metrics.recorded_at(conn),
                totals=metrics.totals(conn),
                day=metrics.lately(conn, now - _A_DAY),
                lately=metrics.lately(conn, now - _LATELY),
                processes=metrics.processes(conn),
                open_jobs=queues.open_jobs(conn, now=now),
            )

    def _said(
        self, record: _Record, limits: Limits, queries: Sequence[Figures] | None, *, redis: bool
    ) -> Performance:
        now = datetime.now(UTC)
        pool = pool_figures(record.processes)
        unknown = unknown_record(record.since, record.recorded_at, now)
        if not pool.processes:
            unknown["pool"] = "No API process has been heard of in the last half minute."
        if queries is None:
            unknown["queries"] = unknown_queries(self._settings, redis=redis)
        is_behind = "last_5_minutes" in unknown

        def since(begin: datetime, samples: Sequence[Sample]) -> Window | None:
            if record.since is None:
                return None
            begin = max(begin.replace(second=0, microsecond=0), record.since)
            return window(samples, limits, since=begin, seconds=max(1.0, (now - begin).total_seconds()))

        return Performance(
            as_of=now,
            percentile_error_pct=ERROR_PCT,
            recorded_at=record.recorded_at,
            since_start=since(datetime.min.replace(tzinfo=UTC), record.totals),
            last_24_hours=since(now - _A_DAY, record.day),
            last_5_minutes=None if is_behind else since(now - _LATELY, record.lately),
            pool=pool,
            queries=queries,
            queues=[_queue(one, now) for one in record.open_jobs],
            recommendations=None if record.since is None else recommendations(cache_counts(Sums(record.day))),
            unknown=unknown,
        )


def unknown_record(since: datetime | None, recorded_at: datetime | None, now: datetime) -> dict[str, str]:
    """Return what isn't known of what was counted, by the names of what is null, with the reason."""
    if since is None:
        why = "Nothing has been recorded yet: does `python -m workers.recorder` run?"
        return dict.fromkeys(("since_start", "last_24_hours", "last_5_minutes", "recommendations"), why)
    if recorded_at is None or (now - recorded_at).total_seconds() > BEHIND_S:
        return {"last_5_minutes": "The recorder has kept nothing for a minute or more: see recorded_at."}
    return {}


def unknown_queries(settings: Settings, *, redis: bool) -> str:
    """Say why the statements aren't known; `redis` is whether Redis answered."""
    if not redis:
        return "Redis, which holds them, can't be reached."
    return "No process has handed any on yet." if settings.db_profile else "They are counted with DB_PROFILE=true."


def pool_figures(processes: Sequence[Process]) -> PoolFigures:
    """Return what these processes said of their connections."""
    apis = [{gauge.name: gauge.value for gauge in process.gauges} for process in processes if process.gauges]
    return PoolFigures(
        processes=len(apis),
        in_use=round(sum(one.get(POOL_IN_USE.name, 0) for one in apis)) if apis else None,
        most=round(sum(one.get(POOL_SIZE.name, 0) for one in apis)) if apis else None,
    )


def _queue(jobs: OpenJobs, now: datetime) -> QueueFigures:
    return QueueFigures(
        queue=queue_name(jobs.platform, jobs.lane),
        backlog=jobs.queued,
        backlog_accounts=jobs.queued_accounts,
        oldest_queued_s=None if jobs.oldest_at is None else round((now - jobs.oldest_at).total_seconds(), 1),
        running=jobs.running,
    )


def routes(room: Room) -> Iterator[Route]:
    yield "/api/performance", Performing(room)
