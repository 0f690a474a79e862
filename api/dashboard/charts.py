"""What the charts of the pages draw, as JSON for js/chart.js and as CSV for people."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Literal

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from api.cache.entries import Content
from api.cached import JSON
from api.dashboard.figures import Values, indexed
from api.dashboard.look import shown
from api.naming import find_account, tags_of
from api.operations import Operation, Operations
from api.resources.history import History, read_history
from api.room import Room
from api.routes import Route
from api.schemas import Interval, RangeQuery, parse
from db import tags, totals
from db.engine import Connection
from db.gaps import each_day
from db.reads import Clock
from db.totals import Which
from pipeline.formats import safe_cell

CSV = "text/csv; charset=utf-8"
TTL_S = 300
Metric = Annotated[
    Literal["followers", "following", "posts", "engagement"],
    Meta(description="one of followers, following, posts, engagement"),
]
Table = Annotated[Literal["true"], Meta(description="true")]
"""Whether a page shows a chart's numbers as a table, for who has no script."""
Scale = Annotated[Literal["absolute", "indexed"], Meta(description="one of absolute, indexed")]
Form = Annotated[Literal["json", "csv"], Meta(description="one of json, csv")]


class Series(Struct, frozen=True):
    """One line: a value per day of the chart, None where there is none."""

    name: str
    values: Sequence[int | float | None]


class Shade(Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Days without a number, and why."""

    first: date
    last: date
    reason: str


class Mark(Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """What someone noted about these days."""

    first: date
    last: date
    note: str


class Chart(Struct, frozen=True, kw_only=True):
    """Lines over the same days. Gaps are of all lines: with several of them, each is told by its own open places."""

    unit: str
    dates: Sequence[date]
    series: Sequence[Series]
    gaps: Sequence[Shade] = ()
    notes: Sequence[Mark] = ()

    def encoded(self, form: Form) -> bytes:
        return self._csv() if form == "csv" else msgspec.json.encode(self)

    def _csv(self) -> bytes:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\r\n")
        lines.writerow(["date", *(safe_cell(one.name) for one in self.series)])
        lines.writerows(
            [day, *("" if value is None else value for value in values)]
            for day, *values in zip(self.dates, *(one.values for one in self.series), strict=True)
        )
        return text.getvalue().encode()


def followers(dates: Sequence[date], lines: Mapping[str, Values], scale: Scale) -> Chart:
    """Return the chart of followers by name, as they are or in percent of each line's first number."""
    is_indexed = scale == "indexed"
    series = [Series(name, indexed(values) if is_indexed else values) for name, values in lines.items()]
    return Chart(unit="% of the first day" if is_indexed else "followers", dates=dates, series=series)


class Drawn(Struct, frozen=True, kw_only=True):
    """A chart with the tags of what it shows, and the time of its newest fact; `account` is the tag of the one it shows."""

    chart: Chart
    tags: frozenset[str]
    modified_at: datetime | None = None
    account: str | None = None


async def give(room: Room, req: Request, resp: Response, form: Form, draw: Callable[[Connection], Drawn]) -> None:
    """Answer with a chart, out of the caches or as `draw` makes it."""

    def read(conn: Connection) -> Content:
        drawn = draw(conn)
        return Content(
            body=drawn.chart.encoded(form), tags=drawn.tags, modified_at=drawn.modified_at, account=drawn.account
        )

    await room.cached.give(req, resp, ttl_s=TTL_S, read=read, media_type=CSV if form == "csv" else JSON)


class AccountChartQuery(RangeQuery, frozen=True, kw_only=True):
    """GET /charts/account/{platform}/{handle}"""

    metric: Metric = "followers"
    interval: Interval = "day"
    format: Form = "json"


class AccountChart:
    """One number of one account, with its gaps and notes."""

    operations = Operations(
        get=Operation(summary="One account's line.", query=AccountChartQuery, media_types=(JSON, CSV))
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_get(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        query = parse(req.context.params, AccountChartQuery)
        now = datetime.now(UTC)
        span = query.span(now.date())

        def draw(conn: Connection) -> Drawn:
            clock = Clock(now, self._room.stale_after)
            account = find_account(conn, self._room.platforms, platform, handle, clock)
            not_offered = self._room.platforms[account.platform].not_offered.reasons
            history = read_history(conn, account, span, query.interval, not_offered=not_offered, clock=clock)
            return Drawn(
                chart=of_account(history, query.metric),
                tags=tags_of(account, handle) | {tags.standing(account.platform), tags.ANNOTATIONS},
                modified_at=account.last_attempt_at,
                account=tags.account(account.account_key),
            )

        await give(self._room, req, resp, query.format, draw)

    on_head = on_get


def of_account(history: History, metric: Metric) -> Chart:
    """Return the chart of one column of a history."""
    name = shown(history.account)
    return Chart(
        unit=metric,
        dates=history.dates,
        series=[Series(name, getattr(history, metric))],
        gaps=[Shade(gap.first, gap.last, gap.reason) for gap in history.gaps],
        notes=[Mark(note.first, note.last, note.note) for note in history.annotations],
    )


class PlatformsChartQuery(RangeQuery, frozen=True, kw_only=True):
    """GET /charts/platforms"""

    scale: Scale = "absolute"
    format: Form = "json"


class PlatformsChart:
    """Followers per day, a line for each platform that has any."""

    operations = Operations(
        get=Operation(summary="Followers by platform and day.", query=PlatformsChartQuery, media_types=(JSON, CSV))
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, PlatformsChartQuery)
        today = datetime.now(UTC).date()
        first, last = query.span(today)
        last = max(first, min(last, today))

        def draw(conn: Connection) -> Drawn:
            return Drawn(chart=self._chart(conn, first, last, query.scale), tags=frozenset({tags.SUMMARY}))

        await give(self._room, req, resp, query.format, draw)

    on_head = on_get

    def _chart(self, conn: Connection, first: date, last: date, scale: Scale) -> Chart:
        lines = {
            platform.title: [
                total.followers for total in totals.by_day(conn, Which(platform=name), first, last).values()
            ]
            for name, platform in self._room.platforms.items()
        }
        known = {title: values for title, values in lines.items() if any(value is not None for value in values)}
        return followers(list(each_day(first, last)), known, scale)


def routes(room: Room) -> Iterator[Route]:
    yield "/charts/account/{platform}/{handle:path}", AccountChart(room)
    yield "/charts/platforms", PlatformsChart(room)
