"""What every list does alike: a page or the part behind a cursor, chosen fields, an order, formats, and the way on.

A list is a file with a `ListResource` in it, which says what its rows are and how a part of them is read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, quote_plus

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.cache.extents import Extents
from api.cache.reader import Read
from api.fresh import give_fresh
from api.media import MEDIA_TYPES, Rows, RowsFormat, accepted
from api.operations import Operation, Operations
from api.problems import Fault, refuse
from api.room import Room
from api.schemas import (
    AccountsQuery,
    ListQuery,
    Params,
    SummaryQuery,
    chosen_fields,
    cursor_of,
    known_platform,
    parse_list,
    place_of,
)
from db import reads
from db.engine import Connection
from db.keyset import Part, Window
from db.reads import Clock, Extent, ListName

T = TypeVar("T")
Query = TypeVar("Query", bound=ListQuery)
AccountListQuery = TypeVar("AccountListQuery", SummaryQuery, AccountsQuery)
_PLAIN = re.compile(r"[\w.~-]*", re.ASCII)


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """A part of a list. `page` is null where a cursor led here; `next` and `next_cursor` are null at the list's end.

    `total` is null where it would take too long to count. `as_of` is the time of the newest fact in the whole list.
    """

    items: list[T]
    page: int | None
    per_page: int
    total: int | None
    next: str | None
    next_cursor: str | None
    as_of: datetime | None


class Ask(Struct, Generic[Query], frozen=True, kw_only=True):
    """What a request wants of a list: `names` are the fields, `where` is what the address names."""

    query: Query
    names: Sequence[str]
    where: Mapping[str, str]
    clock: Clock


class Opened(Struct, frozen=True, kw_only=True):
    """A list as its filters leave it. `tags` are those of what it shows; without `total`, `deepest` rows have pages."""

    part: Callable[[Window], Part]
    total: int | None
    as_of: datetime | None
    tags: frozenset[str] = frozenset()
    deepest: int = 0


class Reading(NamedTuple):
    """How an answer is made, what it is, and whether all processes share it."""

    read: Read
    media_type: str
    is_shared: bool


class ListResource(Generic[Query]):
    """GET of a list. The first field of `rows` is the key, which tells each row from every other."""

    operations: Operations
    query: type[Query]
    rows: type[Struct]
    sortable: Sequence[str]
    ttl_s: int | None
    """How long answers are kept; None: not at all."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def open(self, conn: Connection, ask: Ask[Query]) -> Opened:
        """Find out what the list holds. Raises Problem for an address of nothing."""
        raise NotImplementedError

    def reading(self, path: str, params: Params, where: Mapping[str, str], accept: str) -> Reading:
        """Return how the answer of an address is made. Raises Problem for a query that is none.

        Nothing else of a request matters: the front has answers made by this, too.
        """
        query = parse_list(params, self.query, self.sortable)
        known_platform(getattr(query, "platform", None), self.room.platforms)
        names = chosen_fields(query.fields, self.rows) or self.rows.__struct_fields__
        after = None if query.cursor is None else place_of(query.cursor, query.order, self.rows)
        as_format = query.format or accepted(accept)

        def read(conn: Connection) -> Content:
            clock = Clock(datetime.now(UTC), self.room.stale_after)
            opened = self.open(conn, Ask(query=query, names=names, where=where, clock=clock))
            window = Window(limit=query.per_page, offset=_offset(query, opened), after=after)
            found = opened.part(window)
            onward = _onward(query, path, params, found)
            return _content(Rows(self.rows, names, found.rows), query, opened, onward, as_format)

        # Who walks through a list to its end comes by once: what others ask for stays in Redis, and nothing waits for it.
        return Reading(read, MEDIA_TYPES[as_format], query.cursor is None)

    async def on_get(self, req: Request, resp: Response, **where: str) -> None:
        how = self.reading(req.path, req.context.params, where, req.accept)
        resp.append_header("Vary", "Accept")
        if self.ttl_s is None:
            await give_fresh(self.room, req, resp, read=how.read, media_type=how.media_type)
        else:
            await self.room.cached.give(req, resp, ttl_s=self.ttl_s, **how._asdict())

    on_head = on_get


class AccountList(ListResource[AccountListQuery]):
    """A list with a row for each account, found out of `of`; `tag` is purged whenever one changes."""

    of: ListName
    tag: str

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self._extents = Extents[Extent](room.purges, self.tag, replicated=room.settings.enable_read_replica)

    def open(self, conn: Connection, ask: Ask[AccountListQuery]) -> Opened:
        filters = ask.query.filters
        extent = self._extents.get(filters, lambda: reads.extent(conn, self.of, filters, ask.clock))
        return Opened(
            part=lambda window: reads.part(conn, ask.names, filters, ask.query.order, window, ask.clock),
            total=extent.total,
            as_of=extent.as_of,
            tags=frozenset({self.tag}),
        )


def listing(summary: str, query: type[ListQuery], rows: type[Struct]) -> Operations:
    """Return what a list does."""
    operation = Operation(
        summary=summary,
        query=query,
        answer=Page[rows],  # type: ignore[valid-type]  # a type at run time
        media_types=tuple(MEDIA_TYPES.values()),
        headers=_HEADERS,
    )
    return Operations(get=operation)


def picked(record: Struct, names: tuple[str, ...] | None) -> Any:
    """Return a record, or only these of its fields in this order."""
    return record if names is None else {name: getattr(record, name) for name in names}


_HEADERS = {
    "Link": "The next page's address, with rel=next; absent at the list's end.",
    "X-Next-Cursor": "What continues the list as `cursor`; absent at its end.",
    "X-Total-Count": "How many items the whole list has; absent where it would take too long to count.",
}


class _Onward(Struct, frozen=True):
    """Where the list goes on: the next page's address, and the cursor behind this one. None at its end."""

    url: str | None = None
    cursor: str | None = None


def _offset(query: ListQuery, opened: Opened) -> int:
    """Return how many rows lie before a page. Raises Problem for one that the list doesn't have."""
    if query.cursor is not None:
        return 0
    page = query.page or 1
    last_page = max(1, -(-(opened.deepest if opened.total is None else opened.total) // query.per_page))
    if page > last_page:
        reason = f"{page} is beyond the last page, {last_page}"
        raise refuse(Fault("page", reason if opened.total is not None else f"{reason}; a cursor leads further"))
    return query.per_page * (page - 1)


def _onward(query: ListQuery, path: str, params: Params, found: Part) -> _Onward:
    if found.after is None:
        return _Onward()
    cursor = cursor_of(query.order, found.after)
    further = {"cursor": cursor} if query.cursor is not None else {"page": (query.page or 1) + 1}
    parts = [f"{_escaped(name)}={_escaped(value)}" for name, value in {**params, **further}.items()]
    return _Onward(f"{quote(path)}?{'&'.join(parts)}", cursor)


def _escaped(text: object) -> str:
    """Return a part of a query as `urlencode` writes it, which escapes each letter by itself even where there is none to be."""
    text = str(text)
    return text if _PLAIN.fullmatch(text) else quote_plus(text)


def _content(rows: Rows, query: ListQuery, opened: Opened, onward: _Onward, as_format: RowsFormat) -> Content:
    if as_format == "json":
        page = Page(
            items=rows.objects(),
            page=None if query.cursor is not None else query.page or 1,
            per_page=query.per_page,
            total=opened.total,
            next=onward.url,
            next_cursor=onward.cursor,
            as_of=opened.as_of,
        )
        body = msgspec.json.encode(page)
    else:
        body = rows.encoded(as_format)
    return Content(body=body, tags=opened.tags, modified_at=opened.as_of, headers=_headers(opened, onward))


def _headers(opened: Opened, onward: _Onward) -> dict[str, str]:
    """Return what a list says of itself where its rows alone are the body."""
    headers = {} if opened.total is None else {"X-Total-Count": str(opened.total)}
    if onward.url is not None and onward.cursor is not None:
        headers |= {"Link": f'<{onward.url}>; rel="next"', "X-Next-Cursor": onward.cursor}
    return headers
