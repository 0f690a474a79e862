"""What all pages share: templates, how numbers and times are written, and the policy that keeps foreign code out."""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cache
from math import log10
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from falcon import HTTPError
from falcon.asgi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from api.cache.entries import Content
from api.cache.extents import Extents
from api.cache.reader import Read
from api.cache.tags import DEAF_S
from api.cached import HTML
from api.dashboard import figures
from api.dashboard.assets import Assets, assets
from api.problems import said
from api.room import Room
from db import overview, reads, tags
from db.dataset import source_of
from db.engine import Connection
from db.lines import as_line
from db.reads import Clock, Filters, Overview
from db.standing import Status
from pipeline.limits import duration
from pipeline.platforms import Platform

TTL_S = 300
NAVIGATION = (
    ("/", "Overview"),
    ("/accounts", "Accounts"),
    ("/compare", "Compare"),
    ("/grid", "Grid"),
    ("/health", "Data health"),
    ("/import", "Import"),
    ("/exports", "Exports & API"),
    ("/performance", "Performance"),
    ("/method", "Method"),
)
STATUS_HELP: Mapping[Status, str] = {
    "fresh": "read within its interval",
    "stale": "not read for longer than its interval",
    "failing": "the last attempt failed",
    "blocked": "needs a credential or an approval",
    "gone": "deleted, suspended or private",
    "never": "not read yet",
    "paused": "reading is switched off",
}
_TEMPLATES = Path(__file__).parent / "templates"


class Look:
    """Renders the templates of one process."""

    def __init__(self, room: Room) -> None:
        self.assets: Assets = assets(room.settings.static_url)
        self._cached = room.cached
        self._platforms = room.platforms
        self._stale_after = room.stale_after
        self._purges = room.purges
        self._shared = room.shared
        own = f"'self' {self.assets.prefix}".strip()
        self._policy = (
            f"default-src 'none'; script-src {own}; style-src {own}; img-src 'self' data:; connect-src 'self'; "
            "manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'"
        )
        self._environment = _environment(self.assets)
        # Every page needs some of it, and each costs more than the rest of a page where the list is long.
        replicated = room.settings.enable_read_replica
        self._freshness = Extents[Overview](room.purges, tags.SUMMARY, replicated=replicated)
        self._organisations = Extents[list[str]](room.purges, tags.SUMMARY, replicated=replicated)
        self._totals = Extents[int](room.purges, tags.SUMMARY, replicated=replicated)

    def clock(self) -> Clock:
        return Clock(datetime.now(UTC), self._stale_after)

    def guard(self, resp: Response, *, framed_by: str = "'none'", frames: str = "'none'") -> None:
        """Let a page run and load nothing but its own files; whatever a platform's text holds stays text.

        `framed_by` may show it in a frame, and it may show `frames` itself.
        """
        policy = f"{self._policy}; frame-src {frames}; frame-ancestors {framed_by}"
        resp.set_header("Content-Security-Policy", policy)

    def guard_worker(self, resp: Response) -> None:
        """Let the service worker fetch the pages and their files, and nothing else."""
        own = f"'self' {self.assets.prefix}".strip()
        resp.set_header("Content-Security-Policy", f"default-src 'none'; script-src 'self'; connect-src {own}")

    async def give(
        self, req: Request, resp: Response, read: Read, *, ttl_s: int = TTL_S, framed_by: str = "'none'"
    ) -> None:
        """Answer with a page, out of the caches or as `read` makes it."""
        self.guard(resp, framed_by=framed_by)
        await self._cached.give(req, resp, ttl_s=ttl_s, read=read, media_type=HTML)

    def render(self, template: str, **values: Any) -> str:
        """Return a page. Everything put into it is escaped."""
        return self._environment.get_template(template).render(
            navigation=NAVIGATION, status_help=STATUS_HELP, platforms=self._platforms, **values
        )

    def page(self, conn: Connection, template: str, *, here: str, tagged: frozenset[str], **values: Any) -> Content:
        """Return a cacheable page with the banner that says how fresh its numbers are. `here` is its place in NAVIGATION."""
        freshness = self._freshness.get(None, lambda: reads.overview(conn, self.clock()))
        is_cut_off = self._purges.is_deaf or self._shared.is_gone
        body = self.render(
            template,
            here=here,
            freshness=freshness,
            simulated=source_of(conn) == "simulated",
            cut_off=is_cut_off,
            **values,
        )
        return Content(
            body=body.encode(),
            tags=tagged | {tags.SUMMARY},
            modified_at=freshness.as_of,
            kept_s=DEAF_S if is_cut_off else None,
        )

    def problem(self, resp: Response, error: HTTPError) -> None:
        """Show people what is wrong: a page of the same look, for which nothing is read."""
        self.guard(resp)
        resp.content_type = HTML
        resp.text = self.render("problem.html", here="", simulated=False, problem=said(error))

    def organisations(self, conn: Connection) -> list[str]:
        """Return the names of all organisations that have an account, in their order."""
        return self._organisations.get(None, lambda: sorted(overview.organisations(conn)))

    def total(self, conn: Connection, filters: Filters) -> int:
        """Return how many accounts pass."""
        return self._totals.get(filters, lambda: reads.extent(conn, "summary", filters, self.clock()).total)

    def title_of(self, platform: str) -> str:
        """Return a platform's name as people write it."""
        known: Platform | None = self._platforms.get(platform)
        return platform if known is None else known.title


@cache
def look(room: Room) -> Look:
    """Return the one look of a process."""
    return Look(room)


def version(prefix: str) -> str:
    """Return what names the pages' templates and files as they are now, and where the files are served from."""
    digest = hashlib.sha256(f"{prefix} {assets(prefix).version}".encode())
    for file in sorted(_TEMPLATES.rglob("*.html")):
        digest.update(file.name.encode() + b" " + file.read_bytes())
    return digest.hexdigest()[:16]


def _environment(files: Assets) -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,  # would look at each file's time for each page
    )
    made.filters |= {
        "count": count,
        "compact": compact,
        "delta": delta,
        "percent": percent,
        "moment": moment,
        "day": day,
        "short_day": short_day,
        "ago": ago,
        "duration": duration,
        "web": web,
        "shown": shown,
        "account_path": account_path,
        "in_path": in_path,
        "trend": trend,
        "clock": clock,
        "milliseconds": milliseconds,
        "share": share,
        "on_scale": on_scale,
        "prose": prose,
    }
    made.globals |= {
        "asset": files.url,
        "sparkline": figures.sparkline,
        "columns": figures.columns,
        "lines": figures.lines,
        "query_": query,
    }
    return made


def query(**parameters: object) -> str:
    """Write the query of a link; what is None, False or empty is left out."""
    given = {name.rstrip("_"): value for name, value in parameters.items() if value not in (None, "", False)}
    return f"?{urlencode(given)}" if given else "?"


def account_path(account: Any) -> str:
    """Return the address of an account's page."""
    return f"/accounts/{quote(account.platform)}/{quote(account.handle, safe='@')}"


def in_path(name: str) -> str:
    """Write an account's name, platform/handle, as a part of an address."""
    return quote(name, safe="/@:")


def count(number: int | None) -> str:
    """Write a count; what isn't known is a dash, never a zero."""
    return "–" if number is None else f"{number:,}"


def compact(number: float | None) -> str:
    """Write a count in a few characters: 1.23M; a title should have it whole."""
    if number is None:
        return "–"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}".replace("-", "−")
    return f"{number:,.0f}".replace("-", "−")


def change(number: int | None) -> str:
    """Write a difference with its sign."""
    return "–" if number is None else "±0" if number == 0 else f"{number:+,}".replace("-", "−")


def delta(number: int | None) -> Markup:
    """Write a difference with its sign, an arrow and the colour of its direction."""
    arrow = f'<span aria-hidden="true">{"▲" if number > 0 else "▼"}</span>' if number else ""
    return Markup(f'<span class="delta {trend(number)}">{arrow}{change(number)}</span>')  # noqa: S704  # only numbers


def percent(number: float | None) -> str:
    """Write a change in percent with its sign."""
    return "–" if number is None else "±0 %" if round(number, 2) == 0 else f"{number:+.2f} %".replace("-", "−")


def share(number: float | None) -> str:
    """Write a part of 1 in percent."""
    return "–" if number is None else f"{100 * number:.1f} %"


def milliseconds(number: float | None) -> str:
    """Write a time given in milliseconds to three figures."""
    if number is None:
        return "–"
    return f"{number / 1000:,.3g} s" if number >= 1000 else f"{number:.3g} ms"


def on_scale(milliseconds_: float) -> float:
    """Return where a time lies between 0.1 ms (0) and 10 s (100), each power of ten as wide as the others."""
    return round(min(100.0, max(0.0, 20 * (log10(max(milliseconds_, 0.1)) + 1))), 1)


def trend(number: float | None) -> str:
    """Return the class of a difference: up, down or flat; none where it isn't known."""
    return "" if number is None else "flat" if number == 0 else "up" if number > 0 else "down"


def moment(time: datetime | None) -> str:
    """Write a time to the minute, in UTC."""
    return "–" if time is None else f"{time.astimezone(UTC):%-d %b %Y, %H:%M}"


def clock(time: datetime) -> str:
    """Write a time of the day, in UTC."""
    return f"{time.astimezone(UTC):%H:%M}"


def day(date_: date | None) -> str:
    """Write a day."""
    return "–" if date_ is None else f"{date_:%-d %b %Y}"


def short_day(date_: date) -> str:
    """Write a day in a few characters, for the head of a column."""
    return f"{date_:%a %-d %b}"


def ago(time: datetime | None, now: datetime | None = None) -> str:
    """Write how long something has been, roughly."""
    if time is None:
        return "never"
    passed = (now or datetime.now(UTC)) - time
    if passed < timedelta(minutes=1):
        return "just now"
    for size, word in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        if passed >= size:
            number = passed // size
            return f"{number} {word}{'s' if number != 1 else ''} ago"
    raise AssertionError("a time is longer than a minute or not")


def web(url: str) -> str | None:
    """Return an address that may be linked to; another scheme could run a script."""
    return url if urlsplit(url).scheme in ("http", "https") else None


def shown(account: Any) -> str:
    """Return the name that an account goes by."""
    return as_line(account.display_name or "") or str(account.handle)


def prose(text: str) -> Markup:
    """Return text whose `names` are set as code; a blank line begins a paragraph."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text.strip())))
    return Markup("</p><p>".join(re.split(r"\n\s*\n", marked)))  # noqa: S704  # escaped above
