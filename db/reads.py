"""Named queries that the API and the page serve. Each returns frozen rows; counts are integers or None.

A page of a list is found first, over as few tables as its filters and order need, and joined afterwards: a bound
on one table's key doesn't carry across a join, which would read thousands of rows to return fifty.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)

from db.accounts import NAME
from db.held import HELD
from db.models import (
    NEVER_DUE,
    account_handle,
    account_latest,
    annotation,
    dim_account,
    fact_followers_snapshot,
    scrape_job,
    scrape_state,
)
from db.rows import JobState, Kind, Lane, Precision, Result, Source
from db.standing import Status, status


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


class Order(Struct, frozen=True):
    """By which column a list is sorted, equal ones by account_key; unknown values come last either way."""

    column: str = "account_key"
    descending: bool = False


class After(Struct, frozen=True):
    """The place behind one item of a list: its value in the order's column, and its key."""

    value: Any
    account_key: int


class Window(Struct, frozen=True, kw_only=True):
    """Which part of a list to return: behind an item whatever the depth, or by offset."""

    limit: int
    offset: int = 0
    after: After | None = None


class Clock(Struct, frozen=True):
    """What a status is measured by."""

    now: datetime
    stale_after_s: float


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

# Where a platform is many servers, a handle alone names nobody: it is read and written as name@server.
_HANDLE = case(
    (dim_account.c.host != "", dim_account.c.handle + literal("@") + dim_account.c.host), else_=dim_account.c.handle
)
_WEEK_AGO = func.nullif(account_latest.c.followers - account_latest.c.delta_7d, 0)
_ACCOUNTS = dim_account.outerjoin(
    scrape_state,
    and_(scrape_state.c.account_key == dim_account.c.account_key, scrape_state.c.subject == "profile"),
).outerjoin(account_latest, account_latest.c.account_key == dim_account.c.account_key)
_COLUMNS: dict[str, ColumnElement[Any]] = {
    # Of equal names the last table's holds: account_key and platform are the account's own.
    **{c.name: c for c in (*account_latest.c, *scrape_state.c, *dim_account.c)},
    "handle": _HANDLE,
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
    query = select(func.count(), func.max(_AS_OF[of])).select_from(_ACCOUNTS).where(*_conditions(filters, clock))
    return Extent(*conn.execute(query).one())


def standing(conn: Connection, account_key: int, clock: Clock) -> AccountStanding | None:
    """Return one account, or None when there is none with this key."""
    query = (
        select(*_columns(AccountStanding, clock))
        .select_from(_ACCOUNTS)
        .where(dim_account.c.account_key == account_key)
    )
    row = conn.execute(query).one_or_none()
    return None if row is None else AccountStanding(*row)


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


_FIRST_AND_LAST = select(func.min(_SNAPSHOT.snapshot_date), func.max(_SNAPSHOT.snapshot_date)).where(
    _SNAPSHOT.account_key == bindparam("account_key")
)


def first_and_last_day(conn: Connection, account_key: int) -> tuple[date, date] | None:
    """Return the days of an account's oldest and newest snapshot, or None when it has none."""
    first, last = conn.execute(_FIRST_AND_LAST, {"account_key": account_key}).one()
    return (first, last) if first else None


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
    state = status(clock.now, clock.stale_after_s)
    query = (
        select(
            state,
            func.count(),
            func.count(account_latest.c.followers),
            func.sum(account_latest.c.followers),
            func.max(account_latest.c.captured_at),
        )
        .select_from(_ACCOUNTS)
        .group_by(state)
    )
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


def _listing(
    conn: Connection, row_type: type[Row], filters: Filters, order: Order, window: Window, clock: Clock
) -> Listing[Row]:
    conditions = _conditions(filters, clock)
    if window.after is not None:
        conditions.append(_behind(order, window.after))
    page = (
        select(dim_account.c.account_key)
        .select_from(_ACCOUNTS)
        .where(*conditions)
        .order_by(*_order_by(order))
        .limit(window.limit + 1)  # one more tells whether the list goes on
        .offset(window.offset)
        .subquery()
    )
    query = (
        select(*_columns(row_type, clock))
        .select_from(_ACCOUNTS.join(page, page.c.account_key == dim_account.c.account_key))
        .order_by(*_order_by(order))
    )
    rows = [row_type(*row) for row in conn.execute(query)]
    last = rows[window.limit - 1] if len(rows) > window.limit else None
    after = After(getattr(last, order.column), last.account_key) if last else None
    return Listing(rows[: window.limit], after)


def _columns(row_type: type[Row], clock: Clock) -> list[ColumnElement[Any]]:
    columns = {**_COLUMNS, "status": status(clock.now, clock.stale_after_s)}
    return [columns[name].label(name) for name in row_type.__struct_fields__]


def _conditions(filters: Filters, clock: Clock) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filters.platform is not None:
        conditions.append(dim_account.c.platform == filters.platform)
    if filters.org is not None:
        conditions.append(dim_account.c.org_name == filters.org)
    if filters.core is not None:
        conditions.append(dim_account.c.is_core_account.is_(filters.core))
    if filters.status is not None:
        conditions.append(status(clock.now, clock.stale_after_s) == filters.status)
    if filters.text is not None:
        named = (_HANDLE, dim_account.c.display_name, dim_account.c.org_name)
        conditions.append(or_(*(column.icontains(filters.text, autoescape=True) for column in named)))
    return conditions


def _order_by(order: Order) -> list[ColumnElement[Any]]:
    column = _COLUMNS[order.column]
    directed = column.desc() if order.descending else column.asc()
    if order.column == "account_key":
        return [directed]
    return [directed.nulls_last(), dim_account.c.account_key.asc()]


def _behind(order: Order, after: After) -> ColumnElement[bool]:
    """Return the condition that holds for the rows that follow `after` in this order."""
    column, key = _COLUMNS[order.column], dim_account.c.account_key
    if order.column == "account_key":
        return key < after.account_key if order.descending else key > after.account_key
    if after.value is None:
        return and_(column.is_(None), key > after.account_key)
    further = column < after.value if order.descending else column > after.value
    return or_(further, and_(column == after.value, key > after.account_key), column.is_(None))
