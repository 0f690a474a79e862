"""GET /embed: one chart as /compare has it, to be shown in a frame on another site."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Annotated, Literal

from falcon.asgi import Request, Response
from msgspec import Meta

from api.cache.entries import Content
from api.cached import HTML
from api.dashboard import comparison
from api.dashboard.charts import Table
from api.dashboard.comparison import CompareQuery, Comparison
from api.dashboard.look import look
from api.operations import Operation, Operations
from api.problems import Fault, refuse
from api.room import Room
from api.routes import Route
from api.schemas import parse
from db.engine import Connection

Recent = Annotated[Literal[30, 60, 90, 365, 1825], Meta(description="one of 30, 60, 90, 365, 1825")]
_NAMED = 3


class ChartQuery(CompareQuery, frozen=True, kw_only=True, rename={"recent": "days"}):
    """What a chart shows: the `days` until today, or `from` a day `to` another."""

    recent: Recent | None = None

    def days(self, today: date) -> tuple[date, date]:
        if self.recent is None:
            return CompareQuery.days(self, today)
        if self.first or self.last:
            raise refuse(Fault("days", "goes without from and to: it ends today"))
        return today - timedelta(days=self.recent - 1), today

    def address(self, names: Sequence[str], **others: object) -> str:
        """Return the query of the same chart of these."""
        scale = self.scale if self.scale == "indexed" else None
        return comparison.address(
            names, scale=scale, days=self.recent, **{"from": self.first, "to": self.last}, **others
        )


class EmbedQuery(ChartQuery, frozen=True, kw_only=True):
    """GET /embed"""

    table: Table | None = None


class EmbedPage:
    """A page of its own without anything around it. EMBED_ORIGINS says who may frame it."""

    operations = Operations(
        get=Operation(
            summary="A chart of accounts and organisations for another site.", query=EmbedQuery, media_types=(HTML,)
        )
    )

    def __init__(self, room: Room) -> None:
        self._platforms = room.platforms
        self._framed_by = room.settings.framed_by
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, EmbedQuery)
        await self._look.give(req, resp, lambda conn: self._read(conn, query), framed_by=self._framed_by)

    on_head = on_get

    def _read(self, conn: Connection, query: EmbedQuery) -> Content:
        found = comparison.compared(conn, query, self._look.clock(), self._platforms)
        names = [line.name for line in found.lines]
        first, last = found.span
        data = comparison.address(names, scale=query.scale, **{"from": first, "to": last})
        return self._look.page(
            conn,
            "embed.html",
            here="/embed",
            tagged=frozenset({line.tag for line in found.lines}),
            found=found,
            title=title(found, query),
            chart=found.chart(query.scale),
            data=f"/charts/compare{data}",
            compared=f"/compare{data}",
            with_table=f"{query.address(names, table='true')}#by-day",
            is_table=query.table is not None,
        )


def title(found: Comparison, query: CompareQuery) -> str:
    """Say what a chart shows in a few words."""
    titles = [title for title, _ in found.titled]
    if len(titles) > _NAMED:
        titles = [*titles[: _NAMED - 1], f"{len(titles) - _NAMED + 1} more"]
    of = " and ".join([", ".join(titles[:-1]), titles[-1]]) if len(titles) > 1 else "".join(titles)
    return f"Followers of {of}" + (", first day = 100" if query.scale == "indexed" else "")


def routes(room: Room) -> Iterator[Route]:
    yield "/embed", EmbedPage(room)
