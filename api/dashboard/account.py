"""GET /accounts/{platform}/{handle}: everything known of one account."""

from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Literal

from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from api.cache.entries import Content
from api.cached import HTML
from api.dashboard.charts import Metric, of_account
from api.dashboard.figures import trend_sentence
from api.dashboard.look import look
from api.fresh import give_fresh
from api.naming import find_account, tags_of
from api.operations import Operation, Operations
from api.resources.history import History, read_history
from api.room import Room
from api.routes import Route
from api.schemas import cursor_of, parse, place_of
from db import posts, reads, tags
from db.engine import Connection
from db.jobs import JobId
from db.keyset import After, Order, Window
from db.posts import ListedPost, Standing
from db.rows import JobState
from pipeline.platforms import Platform

Span = Annotated[Literal["30", "90", "365", "1825"], Meta(description="one of 30, 90, 365, 1825")]
SPANS = {"30": "30 days", "90": "90 days", "365": "1 year", "1825": "5 years"}
POSTS = 10
_NEWEST_FIRST = Order("published_at", descending=True)
# Longer ones are drawn by weeks: a screen has no more points than that.
_WEEKLY_DAYS = 400


class AccountPageQuery(Struct, frozen=True, kw_only=True):
    """GET /accounts/{platform}/{handle}: posts behind `cursor`; `job` is a reading that was asked for and told of."""

    metric: Metric = "followers"
    days: Span = "90"
    cursor: str | None = None
    job: JobId | None = None


class Asked(Struct, frozen=True, kw_only=True):
    """What became of asking for a reading: the job's state and the account's own result, or why it was refused."""

    job_id: str | None = None
    state: JobState | None = None
    result: str | None = None
    reason: str | None = None


class Posts(Struct, frozen=True, kw_only=True):
    """The newest posts, or those behind a cursor. `why` is what stands against reading them, or why there are none."""

    rows: Sequence[ListedPost]
    total: int
    read_at: datetime | None
    why: str | None
    lacks: Collection[str]
    cursor: str | None


class AccountPage:
    """One account by any handle it has had. Who waits for a reading gets what the database holds now."""

    operations = Operations(
        get=Operation(summary="One account, for people.", query=AccountPageQuery, media_types=(HTML,))
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._platforms = room.platforms
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        query = parse(req.context.params, AccountPageQuery)
        after = None if query.cursor is None else place_of(query.cursor, _NEWEST_FIRST, ListedPost)
        if query.job is not None:
            await self.give_now(req, resp, platform, handle, query, after=after)
            return
        await self._look.give(req, resp, lambda conn: self._read(conn, platform, handle, query, after))

    on_head = on_get

    async def give_now(
        self,
        req: Request,
        resp: Response,
        platform: str,
        handle: str,
        query: AccountPageQuery,
        *,
        after: After | None = None,
        refused: str = "",
    ) -> None:
        """Answer with the account as it stands now, and with what becomes of a reading, or why it was `refused`."""

        def read(conn: Connection) -> Content:
            return self._read(conn, platform, handle, query, after, Asked(reason=refused) if refused else None)

        self._look.guard(resp)
        await give_fresh(self._room, req, resp, read=read, media_type=HTML)

    def _read(
        self,
        conn: Connection,
        platform: str,
        handle: str,
        query: AccountPageQuery,
        after: After | None,
        asked: Asked | None = None,
    ) -> Content:
        clock = self._look.clock()
        standing = find_account(conn, self._platforms, platform, handle, clock)
        key, today, days = standing.account_key, clock.now.date(), int(query.days)
        span = (today - timedelta(days=days - 1), today)
        history = read_history(
            conn,
            standing,
            span,
            "week" if days > _WEEKLY_DAYS else "day",
            not_offered=self._platforms[standing.platform].not_offered.reasons,
            clock=clock,
        )
        chart = of_account(history, query.metric)
        (line,) = chart.series
        return self._look.page(
            conn,
            "account.html",
            here="/accounts",
            tagged=tags_of(standing, handle) | {tags.standing(standing.platform), tags.ANNOTATIONS},
            account=standing,
            named=f"{standing.platform}/{handle.removeprefix('@')}",
            asked=asked or (_asked(conn, key, query.job) if query.job else None),
            newest=reads.newest(conn, key, clock),
            handles=reads.handles(conn, key),
            history=history,
            query=query,
            spans=SPANS,
            span=span,
            interval="week" if days > _WEEKLY_DAYS else "day",
            sentence=trend_sentence(line.name, chart.dates, line.values, unit=query.metric),
            recent=_recent(history),
            posts=_posts(conn, key, self._platforms[standing.platform], after),
        )


def _asked(conn: Connection, account_key: int, job_id: str) -> Asked | None:
    """Return what became of a job; None for one that is forgotten, or of other accounts."""
    job = reads.job(conn, job_id)
    for own in job.accounts if job else ():
        if job and own.account_key == account_key:
            return Asked(job_id=job_id, state=job.state, result=own.result, reason=own.reason or job.reason)
    return None


class RecentDay(Struct, frozen=True):
    """One row of the table of the newest days."""

    date: date
    followers: int | None
    change: int | None
    engagement: int | None


def _recent(history: History, most: int = 14) -> Sequence[RecentDay]:
    """Return the newest days with the change to the day before, where both are known."""
    columns = list(zip(history.dates, history.followers, history.engagement, strict=True))
    rows = []
    for (_, before, _), (day, followers, engagement) in pairwise(columns):
        gained = followers - before if followers is not None and before is not None else None
        rows.append(RecentDay(day, followers, gained, engagement))
    return rows[: -most - 1 : -1]


def _posts(conn: Connection, account_key: int, platform: Platform, after: After | None) -> Posts:
    """Read a part of an account's posts, and why there is none."""
    extent = posts.extent(conn, account_key)
    window = Window(limit=POSTS, after=after)
    found = posts.part(conn, ListedPost.__struct_fields__, account_key, _NEWEST_FIRST, window)
    return Posts(
        rows=[ListedPost(*row) for row in found.rows],
        total=extent.total,
        read_at=extent.as_of,
        why=_why_no_posts(platform, posts.standing(conn, account_key)),
        lacks=platform.post_lacks,
        cursor=cursor_of(_NEWEST_FIRST, found.after) if found.after else None,
    )


def _why_no_posts(platform: Platform, standing: Standing) -> str | None:
    """Say what stands against reading posts; None where nothing does."""
    if "posts" not in platform.calls:
        return f"{platform.title} offers none: {platform.not_offered.engagement or 'Rollcall has no reader for them'}"
    if standing.result in (None, "ok"):
        return None if standing.last_success_at else f"not read yet{_of(standing)}"
    return f"the last attempt to read them ended {standing.result}{_of(standing)}"


def _of(standing: Standing) -> str:
    return f": {standing.reason}" if standing.reason else ""


def routes(room: Room) -> Iterator[Route]:
    yield "/accounts/{platform}/{handle:path}", AccountPage(room)
