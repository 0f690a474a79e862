"""GET /performance: what GET /api/performance says, as pictures: requests, caches, statements, readings."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

from falcon.asgi import Request, Response
from msgspec import Meta, Struct
from redis.exceptions import RedisError

from api.cache.entries import Content
from api.cache.stats import recommendations
from api.cached import HTML
from api.dashboard.look import look
from api.operations import Operation, Operations
from api.patient import redis_of
from api.performance import Limits, Sums, Window, cache_counts, window
from api.resources.performance import pool_figures, unknown_queries, unknown_record
from api.room import Room
from api.routes import Route
from api.schemas import parse
from db import metrics, profiler, tags
from db.engine import Connection
from db.metrics import CLASSES, Point, Sample
from db.profiler import Figures
from pipeline import metrics as declared
from pipeline import profiles
from pipeline.metrics import ERROR_PCT, percentile_s
from pipeline.slots import Slots

# Processes send what they count every few seconds.
TTL_S = 5
STATEMENTS = 15
STATUSES = ("2xx", "3xx", "4xx", "5xx")
LEVELS = ("l1", "l2", "stale", "miss")
# Colours and shades of app.css.
MOST_PARTS = 8
OTHERS = "others"
SHARES = (0.5, 0.95, 0.99)
# By which label each is parted: its place.
_WANTED: Mapping[str, int] = {
    declared.REQUESTS.name: 2,
    declared.REQUEST_TIME.name: 0,
    declared.CACHE_ANSWERS.name: 2,
    declared.ACCOUNTS.name: 1,
}

Span = Annotated[Literal["hour", "day"], Meta(description="one of hour, day")]


class PerformancePageQuery(Struct, frozen=True, kw_only=True):
    """GET /performance"""

    span: Span = "hour"


class Course(Struct, frozen=True, kw_only=True):
    """How something went, step by step. Each step's values are in the order of `names`; None where nobody knows."""

    names: Sequence[str]
    times: Sequence[datetime]
    values: Sequence[Sequence[float] | None]

    @property
    def lines(self) -> list[list[float | None]]:
        """Return the values by name instead of by step."""
        return [[None if step is None else step[place] for step in self.values] for place in range(len(self.names))]

    @property
    def sums(self) -> list[float]:
        return [sum(value for value in line if value is not None) for line in self.lines]

    @property
    def peak(self) -> tuple[datetime, float] | None:
        """Return the step with the most of all, None without any."""
        found = [(at, sum(step)) for at, step in zip(self.times, self.values, strict=True) if step and sum(step)]
        return max(found, key=lambda one: one[1], default=None)

    def parted(self) -> "Course":
        """Return it without the parts that nothing came of; the largest first, and what comes behind the seventh together."""
        sums = self.sums
        order = sorted((place for place, of_part in enumerate(sums) if of_part), key=lambda place: -sums[place])
        kept, others = (order, []) if len(order) <= MOST_PARTS else (order[: MOST_PARTS - 1], order[MOST_PARTS - 1 :])
        values = [
            None
            if step is None
            else [*(step[place] for place in kept), *([sum(step[place] for place in others)] if others else [])]
            for step in self.values
        ]
        names = [*(self.names[place] for place in kept), *([OTHERS] if others else [])]
        return Course(names=names, times=self.times, values=values)

    @property
    def rows(self) -> list[tuple[datetime, Sequence[float] | None]]:
        """Return the steps, the newest first."""
        return list(zip(self.times, self.values, strict=True))[::-1]


class Recorded(Struct, frozen=True, kw_only=True):
    """What was counted in a span: in sums, and step by step. `latency` is in milliseconds, by SHARES of all answers."""

    window: Window
    whole: Sequence[float | None]
    requests: Course
    latency: Course
    answers: Course
    accounts: Course
    advice: Sequence[str]


class PerformancePage:
    """What is shown is some seconds old at most, as what is counted."""

    operations = Operations(
        get=Operation(summary="How fast everything is.", query=PerformancePageQuery, media_types=(HTML,))
    )

    def __init__(self, room: Room) -> None:
        self._settings = room.settings
        self._platforms = room.platforms
        self._redis = redis_of(room)
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, PerformancePageQuery)
        await self._look.give(req, resp, lambda conn: self._read(conn, query), ttl_s=TTL_S)

    on_head = on_get

    def _read(self, conn: Connection, query: PerformancePageQuery) -> Content:
        now = self._look.clock().now
        since, recorded_at = metrics.since(conn), metrics.recorded_at(conn)
        statements = self._statements()
        unknown = unknown_record(since, recorded_at, now)
        return self._look.page(
            conn,
            "performance.html",
            here="/performance",
            tagged=frozenset({tags.SUMMARY}),
            now=now,
            query=query,
            recorded_at=recorded_at,
            recorded=None if since is None else self._recorded(conn, query.span, since, recorded_at or since, now),
            nothing_yet=unknown.get("since_start"),
            is_behind="last_5_minutes" in unknown and since is not None,
            pool=pool_figures(metrics.processes(conn)),
            statements=(statements or [])[:STATEMENTS],
            more_statements=max(0, len(statements or []) - STATEMENTS),
            # None where they could be switched on.
            why_no_statements=unknown_queries(self._settings, redis=statements is not None)
            if statements is None or self._settings.db_profile
            else None,
            slow_ms=self._settings.db_slow_ms,
            error_pct=ERROR_PCT,
            titles=lambda names: [self._look.title_of(name) for name in names],
        )

    def _recorded(
        self, conn: Connection, span: Span, since: datetime, recorded_at: datetime, now: datetime
    ) -> Recorded:
        times = steps(span, now)
        begin = times[0]
        samples = metrics.lately(conn, begin)
        seconds = max(1.0, (now - max(begin, since)).total_seconds())
        points = metrics.over_time(conn, "minute" if span == "hour" else "hour", begin, _WANTED)
        known = [_step(since, span) <= at <= recorded_at for at in times]
        return Recorded(
            window=window(samples, self._limits(), since=max(begin, since), seconds=seconds),
            whole=_percentiles(_classes(samples)),
            requests=_course(declared.REQUESTS.name, STATUSES, points, times, known),
            latency=_latency(points, times),
            answers=_course(declared.CACHE_ANSWERS.name, LEVELS, points, times, known),
            accounts=_course(declared.ACCOUNTS.name, tuple(self._platforms), points, times, known),
            advice=recommendations(cache_counts(Sums(samples))),
        )

    def _limits(self) -> Limits:
        """Return what the platforms allow; without Redis as the settings say."""
        try:
            spaces = Slots(self._redis).spaces()
        except RedisError:
            spaces = {}
        return Limits(self._settings, self._platforms.values(), spaces)

    def _statements(self) -> list[Figures] | None:
        """Return what statements cost as far as processes have said; None where Redis, which holds it, is away."""
        try:
            return profiler.figures(profiles.kept(self._redis))
        except RedisError:
            return None


def steps(span: Span, now: datetime) -> list[datetime]:
    """Return the begins of the last 60 minutes or 24 hours, the running one last."""
    newest = _step(now, span)
    width, number = (timedelta(minutes=1), 60) if span == "hour" else (timedelta(hours=1), 24)
    return [newest - width * age for age in reversed(range(number))]


def _step(at: datetime, span: Span) -> datetime:
    minute = at.replace(second=0, microsecond=0)
    return minute if span == "hour" else minute.replace(minute=0)


def _course(
    name: str, parts: Sequence[str], points: Sequence[Point], times: Sequence[datetime], known: Sequence[bool]
) -> Course:
    """Return a metric by the values of its label. A step of which nothing came is zero while somebody recorded."""
    found = {(point.at, point.label): point.value for point in points if point.name == name}
    values = [
        [found.get((at, part), 0.0) for part in parts]
        if is_known or any((at, part) in found for part in parts)
        else None
        for at, is_known in zip(times, known, strict=True)
    ]
    return Course(names=parts, times=times, values=values)


def _latency(points: Sequence[Point], times: Sequence[datetime]) -> Course:
    found = {point.at: point.buckets for point in points if point.name == declared.REQUEST_TIME.name}
    steps_ = [_percentiles(found[at]) if at in found else None for at in times]
    known = [None if step is None or None in step else [ms for ms in step if ms is not None] for step in steps_]
    return Course(names=[f"p{share * 100:.0f}" for share in SHARES], times=times, values=known)


def _percentiles(classes: Sequence[int]) -> list[float | None]:
    """Return within how many milliseconds each of SHARES ended."""
    found = [percentile_s(classes, share) for share in SHARES]
    return [None if seconds is None else seconds * 1000 for seconds in found]


def _classes(samples: Sequence[Sample]) -> Sequence[int]:
    """Return the times of all requests together."""
    timed = [one.buckets for one in samples if one.name == declared.REQUEST_TIME.name and one.buckets]
    return [sum(of_class) for of_class in zip(*timed, strict=True)] if timed else [0] * CLASSES


def routes(room: Room) -> Iterator[Route]:
    yield "/performance", PerformancePage(room)
