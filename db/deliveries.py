"""Which report went to whom: one row per week, organisation and recipient, so that none is sent twice.

Whoever sends one claims its row first, by compare-and-set, and says afterwards how it went. A process that dies in
between leaves a claim that ends by itself.
"""

from datetime import date, datetime
from typing import NamedTuple

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Date,
    Integer,
    Text,
    and_,
    bindparam,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from db.models import UTC, report_delivery

ALL = ""
"""Stands for all organisations together."""


class Delivery(NamedTuple):
    """Whose report goes to which address: that of an organisation, or of ALL."""

    org: str
    recipient: str


_ROW = report_delivery.c
_NOW = bindparam("now", type_=UTC)
_NEVER = literal_column("'infinity'::timestamptz", UTC)
_IS_IT: list[ColumnElement[bool]] = [
    _ROW.week_date == bindparam("of_week", type_=Date),
    _ROW.org_name == bindparam("of_org", type_=Text),
    _ROW.recipient == bindparam("of_recipient", type_=Text),
]
_INSERT = insert(report_delivery).values(
    week_date=bindparam("of_week", type_=Date),
    org_name=bindparam("of_org", type_=Text),
    recipient=bindparam("of_recipient", type_=Text),
    attempts=1,
    next_try_at=bindparam("until", type_=UTC),
)
# A reason is that of a failure: none while an attempt is under way.
_HAS_FAILED = and_(_ROW.sent_at.is_(None), _ROW.reason.is_not(None))
_CLAIM = _INSERT.on_conflict_do_update(
    index_elements=[_ROW.week_date, _ROW.org_name, _ROW.recipient],
    set_={"attempts": _ROW.attempts + 1, "next_try_at": _INSERT.excluded.next_try_at, "reason": null()},
    where=or_(_ROW.next_try_at <= _NOW, and_(bindparam("at_once", type_=Boolean), _HAS_FAILED)),
).returning(_ROW.attempts)
_SENT = update(report_delivery).where(*_IS_IT).values(sent_at=_NOW, next_try_at=_NEVER, reason=null())
# Not of an attempt that took so long that another one has begun.
_FAILED = (
    update(report_delivery)
    .where(*_IS_IT, _ROW.sent_at.is_(None), _ROW.attempts == bindparam("attempt", type_=Integer))
    .values(reason=bindparam("of_reason", type_=Text), next_try_at=bindparam("again_at", type_=UTC))
)
_GIVEN_UP = _FAILED.values(next_try_at=_NEVER)
_SETTLED = select(_ROW.org_name, _ROW.recipient).where(
    _ROW.week_date == bindparam("of_week", type_=Date), _ROW.next_try_at > _NOW
)
_SENT_AT = select(_ROW.sent_at).where(*_IS_IT)


def settled(conn: Connection, week: date, *, now: datetime) -> set[Delivery]:
    """Return the deliveries of a week that needn't be tried now: sent, given up, under way, or to be tried later."""
    return {Delivery(*row) for row in conn.execute(_SETTLED, {"of_week": week, "now": now})}


def claim(
    conn: Connection, week: date, delivery: Delivery, *, now: datetime, until: datetime, at_once: bool = False
) -> int | None:
    """Let nobody else try this delivery before `until`, and return which attempt it is; None where it's settled.

    `at_once` tries what has failed without waiting for its next time.
    """
    attempt: int | None = conn.scalar(
        _CLAIM, {**_named(week, delivery), "now": now, "until": until, "at_once": at_once}
    )
    return attempt


def sent(conn: Connection, week: date, delivery: Delivery, *, now: datetime) -> None:
    conn.execute(_SENT, {**_named(week, delivery), "now": now})


def failed(
    conn: Connection, week: date, delivery: Delivery, attempt: int, reason: str, *, again_at: datetime | None
) -> None:
    """Note why it wasn't sent, and when it may be tried again: None gives it up."""
    values = {**_named(week, delivery), "attempt": attempt, "of_reason": reason}
    if again_at is None:
        conn.execute(_GIVEN_UP, values)
    else:
        conn.execute(_FAILED, {**values, "again_at": again_at})


def sent_at(conn: Connection, week: date, delivery: Delivery) -> datetime | None:
    """Return when it was sent, None if it wasn't."""
    at: datetime | None = conn.scalar(_SENT_AT, _named(week, delivery))
    return at


def _named(week: date, delivery: Delivery) -> dict[str, object]:
    return {"of_week": week, "of_org": delivery.org, "of_recipient": delivery.recipient}
