"""GET /api/grid: one item per account and day."""

from collections.abc import Iterator

from api.lists import Ask, ListResource, Opened, listing
from api.room import Room
from api.routes import Route
from api.schemas import GridQuery, known_range
from db import grid, reads, tags
from db.engine import Connection
from db.grid import Cell, Filters


class Grid(ListResource[GridQuery]):
    """The numbers of every account and day, newest day first; those of a held reading are null."""

    query, rows = GridQuery, Cell
    operations = listing("The numbers of every account and day, newest day first.", query, rows)
    sortable = grid.SORTABLE
    ttl_s = 300

    def open(self, conn: Connection, ask: Ask[GridQuery]) -> Opened:
        asked = ask.query
        known_range(asked.first, asked.last)
        of = asked.filters
        filters = Filters(
            platform=of.platform,
            org=of.org,
            core=of.core,
            status=of.status,
            text=of.text,
            clock=ask.clock,
            first=asked.first,
            last=asked.last,
        )
        return Opened(
            part=lambda window: grid.part(conn, ask.names, filters, asked.order, window),
            total=grid.total(conn, filters),
            as_of=reads.newest_reading(conn),
            tags=frozenset({tags.GRID}),
        )


def routes(room: Room) -> Iterator[Route]:
    yield "/api/grid", Grid(room)
