"""What a report on some days says beside totals: how the accounts stand, and which weren't read as they should have been."""

from collections.abc import Sequence
from datetime import date, datetime

from msgspec import Struct
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Date,
    Integer,
    and_,
    cast,
    func,
    literal,
    or_,
    select,
    true,
    type_coerce,
)

from db.accounts import NAME
from db.models import dim_account, fact_followers_snapshot, scrape_state
from db.reads import Clock
from db.standing import Status, interval_s, status

_BAD: tuple[Status, ...] = ("failing", "blocked", "gone", "never", "stale")
_DAY_S = 86_400


class Standing(Struct, frozen=True):
    """Accounts of one platform in one organisation that stand the same.

    `listed` of them stood in the list by a given time; `last_success_at` is the newest reading of any.
    """

    platform: str
    org_name: str | None
    status: Status
    accounts: int
    listed: int
    last_success_at: datetime | None


class Unread(Struct, frozen=True, kw_only=True):
    """An account that lacks readings, or can't be read well now: `since` is the first day that it was listed on, or the range's."""

    account_key: int
    name: str
    status: Status
    reason: str | None
    last_success_at: datetime | None
    interval_s: int
    since: date
    days_read: Sequence[date]
    days_held: Sequence[date]


_PROFILES = dim_account.join(
    scrape_state,
    and_(scrape_state.c.account_key == dim_account.c.account_key, scrape_state.c.subject == "profile"),
)


def standings(conn: Connection, org: str | None, clock: Clock, *, by: datetime) -> list[Standing]:
    """Return how the accounts of an organisation stand, or all with None; `listed` counts those that came before `by`."""
    grouped = (dim_account.c.platform, dim_account.c.org_name, status(clock.now, clock.stale_after))
    query = (
        select(
            *grouped,
            func.count(),
            func.count().filter(dim_account.c.added_at < by),
            func.max(scrape_state.c.last_success_at),
        )
        .select_from(_PROFILES)
        .where(*_of(org))
        .group_by(*grouped)
    )
    return [Standing(*row) for row in conn.execute(query)]


def unread(
    conn: Connection, org: str | None, clock: Clock, first: date, last: date, most: int
) -> tuple[list[Unread], int]:
    """Return the accounts that lack a reading of these days or stand badly now, at most so many, and how many these are in all.

    Those that lack most come first, those that are gone last. One that is read every few days lacks none between them.
    Paused ones and those that came after these days are left out.
    """
    fact = fact_followers_snapshot.c
    days = (
        select(
            func.array_agg(fact.snapshot_date).filter(fact.precision != "held").label("read"),
            func.array_agg(fact.snapshot_date).filter(fact.precision == "held").label("held"),
        )
        .where(fact.account_key == dim_account.c.account_key, fact.snapshot_date.between(first, last))
        .lateral("days")
    )
    added_date = cast(func.timezone("UTC", dim_account.c.added_at), Date)
    since = func.greatest(literal(first, Date), added_date)
    every_s = interval_s(clock.stale_after)
    listed_days = type_coerce(literal(last, Date) - since, Integer) + 1
    due = func.least(listed_days, func.floor(listed_days * float(_DAY_S) / every_s))
    lacking = cast(due, Integer) - func.coalesce(func.cardinality(days.c.read), 0)
    standing = status(clock.now, clock.stale_after)
    nothing = literal([], ARRAY(Date))
    query = (
        select(
            func.count().over().label("found"),
            dim_account.c.account_key,
            NAME,
            standing.label("status"),
            scrape_state.c.reason,
            scrape_state.c.last_success_at,
            every_s.label("interval_s"),
            since.label("since"),
            func.coalesce(days.c.read, nothing).label("days_read"),
            func.coalesce(days.c.held, nothing).label("days_held"),
        )
        .select_from(_PROFILES.join(days, true()))
        .where(
            *_of(org),
            dim_account.c.is_active,
            added_date <= last,
            or_(lacking > 0, standing.in_(_BAD)),
        )
        .order_by(
            standing == "gone",
            lacking.desc(),
            dim_account.c.platform,
            dim_account.c.handle,
            dim_account.c.account_key,
        )
        .limit(most)
    )
    rows = conn.execute(query).mappings().all()
    found = [Unread(**{name: row[name] for name in Unread.__struct_fields__}) for row in rows]
    return found, rows[0]["found"] if rows else 0


def _of(org: str | None) -> list[ColumnElement[bool]]:
    return [] if org is None else [dim_account.c.org_name == org]
