"""GET /api/history/{platform}/{handle}: one account's numbers as columns, every day of the range present."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import groupby

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.cached import Cached
from api.resources.lists import picked
from api.resources.naming import find_account
from api.schemas import HistoryQuery, Interval, chosen_fields, parse
from db import reads, tags
from db.engine import Engines
from db.reads import AccountStanding, Clock, Day
from pipeline.platforms import Platform

TTL_S = 600


class Gap(Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Days in a row without a reading."""

    first: date
    last: date
    reason: str


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

    def __init__(
        self, cached: Cached, engines: Engines, platforms: Mapping[str, Platform], *, stale_after_s: float
    ) -> None:
        self._cached = cached
        self._engines = engines
        self._platforms = platforms
        self._stale_after_s = stale_after_s

    async def on_get(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        query = parse(req.context.params, HistoryQuery)
        names = chosen_fields(query.fields, History)
        now = datetime.now(UTC)
        first, last = query.span(now.date())
        read = partial(self._read, platform, handle, first, last, query.interval, names, now)
        await self._cached.give(req, resp, ttl_s=TTL_S, read=read)

    on_head = on_get

    def _read(
        self,
        platform: str,
        handle: str,
        first: date,
        last: date,
        interval: Interval,
        names: tuple[str, ...] | None,
        now: datetime,
    ) -> Content:
        with self._engines.reading() as conn:
            account = find_account(conn, self._platforms, platform, handle, Clock(now, self._stale_after_s))
            key = account.account_key
            days = reads.days(conn, key, first, last)
            known = reads.first_and_last_day(conn, key)
            notes = reads.notes(conn, key, account.org_name, first, last)
        dates, newest = columns(days, first, last, interval)
        history = History(
            account=account,
            dates=dates,
            followers=[None if day is None else day.followers for day in newest],
            following=[None if day is None else day.following for day in newest],
            posts=[None if day is None else day.posts for day in newest],
            engagement=[None if day is None else day.engagement for day in newest],
            not_offered=self._platforms[account.platform].not_offered.reasons,
            gaps=gaps(days, first, min(last, now.date()), known, account),
            annotations=[Annotation(note.from_date, note.to_date, note.note) for note in notes],
        )
        return Content(
            body=msgspec.json.encode(picked(history, names)),
            tags=frozenset({tags.account(key)}),
            modified_at=account.last_attempt_at,
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
    dates = list(dict.fromkeys(start(day) for day in _each_day(first, last)))
    return dates, [newest.get(day) for day in dates]


def gaps(
    days: Sequence[Day], first: date, last: date, known: tuple[date, date] | None, account: AccountStanding
) -> list[Gap]:
    """Return the runs of days without a reading to show, and why: what is known of it today, and no more.

    `known` are the days of the account's oldest and newest reading ever.
    """

    def reason(day: date) -> str:
        if day in held:
            return "held: a suspicious reading that no second one has confirmed"
        if known is None or day > known[1]:
            return account.reason or ("paused" if account.status == "paused" else "not read yet")
        return "before the first reading" if day < known[0] else "no reading on this day"

    read = {day.snapshot_date for day in days if not day.is_held}
    held = {day.snapshot_date for day in days if day.is_held}
    missing = [(day, reason(day)) for day in _each_day(first, last) if day not in read]
    # Days in a row keep their distance from their place in the list.
    runs = groupby(enumerate(missing), key=lambda item: (item[1][0].toordinal() - item[0], item[1][1]))
    found = []
    for (_, why), run in runs:
        run_days = [day for _, (day, _) in run]
        found.append(Gap(run_days[0], run_days[-1], why))
    return found


def _each_day(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))
