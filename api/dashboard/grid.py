"""GET /grid: accounts by days, newest day first, with the change of each day; as a page and as the same table in CSV."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Annotated, Literal
from urllib.parse import urlencode

from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from api.cache.entries import Content
from api.cached import HTML
from api.dashboard.charts import CSV, Metric
from api.dashboard.look import TTL_S, look, shown
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import Day, PageQuery, Params, cursor_of, filled, known_platform, known_range, parse_sorted, place_of
from db import gaps, pivot, reads, tags
from db.engine import Connection
from db.gaps import Missing
from db.held import HELD
from db.keyset import Window
from db.pivot import Read
from db.reads import AccountSummary
from pipeline.formats import safe_cell

Days = Annotated[Literal["7", "14", "28"], Meta(description="one of 7, 14, 28")]
PerPage = Annotated[Literal["50", "100", "250"], Meta(description="one of 50, 100, 250")]


class GridPageQuery(PageQuery, frozen=True, kw_only=True, rename={"last": "to"}):
    """GET /grid"""

    metric: Metric = "followers"
    days: Days = "14"
    last: Day | None = None
    per_page: PerPage = "50"
    format: Annotated[Literal["csv"], Meta(description="csv")] | None = None

    def shown_days(self, today: date) -> list[date]:
        """Return the days, newest first; none is in the future."""
        last = min(self.last or today, today)
        return [last - timedelta(days=age) for age in range(int(self.days))]


class Cell(Struct, frozen=True):
    """A number, and its change since the day before; None where one isn't known. `why` there is no number."""

    value: int | None = None
    change: int | None = None
    why: str | None = None


class Row(Struct, frozen=True):
    """An account with a cell per day, or why its platform doesn't offer the number."""

    account: AccountSummary
    not_offered: str | None
    cells: Sequence[Cell]


class Table(Struct, frozen=True):
    """What is shown. `cursor` leads to the accounts behind the last row, if there are any."""

    days: Sequence[date]
    rows: Sequence[Row]
    total: int
    cursor: str | None

    def csv(self, metric: Metric) -> bytes:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\r\n")
        by_day = [title for day in self.days for title in (f"{metric} {day}", f"change {day}")]
        lines.writerow(["platform", "handle", "name", "organisation", *by_day])
        for row in self.rows:
            of = row.account
            named = [of.platform, safe_cell(of.handle), safe_cell(shown(of)), safe_cell(of.org_name or "")]
            numbers = [number for cell in row.cells for number in (cell.value, cell.change)]
            lines.writerow([*named, *("" if number is None else number for number in numbers)])
        return text.getvalue().encode()


class GridPage:
    """What the table shows stands in its address."""

    operations = Operations(
        get=Operation(summary="Accounts by days, for people.", query=GridPageQuery, media_types=(HTML, CSV))
    )

    def __init__(self, room: Room) -> None:
        self._cached = room.cached
        self._platforms = room.platforms
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        params = filled(req.context.params)
        query = parse_sorted(params, GridPageQuery, reads.SORTABLE["summary"])
        known_platform(query.platform, self._platforms)
        known_range(None, query.last)

        def read(conn: Connection) -> Content:
            return self._read(conn, query, params)

        if query.format == "csv":
            resp.set_header("Content-Disposition", 'attachment; filename="rollcall-grid.csv"')
            await self._cached.give(req, resp, ttl_s=TTL_S, read=read, media_type=CSV)
        else:
            await self._look.give(req, resp, read)

    on_head = on_get

    def _read(self, conn: Connection, query: GridPageQuery, params: Params) -> Content:
        table = self._table(conn, query)
        tagged = frozenset({tags.SUMMARY, tags.GRID})
        if query.format == "csv":
            return Content(body=table.csv(query.metric), tags=tagged, modified_at=None)
        kept = {name: value for name, value in params.items() if name != "cursor"}
        return self._look.page(
            conn,
            "grid.html",
            here="/grid",
            tagged=tagged,
            table=table,
            query=query,
            organisations=self._look.organisations(conn),
            today=self._look.clock().now.date(),
            as_csv=f"?{urlencode({**params, 'format': 'csv'})}",
            to_next=f"?{urlencode({**kept, 'cursor': table.cursor})}" if table.cursor else None,
            to_first=f"?{urlencode(kept)}" if query.cursor else None,
        )

    def _table(self, conn: Connection, query: GridPageQuery) -> Table:
        """Read the accounts of the page first, then their days alone."""
        clock = self._look.clock()
        days = query.shown_days(clock.now.date())
        after = None if query.cursor is None else place_of(query.cursor, query.order, AccountSummary)
        window = Window(limit=int(query.per_page), after=after)
        listing = reads.summary(conn, query.filters, query.order, window, clock)
        keys = [one.account_key for one in listing.rows]
        numbers = pivot.by_account(conn, keys, query.metric, days[-1] - timedelta(days=1), days[0])
        missing = {one.account_key: self._missing(one, days, numbers[one.account_key]) for one in listing.rows}
        reasons = gaps.reasons(conn, missing, clock.now.date())
        return Table(
            days=days,
            rows=[
                Row(
                    one,
                    self._not_offered(one, query.metric),
                    [_cell(numbers[one.account_key], day, reasons[one.account_key]) for day in days],
                )
                for one in listing.rows
            ],
            total=self._look.total(conn, query.filters),
            cursor=cursor_of(query.order, listing.after) if listing.after else None,
        )

    def _not_offered(self, account: AccountSummary, metric: Metric) -> str | None:
        platform = self._platforms.get(account.platform)
        return platform.not_offered.reasons.get(metric) if platform else None

    def _missing(self, account: AccountSummary, days: Sequence[date], read: Mapping[date, Read]) -> Missing:
        """Return the days without an accepted reading."""
        held = [day for day in days if day in read and read[day].precision == HELD]
        return Missing(
            days=[day for day in reversed(days) if day not in read or day in held],
            held=held,
            interval_s=self._look.clock().stale_after.interval_of(account.platform),
        )


def _cell(read: Mapping[date, Read], day: date, reasons: Mapping[date, str]) -> Cell:
    today, yesterday = read.get(day), read.get(day - timedelta(days=1))
    if today is None or today.value is None:
        hidden = "hidden by the account" if today and today.precision == "hidden" else None
        return Cell(why=reasons.get(day) or hidden or "the reading of this day has no such number")
    before = yesterday.value if yesterday else None
    return Cell(today.value, None if before is None else today.value - before)


def routes(room: Room) -> Iterator[Route]:
    yield "/grid", GridPage(room)
