"""GET /api/movers: the accounts that gained and lost most."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.media import MEDIA_TYPES, Rows, RowsFormat, wanted
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import MoversQuery, chosen_fields, known_platform, parse
from db import movers, reads, tags
from db.engine import Connection
from db.movers import By, Days, Interval, Mover
from db.reads import Clock

TTL_S = 300


class MoversAnswer(Struct, frozen=True, kw_only=True):
    """Those that gained most and those that lost most, the largest change first; NDJSON and CSV have them one after
    the other. Who wasn't read lately is in neither.
    """

    days: Days
    by: By
    as_of: datetime | None
    gains: list[Mover]
    losses: list[Mover]


class Movers:
    """The biggest gains and losses over 1, 7 or 30 days."""

    operations = Operations(
        get=Operation(
            summary="The biggest gains and losses over 1, 7 or 30 days, by number or percent.",
            query=MoversQuery,
            answer=MoversAnswer,
            record=Mover,
            kept_s=TTL_S,
            media_types=tuple(MEDIA_TYPES.values()),
        )
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, MoversQuery)
        known_platform(query.platform, self._room.platforms)
        names = chosen_fields(query.fields, Mover) or Mover.__struct_fields__
        as_format = wanted(query.format, req, resp)
        read = partial(self._read, query=query, names=names, as_format=as_format)
        media_type = MEDIA_TYPES[as_format]
        await self._room.cached.give(req, resp, ttl_s=TTL_S, read=read, media_type=media_type)

    on_head = on_get

    def _read(self, conn: Connection, *, query: MoversQuery, names: Sequence[str], as_format: RowsFormat) -> Content:
        clock = Clock(datetime.now(UTC), self._room.stale_after)
        as_of = reads.extent(conn, "summary", query.filters, clock).as_of
        find = partial(
            movers.movers, conn, names, query.filters, Interval(query.days, query.by), clock, limit=query.per_page
        )
        gains, losses = find(losses=False), find(losses=True)
        if as_format == "json":
            answer = {
                "days": query.days,
                "by": query.by,
                "as_of": as_of,
                "gains": Rows(Mover, names, gains).objects(),
                "losses": Rows(Mover, names, losses).objects(),
            }
            body = msgspec.json.encode(answer)
        else:
            body = Rows(Mover, names, [*gains, *losses]).encoded(as_format)
        return Content(body=body, tags=frozenset({tags.SUMMARY}), modified_at=as_of)


def routes(room: Room) -> Iterator[Route]:
    yield "/api/movers", Movers(room)
