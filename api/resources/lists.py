"""What the lists share: a page or the part behind a cursor, chosen fields, and the way on."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from api.cache.entries import Content
from api.problems import Fault, refuse
from api.schemas import AccountsQuery, Params, SummaryQuery, chosen_fields, cursor_of, place_of
from db import reads, tags
from db.engine import Engines
from db.reads import Clock, Listing, ListName, Window

_TAG: dict[ListName, str] = {"summary": tags.SUMMARY, "accounts": tags.ACCOUNTS}


def picked(record: Struct, names: tuple[str, ...] | None) -> Any:
    """Return a record, or only these of its fields in this order."""
    return record if names is None else {name: getattr(record, name) for name in names}


def read_list(
    engines: Engines,
    *,
    of: ListName,
    rows: Callable[..., Listing[Any]],
    row_type: type[Struct],
    query: SummaryQuery | AccountsQuery,
    path: str,
    params: Params,
    stale_after_s: float,
) -> Content:
    """Read a part of a list as JSON. Raises Problem for a page that it doesn't have."""
    names = chosen_fields(query.fields, row_type)
    after = None if query.cursor is None else place_of(query.cursor, query.order, row_type)
    page = None if query.cursor is not None else query.page or 1
    clock = Clock(datetime.now(UTC), stale_after_s)
    with engines.reading() as conn:
        extent = reads.extent(conn, of, query.filters, clock)
        last_page = max(1, -(-extent.total // query.per_page))
        if page is not None and page > last_page:
            raise refuse(Fault("page", f"{page} is beyond the last page, {last_page}"))
        window = Window(limit=query.per_page, offset=query.per_page * (page - 1) if page else 0, after=after)
        listing = rows(conn, query.filters, query.order, window, clock)
    cursor = cursor_of(query.order, listing.after) if listing.after else None
    onward = {"page": page + 1} if page else {"cursor": cursor}
    answer = {
        "items": [picked(row, names) for row in listing.rows],
        "page": page,
        "per_page": query.per_page,
        "total": extent.total,
        "next": f"{path}?{urlencode({**params, **onward})}" if cursor else None,
        "next_cursor": cursor,
        "as_of": extent.as_of,
    }
    return Content(body=msgspec.json.encode(answer), tags=frozenset({_TAG[of]}), modified_at=extent.as_of)
