"""What a weekly report says, read from the database at one moment. Texts of others are made harmless lines here, once."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta

from msgspec import Struct

from db import check, gaps, overview, totals, weekly
from db.dataset import source_of
from db.engine import Connection, Engine, transaction
from db.gaps import Gap, each_day
from db.reads import Clock
from db.standing import Status
from db.totals import Total, Which
from db.weekly import Unread
from pipeline import platforms
from pipeline.settings import Settings
from pipeline.weeks import Week

TREND_DAYS = 56
MOST_MOVERS = 5
MOST_UNREAD = 15
MOST_ORGANISATIONS = 20
_LONGEST = 120
# Controls, what turns the direction of the text behind it, and ends of lines and paragraphs.
_BREAKING = ("Cc", "Cf", "Cs", "Zl", "Zp")


class Trend(Struct, frozen=True):
    """Followers by day; None is unknown. `accounts_…` are how many count on the first and on the last day with a number."""

    first: date
    followers: Sequence[int | None]
    accounts_first: int
    accounts_last: int


class Line(Struct, frozen=True):
    """A platform or an organisation: its total, and how many accounts of it are listed.

    `why_not` is the reason for which a platform tells no followers.
    """

    name: str
    total: Total
    listed: int
    trend: Trend | None = None
    why_not: str | None = None


class Mover(Struct, frozen=True):
    account: str
    followers: int
    change: int
    is_rounded: bool


class Lacking(Struct, frozen=True):
    """An account that wasn't read as it should have been: on `missing` of `of` days, and how it stands now."""

    account: str
    missing: int
    of: int
    gaps: Sequence[Gap]
    status: Status
    reason: str | None
    last_success_at: datetime | None


class Facts(Struct, frozen=True, kw_only=True):
    """One report. `name` is None where it is on all organisations; `lacking` are the worst of `lacking_in_all`.

    `listed` accounts are in the list now, `listed_then` of them were at the week's end.
    """

    name: str | None
    week: Week
    made_at: datetime
    is_simulated: bool
    total: Total
    listed: int
    listed_then: int
    trend: Trend
    platforms: Sequence[Line]
    organisations: Sequence[Line]
    organisations_in_all: int
    gained: Sequence[Mover]
    lost: Sequence[Mover]
    lacking: Sequence[Lacking]
    lacking_in_all: int
    by_status: Sequence[tuple[Status, int]]
    last_success_at: datetime | None


def gather(settings: Settings, engine: Engine, org: str | None, week: Week, now: datetime) -> Facts | None:
    """Read what the report of a week says of an organisation, of all with None.

    None where there is nothing to say: no account was listed then, nor has one a number of that week.
    """
    clock = Clock(now, settings.stale_after)
    with transaction(engine) as conn:
        check.one_moment(conn)
        standings = weekly.standings(conn, org, clock, by=week.ends_at)
        total, by_platform = totals.between(conn, "platform", Which(org=org), week.before, week.last)
        listed_then = sum(standing.listed for standing in standings)
        if not total.accounts and not listed_then:
            return None
        by_org = totals.between(conn, "org_name", Which(), week.before, week.last)[1] if org is None else {}
        by_status: Counter[Status] = Counter()
        for standing in standings:
            by_status[standing.status] += standing.accounts
        movers = _movers(conn, org, week)
        unread, unread_in_all = weekly.unread(conn, org, clock, week.first, week.last, MOST_UNREAD)
        return Facts(
            name=None if org is None else harmless(org),
            week=week,
            made_at=now,
            is_simulated=source_of(conn) == "simulated",
            total=total,
            listed=by_status.total(),
            listed_then=listed_then,
            trend=_trend(conn, Which(org=org), week),
            platforms=[
                _platform(
                    name,
                    total=its,
                    listed=sum(s.accounts for s in standings if s.platform == name),
                    trend=_trend(conn, Which(org=org, platform=name), week),
                )
                for name, its in by_platform.items()
                if name is not None
            ],
            organisations=[
                Line(
                    name="without an organisation" if name is None else harmless(name),
                    total=its,
                    listed=sum(s.accounts for s in standings if s.org_name == name),
                )
                for name, its in list(by_org.items())[:MOST_ORGANISATIONS]
            ],
            organisations_in_all=len(by_org),
            gained=[one for one in movers if one.change > 0],
            lost=[one for one in movers if one.change < 0],
            lacking=[_lacking(conn, one, week, now.date()) for one in unread],
            lacking_in_all=unread_in_all,
            by_status=by_status.most_common(),
            last_success_at=max((s.last_success_at for s in standings if s.last_success_at), default=None),
        )


def harmless(text: str) -> str:
    """Return a text of others as part of a line: without what would break it, turn its direction or fill the page."""
    kept = (" " if unicodedata.category(letter) in _BREAKING else letter for letter in text)
    line = " ".join("".join(kept).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _movers(conn: Connection, org: str | None, week: Week) -> list[Mover]:
    moved = totals.moved(conn, Which(org=org), week.before, week.last, MOST_MOVERS)
    names = overview.names(conn, [one.account_key for one in moved])
    return [Mover(harmless(names[one.account_key]), one.followers, one.change, one.is_rounded) for one in moved]


def _trend(conn: Connection, which: Which, week: Week) -> Trend:
    """Return the last days up to the week's end, from the first one with a number on."""
    first = week.last - timedelta(days=TREND_DAYS - 1)
    days = [total for _, total in sorted(totals.by_day(conn, which, first, week.last).items())]
    known = [number for number, total in enumerate(days) if total.followers is not None]
    begin, end = (known[0], known[-1]) if known else (0, 0)
    return Trend(
        first=first + timedelta(days=begin),
        followers=[total.followers for total in days[begin:]],
        accounts_first=days[begin].accounts,
        accounts_last=days[end].accounts,
    )


def _lacking(conn: Connection, account: Unread, week: Week, today: date) -> Lacking:
    days = list(each_day(account.since, week.last))
    read = {*account.days_read}
    missing = [day for day in days if day not in read]
    found = gaps.of_account(
        conn,
        account.account_key,
        missing,
        held=account.days_held,
        today=today,
        interval_s=account.interval_s,
    )
    return Lacking(
        account=harmless(account.name),
        missing=len(missing),
        of=len(days),
        gaps=[Gap(gap.first, gap.last, harmless(gap.reason)) for gap in found],
        status=account.status,
        reason=None if account.reason is None else harmless(account.reason),
        last_success_at=account.last_success_at,
    )


def _platform(name: str, *, total: Total, listed: int, trend: Trend) -> Line:
    known = platforms.load().get(name)
    return Line(
        name=known.title if known else harmless(name),
        total=total,
        listed=listed,
        trend=trend,
        why_not=known.not_offered.reasons.get("followers") if known else None,
    )
