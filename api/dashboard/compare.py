"""GET /compare: up to eight accounts or organisations on one chart; its data, and names to choose from."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.cached import HTML, JSON
from api.dashboard import comparison
from api.dashboard.charts import CSV, TTL_S, Drawn, Form, Table, give
from api.dashboard.comparison import MOST, ORG, CompareQuery
from api.dashboard.look import look, shown
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import Words, filled, parse
from db import growth, reads, tags
from db.engine import Connection
from db.keyset import Order, Window
from db.reads import Clock, Filters

SPANS = {30: "30 days", 60: "60 days", 90: "90 days", 365: "1 year", 1825: "5 years"}
_SUGGESTED = 8
_EXAMPLE = 5


class ComparePageQuery(CompareQuery, frozen=True, kw_only=True):
    """GET /compare"""

    table: Table | None = None


class CompareChartQuery(CompareQuery, frozen=True, kw_only=True):
    """GET /charts/compare"""

    format: Form = "json"


class ComparePage:
    """What is compared stands in the address, so that it can be kept and sent."""

    operations = Operations(
        get=Operation(summary="Accounts and organisations compared.", query=ComparePageQuery, media_types=(HTML,))
    )

    def __init__(self, room: Room) -> None:
        self._platforms = room.platforms
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(filled(req.context.params), ComparePageQuery)
        await self._look.give(req, resp, lambda conn: self._read(conn, query))

    on_head = on_get

    def _read(self, conn: Connection, query: ComparePageQuery) -> Content:
        clock = self._look.clock()
        found = comparison.compared(conn, query, clock, self._platforms)
        today, names = clock.now.date(), [line.name for line in found.lines]
        kept = {"scale": query.scale if query.scale == "indexed" else None, "from": query.first, "to": query.last}
        return self._look.page(
            conn,
            "compare.html",
            here="/compare",
            tagged=frozenset({line.tag for line in found.lines}),
            query=query,
            found=found,
            chart=found.chart(query.scale),
            most=MOST,
            data="/charts/compare" + comparison.address(names, **kept),
            without=[comparison.address([one for one in names if one != name], **kept) for name in names],
            scales={scale: comparison.address(names, **kept | {"scale": scale}) for scale in ("absolute", "indexed")},
            spans={
                title: comparison.address(names, **kept | {"from": today - timedelta(days=days - 1), "to": None})
                for days, title in SPANS.items()
            },
            span_title=SPANS.get((found.span[1] - found.span[0]).days + 1) if found.span[1] == today else None,
            with_table=comparison.address(names, **kept, table="true"),
            embedded=f"/exports{comparison.address(names, **kept)}#embed",
            today=today,
            examples=self._examples(conn, clock) if not query.named else {},
        )

    def _examples(self, conn: Connection, clock: Clock) -> dict[str, str]:
        """Return what a first comparison could be: the largest accounts, and the largest organisations."""
        by_followers = Order("followers", descending=True)
        largest = reads.summary(conn, Filters(), by_followers, Window(limit=_EXAMPLE), clock).rows
        orgs = growth.largest_organisations(conn, clock.now.date(), _EXAMPLE)
        examples = {
            "The largest accounts": [f"{one.platform}/{one.handle}" for one in largest],
            "The largest organisations": [f"{ORG}{org}" for org in orgs],
        }
        return {title: comparison.address(names) for title, names in examples.items() if names}


class CompareChart:
    """A line for each of those compared."""

    operations = Operations(
        get=Operation(
            summary="Followers of accounts and organisations by day.",
            query=CompareChartQuery,
            media_types=(JSON, CSV),
        )
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, CompareChartQuery)

        def draw(conn: Connection) -> Drawn:
            clock = Clock(datetime.now(UTC), self._room.stale_after)
            found = comparison.compared(conn, query, clock, self._room.platforms)
            return Drawn(chart=found.chart(query.scale), tags=frozenset({line.tag for line in found.lines}))

        await give(self._room, req, resp, query.format, draw)

    on_head = on_get


class SuggestQuery(Struct, frozen=True, kw_only=True):
    """GET /charts/suggest"""

    q: Words


class Suggestion(Struct, frozen=True):
    """What can be compared: its name in an address, and what people call it."""

    name: str
    title: str


class Suggest:
    """Names that contain what someone is typing: organisations first, then the largest accounts."""

    operations = Operations(
        get=Operation(summary="Names to compare, as one types.", query=SuggestQuery, media_types=(JSON,))
    )

    def __init__(self, room: Room) -> None:
        self._cached = room.cached
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, SuggestQuery)
        await self._cached.give(req, resp, ttl_s=TTL_S, read=lambda conn: self._read(conn, query.q))

    on_head = on_get

    def _read(self, conn: Connection, text: str) -> Content:
        orgs = [org for org in self._look.organisations(conn) if text.casefold() in org.casefold()]
        found = [Suggestion(f"{ORG}{org}", "organisation") for org in orgs[: _SUGGESTED // 2]]
        order = Order("followers", descending=True)
        window = Window(limit=_SUGGESTED - len(found))
        for one in reads.summary(conn, Filters(text=text), order, window, self._look.clock()).rows:
            title = f"{shown(one)} on {self._look.title_of(one.platform)}"
            found.append(Suggestion(f"{one.platform}/{one.handle}", title))
        return Content(body=msgspec.json.encode(found), tags=frozenset({tags.SUMMARY}), modified_at=None)


def routes(room: Room) -> Iterator[Route]:
    yield "/compare", ComparePage(room)
    yield "/charts/compare", CompareChart(room)
    yield "/charts/suggest", Suggest(room)
