"""GET /: all accounts with their newest numbers, for people. Rendered here, without a script in the browser."""

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from falcon.asgi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.cache.entries import Content
from api.cached import HTML, Cached
from api.problems import Fault, refuse
from api.schemas import PageQuery, parse_sorted
from db import reads, tags
from db.dataset import source_of
from db.engine import Engines
from db.reads import AccountSummary, Clock, Filters, Order, Window
from pipeline.platforms import Platform

TTL_S = 300
PER_PAGE = 200
_HERE = Path(__file__).parent
_CSS = (_HERE / "static" / "page.css").read_text(encoding="utf-8")
_CSS_HASH = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
# The page runs and loads nothing but its own style sheet; whatever a platform's text holds stays text.
_POLICY = f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; img-src data:; base-uri 'none'; form-action 'none'"
_STATUS_HELP = {
    "fresh": "read within its interval",
    "stale": "not read for longer than its interval",
    "failing": "the last attempt failed",
    "blocked": "needs a credential or an approval",
    "gone": "deleted, suspended or private",
    "never": "not read yet",
    "paused": "reading is switched off",
}
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
    """The page of all accounts: most followers first, unless the reader sorts otherwise."""

    def __init__(
        self, cached: Cached, engines: Engines, platforms: Mapping[str, Platform], *, stale_after_s: float
    ) -> None:
        self._cached = cached
        self._engines = engines
        self._platforms = platforms
        self._stale_after_s = stale_after_s
        self._template = _environment().get_template("accounts.html")

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse_sorted(req.context.params, PageQuery, "summary")
        resp.set_header("Content-Security-Policy", _POLICY)
        resp.set_header("Referrer-Policy", "no-referrer")
        await self._cached.give(req, resp, ttl_s=TTL_S, read=partial(self._read, query), media_type=HTML)

    on_head = on_get

    def _read(self, query: PageQuery) -> Content:
        clock = Clock(datetime.now(UTC), self._stale_after_s)
        window = Window(limit=PER_PAGE, offset=PER_PAGE * (query.page - 1))
        with self._engines.reading() as conn:
            overview = reads.overview(conn, clock)
            last_page = max(1, -(-overview.accounts // PER_PAGE))
            if query.page > last_page:
                raise refuse(Fault("page", f"{query.page} is beyond the last page, {last_page}"))
            accounts = reads.summary(conn, Filters(), query.order, window, clock).rows
            source = source_of(conn)
        page = self._template.render(
            accounts=accounts,
            overview=overview,
            simulated=source == "simulated",
            titles={name: platform.title for name, platform in self._platforms.items()},
            not_offered={name: platform.not_offered.reasons for name, platform in self._platforms.items()},
            columns=[_heading(query.order, *column) for column in _COLUMNS],
            labels={column: title for column, title, _ in _COLUMNS},
            status_help=_STATUS_HELP,
            onward=_onward(query, last_page),
            page=query.page,
            last_page=last_page,
            css=_CSS,
        )
        return Content(body=page.encode(), tags=frozenset({tags.SUMMARY}), modified_at=overview.as_of)


def _environment() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"count": count, "change": change, "moment": moment, "web": web, "shown": shown}
    return templates


def _heading(order: Order, column: str, title: str, numeric: bool) -> Mapping[str, Any]:
    """Return a column's head: a link that sorts by it, biggest first for numbers, the other way round when sorted."""
    sorted_by = order.column == column
    descending = not order.descending if sorted_by else numeric or column == "captured_at"
    direction = "descending" if order.descending else "ascending"
    return {
        "title": title,
        "numeric": numeric,
        "href": f"?{urlencode({'sort': f'-{column}' if descending else column})}",
        "sorted": direction if sorted_by else None,
    }


def _onward(query: PageQuery, last_page: int) -> Mapping[str, str | None]:
    """Return the links to the pages before and behind this one."""

    def link(page: int) -> str | None:
        return f"?{urlencode({'sort': query.sort, 'page': page})}" if 1 <= page <= last_page else None

    return {"previous": link(query.page - 1), "next": link(query.page + 1)}


def count(number: int | None) -> str:
    """Write a count; what isn't known is a dash, never a zero."""
    return "–" if number is None else f"{number:,}"


def change(number: int | None) -> str:
    """Write a difference with its sign."""
    return "–" if number is None else "±0" if number == 0 else f"{number:+,}".replace("-", "−")


def moment(time: datetime | None) -> str:
    """Write a time to the minute, in UTC."""
    return "–" if time is None else f"{time.astimezone(UTC):%-d %b %Y, %H:%M}"


def web(url: str) -> str | None:
    """Return an address that may be linked to; another scheme could run a script."""
    return url if urlsplit(url).scheme in ("http", "https") else None


def shown(account: AccountSummary) -> str:
    """Return the name that an account goes by."""
    return account.display_name or account.handle
