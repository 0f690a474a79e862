"""GET /accounts: all accounts with their newest numbers, to be searched, filtered and sorted."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from falcon.asgi import Request, Response

from api.cache.entries import Content
from api.cached import HTML
from api.dashboard.look import look
from api.operations import Operation, Operations
from api.problems import Fault, refuse
from api.room import Room
from api.routes import Route
from api.schemas import AccountsPageQuery, Params, cursor_of, filled, known_platform, parse_list, place_of
from db import reads, tags
from db.engine import Connection
from db.keyset import Order, Window
from db.reads import AccountSummary

PER_PAGE = 100
_COLUMNS = (
    ("display_name", "Account", False),
    ("platform", "Platform", False),
    ("followers", "Followers", True),
    ("delta_1d", "1 day", True),
    ("delta_7d", "7 days", True),
    ("delta_30d", "30 days", True),
    ("engagement", "Engagement", True),
    ("posts", "Posts", True),
    ("following", "Following", True),
    ("captured_at", "Status, last read", False),
)


class AccountsPage:
    """The list: most followers first, unless the reader sorts otherwise. What it shows stands in its address."""

    operations = Operations(
        get=Operation(summary="All accounts, for people.", query=AccountsPageQuery, media_types=(HTML,))
    )

    def __init__(self, room: Room) -> None:
        self._platforms = room.platforms
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        params = filled(req.context.params)
        query = parse_list(params, AccountsPageQuery, reads.SORTABLE["summary"])
        known_platform(query.platform, self._platforms)
        await self._look.give(req, resp, lambda conn: self._read(conn, query, params))

    on_head = on_get

    def _read(self, conn: Connection, query: AccountsPageQuery, params: Params) -> Content:
        clock = self._look.clock()
        after = None if query.cursor is None else place_of(query.cursor, query.order, AccountSummary)
        total = self._look.total(conn, query.filters)
        page = None if after else query.page or 1
        last_page = max(1, -(-total // PER_PAGE))
        if page is not None and page > last_page:
            raise refuse(Fault("page", f"{page} is beyond the last page, {last_page}"))
        window = Window(limit=PER_PAGE, offset=PER_PAGE * (page - 1) if page else 0, after=after)
        listing = reads.summary(conn, query.filters, query.order, window, clock)
        return self._look.page(
            conn,
            "accounts.html",
            here="/accounts",
            tagged=frozenset({tags.SUMMARY}),
            accounts=listing.rows,
            total=total,
            query=query,
            organisations=self._look.organisations(conn),
            columns=[_heading(query.order, params, *column) for column in _COLUMNS],
            labels={column: title for column, title, _ in _COLUMNS},
            onward=_onward(
                params, query, page, last_page, cursor_of(query.order, listing.after) if listing.after else None
            ),
            page=page,
            last_page=last_page,
        )


def routes(room: Room) -> Iterator[Route]:
    yield "/accounts", AccountsPage(room)


def _heading(order: Order, params: Params, column: str, title: str, numeric: bool) -> Mapping[str, Any]:
    """Return a column's head: a link that sorts by it, biggest first for numbers, the other way round when sorted."""
    sorted_by = order.column == column
    descending = not order.descending if sorted_by else numeric or column == "captured_at"
    kept = {name: value for name, value in params.items() if name not in ("page", "cursor", "sort")}
    return {
        "title": title,
        "numeric": numeric,
        "href": f"?{urlencode({**kept, 'sort': f'-{column}' if descending else column})}",
        "sorted": ("descending" if order.descending else "ascending") if sorted_by else None,
    }


def _onward(
    params: Params, query: AccountsPageQuery, page: int | None, last_page: int, cursor: str | None
) -> Mapping[str, str | None]:
    """Return the links to the pages before and behind this one; behind it by cursor, whatever the depth."""
    kept = {name: value for name, value in params.items() if name not in ("page", "cursor")}
    back = f"?{urlencode({**kept, 'page': page - 1})}" if page and page > 1 else None
    if page and page < last_page:
        return {"previous": back, "next": f"?{urlencode({**kept, 'page': page + 1})}"}
    return {"previous": back, "next": f"?{urlencode({**kept, 'cursor': cursor})}" if cursor else None}
