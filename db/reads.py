"""Named queries that the API and the page serve. Each returns frozen rows; counts are integers or None.

A page of a list is found first, over as few tables as its filters and order need, and joined afterwards: a bound
on one table's key doesn't carry across a join, which would read thousands of rows to return fifty.
"""

import re
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct, structs
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import psycopg2
from sqlalchemy.sql import visitors

from db import engine, keyset
from db.accounts import NAME
from db.held import HELD
from db.keyset import After, Order, Part, Window
from db.models import (
    NEVER_DUE,
    UTC,
    account_handle,
    account_latest,
    annotation,
    dim_account,
    fact_followers_snapshot,
    scrape_job,
    scrape_state,
)
from db.prepared import Prepared
from db.rows import JobState, Kind, Lane, Precision, Result, Source
from db.standing import StaleAfter, Status, status


class AccountSummary(Struct, frozen=True):
    """One account with its newest reading; every number is None before the first."""

    account_key: int
    platform: str
    handle: str
    display_name: str | None
    org_name: str | None
    is_core_account: bool
    account_url: str
    followers: int | None
    following: int | None
    posts: int | None
    engagement: int | None
    delta_1d: int | None
    delta_7d: int | None
    delta_30d: int | None
    growth_7d_pct: float | None
    snapshot_date: date | None
    captured_at: datetime | None
    status: Status
    reason: str | None
    precision: Precision | None
    source: Source | None


class AccountStanding(Struct, frozen=True):
    """One account of the list, with how its readings go."""

    account_key: int
    platform: str
    handle: str
    display_name: str | None
    org_name: str | None
    owner_team: str | None
    account_type: str | None
    is_core_account: bool
    is_active: bool
    account_url: str
    verified: bool | None
    bio: str | None
    avatar_url: str | None
    status: Status
    reason: str | None
    consecutive_failures: int
    last_attempt_at: datetime | None
    last_success_at: datetime | None
    next_due_at: datetime | None
    read_interval_s: int | None


class PastHandle(Struct, frozen=True):
    """A name that an account has, or had until `last_seen_at`."""

    handle: str
    first_seen_at: datetime
    last_seen_at: datetime


class Day(Struct, frozen=True):
    """The snapshot of one day; the numbers of a held one are None."""

    snapshot_date: date
    followers: int | None
    following: int | None
    posts: int | None
    engagement: int | None
    is_held: bool = False


class Note(Struct, frozen=True):
    """What someone wrote about a range of days."""

    from_date: date
    to_date: date
    note: str


class JobAccount(Struct, frozen=True):
    """One account of a job; `result` is None until the job has finished."""

    account_key: int
    account: str
    result: Result | None
    reason: str | None


class JobReport(Struct, frozen=True, kw_only=True):
    """A job with what came of each of its accounts."""

    job_id: str
    platform: str
    kind: Kind
    lane: Lane
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reason: str | None
    accounts: tuple[JobAccount, ...]


class Overview(Struct, frozen=True):
    """The whole list in a few numbers; `read` accounts have a follower count, which `followers` adds up."""

    accounts: int
    read: int
    followers: int | None
    as_of: datetime | None
    by_status: Mapping[Status, int]


class Filters(Struct, frozen=True, kw_only=True):
    """Which accounts a list holds; None lets all pass."""

    platform: str | None = None
    org: str | None = None
    core: bool | None = None
    status: str | None = None
    text: str | None = None


class Clock(Struct, frozen=True):
    """What a status is measured by."""

    now: datetime
    stale_after: StaleAfter


Row = TypeVar("Row", AccountSummary, AccountStanding)


class Listing(Struct, Generic[Row], frozen=True):
    """A part of a list. `after` leads behind its last row; None at the list's end."""

    rows: list[Row]
    after: After | None


class Extent(Struct, frozen=True):
    """How long a list is, and the time of its newest fact."""

    total: int
    as_of: datetime | None


ListName = Literal["summary", "accounts"]
_DIALECT = psycopg2.dialect()  # type: ignore[no-untyped-call]

# Where a platform is many servers, a handle alone names nobody: it is read and written as name@server.
HANDLE = case(
    (dim_account.c.host != "", dim_account.c.handle + literal("@") + dim_account.c.host), else_=dim_account.c.handle
)
_WEEK_AGO = func.nullif(account_latest.c.followers - account_latest.c.delta_7d, 0)
_BESIDE = {
    scrape_state: and_(scrape_state.c.account_key == dim_account.c.account_key, scrape_state.c.subject == "profile"),
    account_latest: account_latest.c.account_key == dim_account.c.account_key,
}
COLUMNS: dict[str, ColumnElement[Any]] = {
    # Of equal names the last table's holds: account_key and platform are the account's own.
    **{c.name: c for c in (*account_latest.c, *scrape_state.c, *dim_account.c)},
    "handle": HANDLE,
    "account_url": dim_account.c.url,
    "precision": case((account_latest.c.held_at.is_not(None), HELD), else_=account_latest.c.precision),
    "growth_7d_pct": cast(func.round(100.0 * account_latest.c.delta_7d / _WEEK_AGO, 2), Double),
    "consecutive_failures": func.coalesce(scrape_state.c.failures, 0),
    "next_due_at": func.nullif(scrape_state.c.next_due_at, NEVER_DUE),  # paused: never
}
_AS_OF: dict[ListName, ColumnElement[Any]] = {
    "summary": account_latest.c.captured_at,
    "accounts": scrape_state.c.last_attempt_at,
}
_BY_NAME = ("account_key", "platform", "handle", "display_name", "org_name")
_COUNTS = ("followers", "following", "posts", "engagement", "delta_1d", "delta_7d", "delta_30d", "growth_7d_pct")
SORTABLE: dict[ListName, tuple[str, ...]] = {
    "summary": (*_BY_NAME, *_COUNTS, "snapshot_date", "captured_at"),
    "accounts": (*_BY_NAME, "consecutive_failures", "last_attempt_at", "last_success_at", "next_due_at"),
}


def summary(
    conn: Connection, filters: Filters, order: Order, window: Window, clock: Clock
) -> Listing[AccountSummary]:
    """Return accounts with their newest readings; those never read are among them."""
    return _listing(conn, AccountSummary, filters, order, window, clock)


def standings(
    conn: Connection, filters: Filters, order: Order, window: Window, clock: Clock
) -> Listing[AccountStanding]:
    """Return accounts with how their readings go."""
    return _listing(conn, AccountStanding, filters, order, window, clock)


def extent(conn: Connection, of: ListName, filters: Filters, clock: Clock) -> Extent:
    """Return how many accounts pass the filters, and the newest reading (of accounts: attempt) among them."""
    passing = conditions(filters, clock)
    query = select(func.count(), func.max(_AS_OF[of])).select_from(accounts_for(_AS_OF[of], *passing)).where(*passing)
    return Extent(*conn.execute(query).one())


def standing(conn: Connection, account_key: int, clock: Clock) -> AccountStanding | None:
    """Return one account, or None when there is none with this key."""
    columns = _columns(AccountStanding.__struct_fields__, status(clock.now, clock.stale_after))
    query = select(*columns).select_from(accounts_for(*columns)).where(dim_account.c.account_key == account_key)
    row = conn.execute(query).one_or_none()
    return None if row is None else AccountStanding(*row)


def newest(conn: Connection, account_key: int, clock: Clock) -> AccountSummary | None:
    """Return one account with its newest reading, or None when there is none with this key."""
    columns = _columns(AccountSummary.__struct_fields__, status(clock.now, clock.stale_after))
    query = select(*columns).select_from(accounts_for(*columns)).where(dim_account.c.account_key == account_key)
    row = conn.execute(query).one_or_none()
    return None if row is None else AccountSummary(*row)


_HANDLES = (
    select(account_handle.c.handle, account_handle.c.first_seen_at, account_handle.c.last_seen_at)
    .where(account_handle.c.account_key == bindparam("account_key"))
    .order_by(account_handle.c.last_seen_at.desc(), account_handle.c.handle)
)


def handles(conn: Connection, account_key: int) -> list[PastHandle]:
    """Return the names that an account has had, the present one first."""
    return [PastHandle(*row) for row in conn.execute(_HANDLES, {"account_key": account_key})]


_SNAPSHOT = fact_followers_snapshot.c
_IS_HELD = _SNAPSHOT.precision == HELD
_BELIEVED = [case((~_IS_HELD, _SNAPSHOT[name])) for name in ("followers", "following", "posts", "engagement")]
_DAYS = (
    select(*[_SNAPSHOT.snapshot_date, *_BELIEVED, _IS_HELD])
    .where(
        _SNAPSHOT.account_key == bindparam("account_key"),
        _SNAPSHOT.snapshot_date.between(bindparam("first"), bindparam("last")),
    )
    .order_by(_SNAPSHOT.snapshot_date)
)


def days(conn: Connection, account_key: int, first: date, last: date) -> list[Day]:
    """Return an account's snapshots between two days, both included, oldest first. Days without one are absent."""
    return [Day(*row) for row in conn.execute(_DAYS, {"account_key": account_key, "first": first, "last": last})]


def newest_reading(conn: Connection) -> datetime | None:
    """Return when the newest numbers of all were read."""
    newest: datetime | None = conn.scalar(select(func.max(account_latest.c.captured_at)))
    return newest


_NOTES = (
    select(annotation.c.from_date, annotation.c.to_date, annotation.c.note)
    .where(
        or_(
            annotation.c.account_key == bindparam("account_key"),
            and_(annotation.c.account_key.is_(None), annotation.c.org_name == bindparam("org_name")),
            and_(annotation.c.account_key.is_(None), annotation.c.org_name.is_(None)),
        ),
        annotation.c.from_date <= bindparam("last"),
        annotation.c.to_date >= bindparam("first"),
    )
    .order_by(annotation.c.from_date, annotation.c.annotation_id)
)


def notes(conn: Connection, account_key: int, org_name: str | None, first: date, last: date) -> list[Note]:
    """Return the annotations of an account, of its organisation and of all that touch these days, oldest first."""
    sought = {"account_key": account_key, "org_name": org_name, "first": first, "last": last}
    return [Note(*row) for row in conn.execute(_NOTES, sought)]


_JOB = select(
    *(scrape_job.c[name] for name in JobReport.__struct_fields__ if name != "accounts"),
    scrape_job.c.accounts,
    scrape_job.c.outcomes,
).where(scrape_job.c.job_id == bindparam("job_id"))
_NAMES = select(dim_account.c.account_key, NAME).where(
    dim_account.c.account_key == func.any(bindparam("account_keys"))
)


def job(conn: Connection, job_id: str) -> JobReport | None:
    """Return a job with its accounts in their order, or None when there is none; `job_id` must be a UUID."""
    row = conn.execute(_JOB, {"job_id": job_id}).mappings().one_or_none()
    if row is None:
        return None
    names = dict(conn.execute(_NAMES, {"account_keys": row["accounts"]}).all())
    outcomes = {outcome["account_key"]: outcome for outcome in row["outcomes"] or ()}
    accounts = tuple(
        JobAccount(key, names[key], outcomes.get(key, {}).get("result"), outcomes.get(key, {}).get("reason"))
        for key in row["accounts"]
        if key in names  # an account may have been removed since
    )
    said = {name: row[name] for name in JobReport.__struct_fields__ if name != "accounts"}
    return JobReport(**said, accounts=accounts)


def overview(conn: Connection, clock: Clock) -> Overview:
    """Return the whole list in a few numbers."""
    state = status(clock.now, clock.stale_after)
    followers = account_latest.c.followers
    counted = (func.count(), func.count(followers), func.sum(followers), func.max(account_latest.c.captured_at))
    query = select(state, *counted).select_from(accounts_for(state, followers)).group_by(state)
    rows = conn.execute(query).all()
    return Overview(
        accounts=sum(row[1] for row in rows),
        read=sum(row[2] for row in rows),
        followers=sum(sums) if (sums := [int(row[3]) for row in rows if row[3] is not None]) else None,
        as_of=max((row[4] for row in rows if row[4]), default=None),
        by_status={row[0]: row[1] for row in rows},
    )


def alive(conn: Connection) -> None:
    """Ask the database for nothing: raises when it can't answer."""
    conn.execute(select(1))


def part(
    conn: Connection, names: Sequence[str], filters: Filters, order: Order, window: Window, clock: Clock
) -> Part:
    """Return a part of the accounts, of each these fields of AccountSummary or AccountStanding, in this order."""
    given = {name: value for name, value in structs.asdict(filters).items() if value is not None}
    selected = keyset.placed(names, order, "account_key")
    place = _place(window)
    sql = _statement(selected, frozenset(given), order, place, window.limit, clock.stale_after)
    values = given | {"now": clock.now, "before": window.offset}
    if filters.text is not None:
        values["text"] = containing(filters.text)
    if window.after is not None:
        values |= {"after_value": window.after.value, "after_key": window.after.key}
    return keyset.part(engine.rows(conn, sql, values), names, order, "account_key", window.limit)


def _listing(
    conn: Connection, row_type: type[Row], filters: Filters, order: Order, window: Window, clock: Clock
) -> Listing[Row]:
    found = part(conn, row_type.__struct_fields__, filters, order, window, clock)
    return Listing([row_type(*row) for row in found.rows], found.after)


_Place = Literal["start", "behind an offset", "behind a value", "behind an unknown value"]


def _place(window: Window) -> _Place:
    if window.after is None:
        return "behind an offset" if window.offset else "start"
    return "behind an unknown value" if window.after.value is None else "behind a value"


# Putting one together takes SQLAlchemy as long as PostgreSQL takes to answer it for a page of 50.
@lru_cache(maxsize=1_000)
def _statement(
    names: Sequence[str], given: Set[str], order: Order, place: _Place, limit: int, stale_after: StaleAfter
) -> str:
    """Return the statement of a list by these filters in the driver's words, to be prepared where it can be.

    Its parameters are the filters' values, the time and the place; what never changes is written out, and so is the limit:
    with a parameter for it PostgreSQL plans anew each time.
    """
    now = cast(bindparam("now"), UTC)
    standing = status(now, stale_after)
    values: dict[str, ColumnElement[Any]] = {name: bindparam(name) for name in given}
    passing = account_conditions(*(values.get(name) for name in ("platform", "org", "core", "text")))
    if "status" in given:
        passing.append(standing == values["status"])
    if place in ("behind a value", "behind an unknown value"):
        passing.append(_behind(order, place))
    ordered = keyset.order_by(COLUMNS[order.column], dim_account.c.account_key, descending=order.descending)
    page = (
        select(dim_account.c.account_key)
        .select_from(accounts_for(*passing, *ordered))
        .where(*passing)
        .order_by(*ordered)
        .limit(limit + 1)  # one more than wanted tells whether the list goes on
    )
    if place == "behind an offset":
        page = page.offset(bindparam("before", type_=Integer))
    found = page.subquery()
    columns = _columns(names, standing)
    query = (
        select(*columns)
        .select_from(accounts_for(*columns, *ordered).join(found, found.c.account_key == dim_account.c.account_key))
        .order_by(*ordered)
    )
    sql = _written_out(query)
    # How many rows pass a filter, and how many an offset skips, decides how they are best found.
    return sql if given or place == "behind an offset" else Prepared(sql)


def _written_out(query: Select[Any]) -> str:
    """Return a query in the driver's words, with its constants in them; parameters that have no value stay such."""
    compiled = query.compile(dialect=_DIALECT)

    def literal_of(found: re.Match[str]) -> str:
        bound = compiled.binds[found[1]]
        return found[0] if bound.required else str(compiled.render_literal_bindparam(bound))  # type: ignore[no-untyped-call]

    return re.sub(r"%\((\w+)\)s", literal_of, str(compiled))


def _columns(names: Sequence[str], standing: ColumnElement[str]) -> list[ColumnElement[Any]]:
    columns = {**COLUMNS, "status": standing}
    return [columns[name].label(name) for name in names]


def accounts_for(*expressions: ColumnElement[Any]) -> FromClause:
    """Return dim_account, joined to those tables alone that these expressions need."""
    needed = {
        column.table
        for expression in expressions
        for column in visitors.iterate(expression)
        if isinstance(column, Column)
    }
    accounts: FromClause = dim_account
    for table, its_own in _BESIDE.items():
        if table in needed:
            accounts = accounts.outerjoin(table, its_own)
    return accounts


def conditions(filters: Filters, clock: Clock) -> list[ColumnElement[bool]]:
    """Return what must hold for an account to pass, as `accounts_for` has it."""
    text = None if filters.text is None else containing(filters.text)
    passing = account_conditions(filters.platform, filters.org, filters.core, text)
    if filters.status is not None:
        passing.append(status(clock.now, clock.stale_after) == filters.status)
    return passing


def account_conditions(platform: Any, org: Any, core: Any, pattern: Any) -> list[ColumnElement[bool]]:
    """Return what dim_account must say of an account to pass: values or parameters, None lets all pass.

    `pattern` is of a name, as `containing` makes it.
    """
    conditions: list[ColumnElement[bool]] = []
    if platform is not None:
        conditions.append(dim_account.c.platform == platform)
    if org is not None:
        conditions.append(dim_account.c.org_name == org)
    if core is not None:
        conditions.append(dim_account.c.is_core_account == core)
    if pattern is not None:
        named = (HANDLE, dim_account.c.display_name, dim_account.c.org_name)
        conditions.append(or_(*(column.ilike(pattern, escape="/") for column in named)))
    return conditions


def containing(text: str) -> str:
    """Return the pattern of what contains this text, whatever characters it has."""
    literally = re.sub("([/%_])", r"/\1", text)
    return f"%{literally}%"


def _behind(order: Order, place: _Place) -> ColumnElement[bool]:
    """Return the condition that holds for the rows that follow `after_key` in this order, whose value is `after_value`."""
    return keyset.behind(
        COLUMNS[order.column],
        dim_account.c.account_key,
        descending=order.descending,
        value=bindparam("after_value") if place == "behind a value" else None,
        of_key=bindparam("after_key"),
    )
