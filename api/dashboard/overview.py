"""GET /: how all accounts stand today, for whoever opens it in the morning."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta

from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.cached import HTML
from api.dashboard.charts import Scale, Table, followers
from api.dashboard.figures import trend_sentence
from api.dashboard.look import look
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import parse
from db import alerts, growth, movers, overview, tags
from db.engine import Connection
from db.gaps import each_day
from db.growth import Group, Growth, Trend
from db.movers import Interval, Mover
from db.reads import Clock, Filters

TREND_DAYS = 60
# The biggest ones are shown; the rest is a link away.
ORGANISATIONS = 25
MOVERS = 6
ALERTS = 5
_INTERVAL = Interval(7, "number")


class Organisation(Struct, frozen=True, kw_only=True):
    """A row of the table: one organisation with its platforms, and its line over the last weeks."""

    name: str | None
    whole: Growth
    platforms: Mapping[str, Growth]
    values: Sequence[int | None]
    sentence: str


class OverviewQuery(Struct, frozen=True, kw_only=True):
    """GET /"""

    scale: Scale = "indexed"
    table: Table | None = None


class OverviewPage:
    """The first page. `table` shows the chart's numbers too, for who has no script."""

    operations = Operations(
        get=Operation(summary="How all accounts stand.", query=OverviewQuery, media_types=(HTML,))
    )

    def __init__(self, room: Room) -> None:
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, OverviewQuery)
        await self._look.give(req, resp, lambda conn: self._read(conn, query))

    on_head = on_get

    def _read(self, conn: Connection, query: OverviewQuery) -> Content:
        clock = self._look.clock()
        today = clock.now.date()
        first = today - timedelta(days=TREND_DAYS - 1)
        groups = growth.by_group(conn, today)
        largest = _largest(groups)
        trends = growth.trends(conn, first, today - timedelta(days=1), [name for name in largest if name])
        days = list(each_day(first, today))
        whole = growth.together(groups.values())
        line = _line(trends.get(("", ""), {}), days, whole.followers)
        platforms = {name: growth.together(_of_platform(groups, name)) for name in sorted({key[0] for key in groups})}
        lines = {name: _line(trends.get((name, ""), {}), days, its.followers) for name, its in platforms.items()}
        by_day = {self._look.title_of(name): values for name, values in lines.items()}
        return self._look.page(
            conn,
            "overview.html",
            here="/",
            tagged=frozenset({tags.SUMMARY, tags.ALERTS}),
            alerts=alerts.listed(conn),
            most_alerts=ALERTS,
            not_fresh=[
                group
                for group in overview.groups(conn, now=clock.now, stale_after=clock.stale_after)
                if group.status != "fresh"
            ],
            query=query,
            whole=whole,
            span=(first, today),
            line=line,
            sentence=trend_sentence("All accounts", days, line),
            platforms_growth=sorted(platforms.items(), key=lambda item: -(item[1].followers or 0)),
            platform_lines=lines,
            series=[title for title, values in by_day.items() if any(value is not None for value in values)],
            table=followers(days, by_day, query.scale) if query.table else None,
            days=days,
            gains=_movers(conn, clock, losses=False),
            losses=_movers(conn, clock, losses=True),
            organisations=_organisations(largest, trends, days),
            more_organisations=max(0, len({key[1] for key in groups}) - ORGANISATIONS),
        )


def _movers(conn: Connection, clock: Clock, *, losses: bool) -> list[Mover]:
    """Return the accounts whose followers changed most within a week."""
    found = movers.movers(conn, Mover.__struct_fields__, Filters(), _INTERVAL, clock, losses=losses, limit=MOVERS)
    return [Mover(*row) for row in found]


def _of_platform(groups: Mapping[Group, Growth], name: str) -> Iterator[Growth]:
    return (its for (platform, _), its in groups.items() if platform == name)


def _largest(groups: Mapping[Group, Growth]) -> dict[str | None, Mapping[str, Growth]]:
    """Return the organisations with the most followers, each with its platforms; largest first."""
    by_name: dict[str | None, dict[str, Growth]] = {}
    followers: Counter[str | None] = Counter()
    for (platform, org), its in groups.items():
        by_name.setdefault(org, {})[platform] = its
        followers[org] += its.followers or 0
    return {name: by_name[name] for name, _ in followers.most_common(ORGANISATIONS)}


def _organisations(
    largest: Mapping[str | None, Mapping[str, Growth]],
    trends: Mapping[Trend, Mapping[date, int | None]],
    days: Sequence[date],
) -> list[Organisation]:
    """Return a row for each organisation."""
    wholes = {name: growth.together(of.values()) for name, of in largest.items()}
    lines = {
        name: _line(trends.get(("", name), {}), days, wholes[name].followers) if name else [None] * len(days)
        for name in largest
    }
    return [
        Organisation(
            name=name,
            whole=wholes[name],
            platforms=largest[name],
            values=lines[name],
            sentence=trend_sentence(name or "Without organisation", days, lines[name]),
        )
        for name in largest
    ]


def _line(kept: Mapping[date, int | None], days: Sequence[date], today: int | None) -> list[int | None]:
    """Return a value per day: those that were added up, and the newest numbers as today's."""
    return [*(kept.get(day) for day in days[:-1]), today]


def routes(room: Room) -> Iterator[Route]:
    yield "/", OverviewPage(room)
