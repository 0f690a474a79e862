"""The grid: one row per account and day, day by day. Its pages cost the same at any depth.

A page is found first, as days and keys out of an index, and joined afterwards. Which days there are, and how many rows
each has, `day_count` says; so a page far down is landed on without counting what lies before it.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from msgspec import Struct
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    any_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    select,
    true,
)

from db import keyset
from db.held import HELD
from db.keyset import Order, Part, Window
from db.models import day_count, dim_account, fact_followers_snapshot, scrape_state
from db.reads import HANDLE, Clock, account_conditions, containing
from db.rows import Batches
from db.standing import status
from db.streams import streamed

# So many accounts are looked up day by day; of more, one that passes is never far in the index of a day.
_FEW = 1_000


class Filters(Struct, frozen=True, kw_only=True):
    """Which accounts and days the grid shows, both ends included; None lets all pass. `text` is of an account's name.

    `status` is how accounts stand today, and needs the clock that it is measured by.
    """

    platform: str | None = None
    org: str | None = None
    core: bool | None = None
    status: str | None = None
    text: str | None = None
    clock: Clock | None = None
    first: date | None = None
    last: date | None = None


class Cell(Struct, frozen=True):
    """One account on one day; the numbers of a held reading are None. `delta_1d` is to the day before, if that has one."""

    account_key: int
    platform: str
    handle: str
    org_name: str | None
    snapshot_date: date
    followers: int | None
    following: int | None
    posts: int | None
    engagement: int | None
    delta_1d: int | None


SORTABLE = ("snapshot_date",)
NEWEST_FIRST = Order("snapshot_date", descending=True)


def part(conn: Connection, names: Sequence[str], filters: Filters, order: Order, window: Window) -> Part:
    """Return a part of the grid, of each row these fields of Cell, in this order. The order is one of days.

    Without filters, or with a platform or an organisation alone, the kept counts lead to an offset; otherwise the rows
    before it are read, too.
    """
    few = _few(conn, filters)
    begin = _Begin(offset=window.offset)
    if window.after is not None:
        begin = _Begin(day=window.after.value, after_key=window.after.key)
    elif window.offset and _is_counted(filters):
        landing = conn.execute(_landing(filters, order, window.offset)).one_or_none()
        if landing is None:
            return Part([], None)
        begin = _Begin(day=landing[0], offset=int(landing[1]))
    found = _found(filters, few, order, begin, window.limit)
    rows = conn.execute(_cells(found, keyset.placed(names, order, "account_key"), order)).all()
    return keyset.part(rows, names, order, "account_key", window.limit)


def total(conn: Connection, filters: Filters) -> int:
    """Return how many rows the grid has: from the kept counts, or where they can't say, counted."""
    if _is_counted(filters):
        counted = select(func.sum(day_count.c.snapshots)).where(*_of_days(filters))
        return int(conn.scalar(counted) or 0)
    rows = _passing(filters, _few(conn, filters)).where(*_within(_FACT.snapshot_date, filters))
    return int(conn.scalar(select(func.count()).select_from(rows.subquery())) or 0)


def whole(conn: Connection, filters: Filters) -> Batches:
    """Yield all rows as Cell has them, a batch at a time: day by day, so that no query is of more than one.

    Of one moment, if the connection's transaction is (`check.one_moment`).
    """
    few = _few(conn, filters)
    if few == []:
        return
    days = select(day_count.c.snapshot_date).where(*_of_days(filters)).order_by(day_count.c.snapshot_date.desc())
    for day in conn.scalars(days).all():
        yield from streamed(conn, _of_day(filters, few, day))


_FACT = fact_followers_snapshot.c
_BEFORE = fact_followers_snapshot.alias("before")


class _Begin(Struct, frozen=True, kw_only=True):
    """Where a part begins: at a day, or with the first; there behind an account, or behind so many rows."""

    day: date | None = None
    after_key: int | None = None
    offset: int = 0


def _found(filters: Filters, few: Sequence[int] | None, order: Order, begin: _Begin, limit: int) -> FromClause:
    """Return the days and keys of a part, one more than its limit where the grid goes on."""
    days = select(day_count.c.snapshot_date).where(*_of_days(filters))
    if begin.day is not None:
        counted = day_count.c.snapshot_date
        days = days.where(counted <= begin.day if order.descending else counted >= begin.day)
    day = days.subquery("day")
    after = None
    if begin.after_key is not None:
        after = case((day.c.snapshot_date == begin.day, begin.after_key), else_=0)
    of_day = _passing(filters, few, after=after).where(_FACT.snapshot_date == day.c.snapshot_date)
    most = limit + 1
    row = of_day.order_by(_FACT.account_key).limit(most + begin.offset).lateral("row")
    return (
        select(day.c.snapshot_date, row.c.account_key)
        .select_from(day.join(row, true()))
        .order_by(*_in_order(day, row, order))
        .limit(most)
        .offset(begin.offset)
        .subquery("page")
    )


def _in_order(days: FromClause, rows: FromClause, order: Order) -> list[ColumnElement[Any]]:
    day: ColumnElement[date] = days.c.snapshot_date
    return [day.desc() if order.descending else day.asc(), rows.c.account_key]


def _passing(filters: Filters, few: Sequence[int] | None, *, after: ColumnElement[Any] | None = None) -> Select[Any]:
    """Return the snapshots of accounts that pass, as their keys; `after` is the key that they lie behind."""
    rows = select(_FACT.account_key)
    if after is not None:
        rows = rows.where(_FACT.account_key > after)
    if few is not None:
        keys = func.unnest(bindparam("few", list(few), type_=ARRAY(BigInteger))).table_valued("account_key")
        chosen = keys.render_derived("few")
        return rows.join(chosen, chosen.c.account_key == _FACT.account_key)
    if not (conditions := _conditions(filters)):
        return rows
    if after is not None:
        conditions.append(dim_account.c.account_key > after)  # it doesn't follow by itself
    return rows.join(dim_account, dim_account.c.account_key == _FACT.account_key).where(*conditions)


def _cells(found: FromClause, names: Sequence[str], order: Order) -> Select[Any]:
    """Return the query for these fields of the rows found, joined to those tables alone that they stand in."""
    own = _own(found)
    numbers = {name: _believed(own, own.c[name]) for name in ("followers", "following", "posts", "engagement")}
    numbers["delta_1d"] = _believed(own, _gained(found, own))
    columns = {**_OF_ACCOUNT, **numbers, "account_key": found.c.account_key, "snapshot_date": found.c.snapshot_date}
    source = found
    if any(name in _OF_ACCOUNT for name in names):
        source = source.join(dim_account, dim_account.c.account_key == found.c.account_key)
    if any(name in numbers for name in names):
        source = source.join(own, true())
    return select(*(columns[name] for name in names)).select_from(source).order_by(*_in_order(found, found, order))


def _own(found: FromClause) -> FromClause:
    """Return the snapshot of a row found, looked up by itself.

    Joined, it was once looked for among all days of its account: of many partitions that seems to cost no more.
    """
    its_own = (_FACT.account_key == found.c.account_key) & (_FACT.snapshot_date == found.c.snapshot_date)
    return select(fact_followers_snapshot).where(its_own).limit(literal_column("1")).lateral("own")


def _gained(found: FromClause, own: FromClause) -> ColumnElement[Any]:
    return (
        select(own.c.followers - _BEFORE.c.followers)
        .where(
            _BEFORE.c.account_key == found.c.account_key,
            _BEFORE.c.snapshot_date == found.c.snapshot_date - literal_column("1"),
            _BEFORE.c.precision != HELD,
        )
        .correlate(own, found)
        .scalar_subquery()
    )


def _believed(own: FromClause, number: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((own.c.precision != HELD, number))


_OF_ACCOUNT: dict[str, ColumnElement[Any]] = {
    "platform": dim_account.c.platform,
    "handle": HANDLE,
    "org_name": dim_account.c.org_name,
}


def _of_day(filters: Filters, few: Sequence[int] | None, day: date) -> Select[Any]:
    """Return the query for all cells of a day: it joins two days as wholes, where a page looks each of its rows up."""
    account, before = dim_account.c, _BEFORE.c
    is_held = _FACT.precision == HELD
    gained = _FACT.followers - before.followers
    numbers = [
        case((~is_held, of)) for of in (_FACT.followers, _FACT.following, _FACT.posts, _FACT.engagement, gained)
    ]
    of_day_before = (
        (before.account_key == _FACT.account_key)
        & (before.snapshot_date == day - timedelta(days=1))
        & (before.precision != HELD)
    )
    query = (
        select(account.account_key, account.platform, HANDLE, account.org_name, _FACT.snapshot_date, *numbers)
        .join_from(fact_followers_snapshot, dim_account, account.account_key == _FACT.account_key)
        .outerjoin(_BEFORE, of_day_before)
        .where(_FACT.snapshot_date == day)
        .order_by(_FACT.account_key)
    )
    if few is None:
        return query.where(*_conditions(filters))
    return query.where(_FACT.account_key == any_(bindparam("few", list(few), type_=ARRAY(BigInteger))))


def _few(conn: Connection, filters: Filters) -> list[int] | None:
    """Return the accounts that pass where they are few; None where they are many, or all."""
    conditions = _conditions(filters)
    if not conditions:
        return None
    keys = conn.scalars(select(dim_account.c.account_key).where(*conditions).limit(_FEW + 1)).all()
    return list(keys) if len(keys) <= _FEW else None


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    pattern = None if filters.text is None else containing(filters.text)
    conditions = account_conditions(filters.platform, filters.org, filters.core, pattern)
    if filters.status is not None:
        assert filters.clock is not None, "a status is measured by a clock"
        standing = status(filters.clock.now, filters.clock.stale_after)
        profile = and_(scrape_state.c.account_key == dim_account.c.account_key, scrape_state.c.subject == "profile")
        conditions.append(exists().where(profile, standing == filters.status))
    return conditions


def _is_counted(filters: Filters) -> bool:
    """Say whether day_count knows how many rows of a day pass: it counts by platform or by organisation."""
    by_few = filters.core is not None or filters.text is not None or filters.status is not None
    return not by_few and (filters.platform is None or filters.org is None)


def _of_days(filters: Filters) -> list[ColumnElement[bool]]:
    """Return the conditions for the rows of day_count: one for each day that a row may pass on, or more than those."""
    org = filters.org or ""
    platform = "" if org else filters.platform or ""
    counted = [day_count.c.platform == platform, day_count.c.org_name == org]
    return [*counted, *_within(day_count.c.snapshot_date, filters)]


def _within(day: ColumnElement[date], filters: Filters) -> list[ColumnElement[bool]]:
    conditions = [day >= filters.first] if filters.first is not None else []
    return [*conditions, day <= filters.last] if filters.last is not None else conditions


def _landing(filters: Filters, order: Order, offset: int) -> Select[Any]:
    """Return the query for the day that row number `offset` lies in, and how many rows of that day lie before it."""
    counted = day_count.c.snapshot_date
    day = counted.desc() if order.descending else counted.asc()
    upto = (
        select(
            day_count.c.snapshot_date,
            day_count.c.snapshots,
            func.sum(day_count.c.snapshots).over(order_by=day).label("upto"),
        )
        .where(*_of_days(filters))
        .subquery()
    )
    before = offset - (upto.c.upto - upto.c.snapshots)
    return select(upto.c.snapshot_date, before).where(upto.c.upto > offset).order_by(upto.c.upto).limit(1)
