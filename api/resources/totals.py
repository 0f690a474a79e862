"""GET /api/totals: followers by platform, organisation or day, each figure with how many accounts it covers."""

# A field is named date.
import datetime as dt
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct, structs

from api.cache.entries import Content
from api.media import MEDIA_TYPES, Rows, RowsFormat, wanted
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import TotalsGroup, TotalsQuery, chosen_fields, known_platform, parse
from db import reads, tags, totals
from db.engine import Connection
from db.totals import Total, Which

TTL_S = 300


class OfPlatform(Total, frozen=True, kw_only=True):
    """The last day of the range, with the change since the first."""

    platform: str


class OfOrganisation(Total, frozen=True, kw_only=True):
    """The same of an organisation; of the accounts without one its name is None."""

    org_name: str | None


class OfDay(Total, frozen=True, kw_only=True):
    """One day, with the change since the day before."""

    date: dt.date


Item = OfPlatform | OfOrganisation | OfDay
_ITEMS: dict[TotalsGroup, type[Item]] = {"platform": OfPlatform, "org": OfOrganisation, "day": OfDay}


T = TypeVar("T", bound=Item)


class TotalsAnswer(Struct, Generic[T], frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """The figures of each group, the largest first or day by day, and `total` of all together."""

    group: TotalsGroup
    first: dt.date
    last: dt.date
    as_of: dt.datetime | None
    total: Total
    items: list[T]


class Totals:
    """The sums that may be published: nothing missing counts as zero, changes are those of the same accounts."""

    operations = Operations(
        get=Operation(
            summary="Followers by platform, organisation or day, each figure with how many accounts it covers.",
            query=TotalsQuery,
            answer=TotalsAnswer[OfPlatform] | TotalsAnswer[OfOrganisation] | TotalsAnswer[OfDay],
            kept_s=TTL_S,
            media_types=tuple(MEDIA_TYPES.values()),
        )
    )

    def __init__(self, room: Room) -> None:
        self._cached = room.cached
        self._platforms = room.platforms

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, TotalsQuery)
        known_platform(query.platform, self._platforms)
        record = _ITEMS[query.group]
        *figures, subject = record.__struct_fields__
        names = chosen_fields(query.fields, record) or (subject, *figures)
        today = dt.datetime.now(dt.UTC).date()
        first, last = query.span(today)
        # What nobody can have read yet isn't carried into the future.
        last = min(last, today)
        as_format = wanted(query.format, req, resp)
        read = partial(_read, query=query, first=min(first, last), last=last, names=names, as_format=as_format)
        media_type = MEDIA_TYPES[as_format]
        await self._cached.give(req, resp, ttl_s=TTL_S, read=read, media_type=media_type)

    on_head = on_get


def _read(
    conn: Connection,
    *,
    query: TotalsQuery,
    first: dt.date,
    last: dt.date,
    names: tuple[str, ...],
    as_format: RowsFormat,
) -> Content:
    which = Which(platform=query.platform, org=query.org)
    as_of = reads.newest_reading(conn)
    total, items = _figures(conn, query.group, which, first, last)
    rows = Rows(_ITEMS[query.group], names, [[getattr(item, name) for name in names] for item in items])
    answer = {
        "group": query.group,
        "from": first,
        "to": last,
        "as_of": as_of,
        "total": total,
        "items": rows.objects(),
    }
    body = msgspec.json.encode(answer) if as_format == "json" else rows.encoded(as_format)
    return Content(body=body, tags=frozenset({tags.SUMMARY}), modified_at=as_of)


def _figures(
    conn: Connection, group: TotalsGroup, which: Which, first: dt.date, last: dt.date
) -> tuple[Total, Sequence[Item]]:
    whole, by_group = totals.between(conn, "org_name" if group == "org" else "platform", which, first, last)
    if group == "day":
        days = totals.by_day(conn, which, first, last)
        return whole, [OfDay(date=day, **structs.asdict(total)) for day, total in days.items()]
    if group == "org":
        return whole, [OfOrganisation(org_name=name, **structs.asdict(total)) for name, total in by_group.items()]
    return whole, [OfPlatform(platform=str(name), **structs.asdict(total)) for name, total in by_group.items()]


def routes(room: Room) -> Iterator[Route]:
    yield "/api/totals", Totals(room)
