"""Readings too far from the last accepted one to be believed: held until a second reading confirms them.

A held reading stands in its day's snapshot, marked, unless the day has an accepted one; and beside the account's
newest accepted numbers, which it leaves alone. The next reading ends it: close to the accepted count it refutes
the held one, close to the held count it confirms it, far from both it is held in its place.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Date,
    Integer,
    Numeric,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import BIGINT, JSONB
from sqlalchemy.sql.selectable import TableValuedAlias

from db.models import account_latest, fact_followers_snapshot
from db.recordset import as_json, recordset

HELD = "held"

_DROP_PCT = bindparam("drop_pct", type_=Integer)
_RISE_PCT = bindparam("rise_pct", type_=Integer)
_MIN_FOLLOWERS = bindparam("min_followers", type_=BIGINT)


def _is_far(count: ColumnElement[Any], known: ColumnElement[Any], days: ColumnElement[int]) -> ColumnElement[bool]:
    """Say whether a count read so many days after a known one is suspicious; false where either is unknown."""
    # Numeric: a hundred times a 64-bit count may be more than 64 bits hold.
    count, known = cast(count, Numeric), cast(known, Numeric)
    fell = count * 100 <= known * (100 - _DROP_PCT)
    rose = count * 100 >= known * (100 + _RISE_PCT * func.greatest(days, 1))
    return func.coalesce(and_(func.greatest(count, known) >= _MIN_FOLLOWERS, or_(fell, rose)), False)


def judged(profiles: TableValuedAlias, *, day: ColumnElement[Any], now: ColumnElement[Any]) -> CTE:
    """Return profiles with a verdict: `is_held`, `is_late`, and `confirmed_date` and `confirmed_precision` of the held
    reading that they confirm.

    A late reading, older than what is known of its account, is believed: it changes its own day, and what follows
    from that.
    """
    latest = account_latest.c
    held_date = cast(func.timezone("UTC", latest.held_at), Date)
    # GREATEST passes over nulls.
    is_newest = and_(func.greatest(latest.captured_at, latest.held_at) <= now, latest.snapshot_date <= day)
    is_suspicious = and_(
        is_newest.is_(True), _is_far(profiles.c.followers, latest.followers, day - latest.snapshot_date)
    )
    confirms = and_(
        latest.held_at.is_not(None), ~_is_far(profiles.c.followers, latest.held_followers, day - held_date)
    )
    return (
        select(
            *profiles.c,
            and_(is_suspicious, ~confirms).label("is_held"),
            is_newest.is_(False).label("is_late"),
            case((and_(is_suspicious, confirms), held_date)).label("confirmed_date"),
            latest.held_precision.label("confirmed_precision"),
        )
        .select_from(profiles.outerjoin(account_latest, latest.account_key == profiles.c.account_key))
        .cte("judged")
    )


def marked(verdict: CTE, *, now: ColumnElement[Any]) -> CTE:
    """Return the update that puts the held readings beside the newest accepted ones of their accounts."""
    return (
        update(account_latest)
        .where(account_latest.c.account_key == verdict.c.account_key, verdict.c.is_held)
        .values(held_followers=verdict.c.followers, held_at=now, held_precision=verdict.c.precision)
        .cte("marked")
    )


def confirmed(verdict: CTE) -> ColumnElement[Any]:
    """Return the snapshots that are confirmed, as JSON for `accept`; null where there are none."""
    snapshot = func.jsonb_build_object(
        *("account_key", verdict.c.account_key),
        *("snapshot_date", verdict.c.confirmed_date),
        *("precision", verdict.c.confirmed_precision),
        type_=JSONB,
    )
    return (
        select(func.jsonb_agg(snapshot, type_=JSONB)).where(verdict.c.confirmed_date.is_not(None)).scalar_subquery()
    )


_CONFIRMED = recordset("confirmed", account_key=BIGINT, snapshot_date=Date, precision=Text)
_ACCEPT = (
    update(fact_followers_snapshot)
    .where(
        fact_followers_snapshot.c.account_key == _CONFIRMED.c.account_key,
        fact_followers_snapshot.c.snapshot_date == _CONFIRMED.c.snapshot_date,
        # An accepted snapshot of that day stands as it is: the held reading never replaced it.
        fact_followers_snapshot.c.precision == HELD,
    )
    .values(precision=_CONFIRMED.c.precision)
)


def accept(conn: Connection, snapshots: Sequence[object]) -> None:
    """Give confirmed snapshots their own precision back."""
    conn.execute(_ACCEPT, {"confirmed": as_json(snapshots)})
