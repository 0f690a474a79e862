"""GET /api/history/{platform}/{handle}: one account's numbers as columns, every day of the range present."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.lists import picked
from api.naming import find_account, tags_of
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import HistoryQuery, Interval, chosen_fields, parse
from db import gaps, reads, tags
from db.engine import Connection
from db.gaps import Gap
from db.reads import AccountStanding, Clock, Day

TTL_S = 600


class Annotation(Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """What someone wrote about these days."""

    first: date
    last: date
    note: str


class History(Struct, frozen=True, kw_only=True):
    """Columns of equal length, oldest first; None where there was no reading, or the platform didn't say.

    `not_offered` says of a column that the platform never fills why not.
    """

    account: AccountStanding
    dates: list[date]
    followers: list[int | None]
    following: list[int | None]
    posts: list[int | None]
    engagement: list[int | None]
    not_offered: dict[str, str]
    gaps: list[Gap]
    annotations: list[Annotation]


class AccountHistory:
    """One account's history by any handle it has had."""

    operations = Operations(
        get=Operation(
            summary="One account's numbers as columns, every day of the range present.",
            query=HistoryQuery,
            answer=History,
            kept_s=TTL_S,
        )
    )

    def __init__(self, room: Room) -> None:
        self._cached = room.cached
        self._platforms = room.platforms
        self._stale_after = room.stale_after

    async def on_get(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        query = parse(req.context.params, HistoryQuery)
        names = chosen_fields(query.fields, History)
        now = datetime.now(UTC)
        first, last = query.span(now.date())

        def read(conn: Connection) -> Content:
            return self._read(conn, platform, handle, first, last, query.interval, names, now)

        await self._cached.give(req, resp, ttl_s=TTL_S, read=read)

    on_head = on_get

    def _read(
        self,
        conn: Connection,
        platform: str,
        handle: str,
        first: date,
        last: date,
        interval: Interval,
        names: tuple[str, ...] | None,
        now: datetime,
    ) -> Content:
        account = find_account(conn, self._platforms, platform, handle, Clock(now, self._stale_after))
        not_offered = self._platforms[account.platform].not_offered.reasons
        history = read_history(
            conn,
            account,
            (first, last),
            interval,
            not_offered=not_offered,
            clock=Clock(now, self._stale_after),
        )
        return Content(
            body=msgspec.json.encode(picked(history, names)),
            tags=tags_of(account, handle) | {tags.standing(account.platform), tags.ANNOTATIONS},
            modified_at=account.last_attempt_at,
            account=tags.account(account.account_key),
        )


def routes(room: Room) -> Iterator[Route]:
    yield "/api/history/{platform}/{handle:path}", AccountHistory(room)


def read_history(
    conn: Connection,
    account: AccountStanding,
    span: tuple[date, date],
    interval: Interval,
    *,
    not_offered: dict[str, str],
    clock: Clock,
) -> History:
    """Return an account's columns between two days, both included, with why days have no number."""
    first, last = span
    key, today = account.account_key, clock.now.date()
    days = reads.days(conn, key, first, last)
    dates, newest = columns(days, first, last, interval)
    notes = reads.notes(conn, key, account.org_name, first, last)
    return History(
        account=account,
        dates=dates,
        followers=[None if day is None else day.followers for day in newest],
        following=[None if day is None else day.following for day in newest],
        posts=[None if day is None else day.posts for day in newest],
        engagement=[None if day is None else day.engagement for day in newest],
        not_offered=not_offered,
        gaps=gaps.of_account(
            conn,
            key,
            missing_days(days, first, min(last, today)),
            held={day.snapshot_date for day in days if day.is_held},
            today=today,
            interval_s=account.read_interval_s or clock.stale_after.interval_of(account.platform),
        ),
        annotations=[Annotation(note.from_date, note.to_date, note.note) for note in notes],
    )


def columns(days: Sequence[Day], first: date, last: date, interval: Interval) -> tuple[list[date], list[Day | None]]:
    """Return the first day of each interval within the range, and the interval's newest reading.

    Counts are levels, so a week or month is its last reading, not a sum; one that is held doesn't count. `days` are
    sorted.
    """

    def start(day: date) -> date:
        if interval == "week":
            return max(first, day - timedelta(days=day.weekday()))
        return max(first, day.replace(day=1)) if interval == "month" else day

    newest = {start(day.snapshot_date): day for day in days if not day.is_held}
    dates = list(dict.fromkeys(start(day) for day in gaps.each_day(first, last)))
    return dates, [newest.get(day) for day in dates]


def missing_days(days: Sequence[Day], first: date, last: date) -> list[date]:
    """Return the days of a range that have no accepted reading."""
    read = {day.snapshot_date for day in days if not day.is_held}
    return [day for day in gaps.each_day(first, last) if day not in read]
