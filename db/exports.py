"""Whole results as streams of rows, a batch at a time, in flat memory and from the first row on.

History and posts are read through a cursor of the server, at one moment: their connection must be in a transaction.
The other two are read page by page; of one moment, if the transaction is (`check.one_moment`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    any_,
    bindparam,
    case,
    column,
    select,
    table,
)

from db import partitions, reads
from db.held import HELD
from db.keyset import Order, Window
from db.models import dim_account, fact_followers_snapshot, fact_social_post
from db.reads import AccountStanding, AccountSummary, Clock, Filters, Listing
from db.rows import Batches, Precision, Source
from db.streams import streamed

_PAGE = 1_000


class ExportedDay(Struct, frozen=True):
    """The columns of history: one account's numbers of one day. Those of a held reading are None."""

    account_key: int
    platform: str
    handle: str
    org_name: str | None
    snapshot_date: date
    followers: int | None
    following: int | None
    posts: int | None
    engagement: int | None
    captured_at: datetime
    source: Source
    precision: Precision


class ExportedPost(Struct, frozen=True):
    """The columns of posts, with their engagement as last read."""

    account_key: int
    platform: str
    handle: str
    org_name: str | None
    post_id: str
    url: str
    published_at: datetime
    post_type: str
    text: str
    likes: int | None
    comments: int | None
    shares: int | None
    views: int | None
    read_at: datetime
    source: Source


class Wanted(Struct, frozen=True, kw_only=True):
    """Which days or posts to export, both ends included; None lets all pass. `text` is of an account's name."""

    platform: str | None = None
    org: str | None = None
    core: bool | None = None
    text: str | None = None
    account_keys: Collection[int] | None = None
    first: date | None = None
    last: date | None = None


class NoSuchTable(Exception):
    """There is no table of this name that the retention has taken out; `known` are those that it has."""

    def __init__(self, known: Sequence[str]) -> None:
        super().__init__(*known)
        self.known = known


_NUMBERS = ("followers", "following", "posts", "engagement")


def summary(conn: Connection, filters: Filters, clock: Clock) -> Batches:
    """Yield accounts with their newest readings, as AccountSummary has them."""
    return _pages(lambda window: reads.summary(conn, filters, Order(), window, clock))


def accounts(conn: Connection, filters: Filters, clock: Clock) -> Batches:
    """Yield accounts with how their readings go, as AccountStanding has them."""
    return _pages(lambda window: reads.standings(conn, filters, Order(), window, clock))


def _pages(page: Callable[[Window], Listing[AccountSummary] | Listing[AccountStanding]]) -> Batches:
    after = None
    while True:
        listing = page(Window(limit=_PAGE, after=after))
        yield [structs.astuple(row) for row in listing.rows]
        after = listing.after
        if after is None:
            return


def history(conn: Connection, wanted: Wanted, *, of_table: str | None = None) -> Batches:
    """Return snapshots as ExportedDay has them, account by account, oldest day first.

    `of_table` is one that the retention has taken out (partitions.detached). Raises NoSuchTable.
    """
    snapshots: FromClause = fact_followers_snapshot
    if of_table is not None:
        known = [taken_out.name for taken_out in partitions.detached(conn)]
        if of_table not in known:
            raise NoSuchTable(known)
        snapshots = table(of_table, *(column(c.name, c.type) for c in fact_followers_snapshot.c))
    of = snapshots.c
    believed = {name: case((of.precision != HELD, of[name])) for name in _NUMBERS}
    query = _of_accounts(ExportedDay, snapshots, wanted, {**of, **believed}).order_by(
        of.account_key, of.snapshot_date
    )
    if wanted.first is not None:
        query = query.where(of.snapshot_date >= wanted.first)
    if wanted.last is not None:
        query = query.where(of.snapshot_date <= wanted.last)
    return streamed(conn, query)


def posts(conn: Connection, wanted: Wanted) -> Batches:
    """Return posts as ExportedPost has them, account by account, newest first. Days are UTC days of publication."""
    of = fact_social_post.c
    query = _of_accounts(ExportedPost, fact_social_post, wanted, {**of}).order_by(
        of.account_key, of.published_at.desc(), of.post_id
    )
    if wanted.first is not None:
        query = query.where(of.published_at >= _midnight(wanted.first))
    if wanted.last is not None:
        query = query.where(of.published_at < _midnight(wanted.last + timedelta(days=1)))
    return streamed(conn, query)


def _of_accounts(
    row_type: type[Struct], rows: FromClause, wanted: Wanted, columns: Mapping[str, ColumnElement[Any]]
) -> Select[Any]:
    """Return the query for the fields of `row_type`: `columns` of a table, and those of the accounts that its rows are of."""
    accounts_too = {**{c.name: c for c in dim_account.c}, "handle": reads.HANDLE, **columns}
    query = select(*(accounts_too[name].label(name) for name in row_type.__struct_fields__)).join_from(
        rows, dim_account, dim_account.c.account_key == rows.c.account_key
    )
    pattern = None if wanted.text is None else reads.containing(wanted.text)
    query = query.where(*reads.account_conditions(wanted.platform, wanted.org, wanted.core, pattern))
    if wanted.account_keys is not None:
        keys = bindparam("account_keys", list(wanted.account_keys), type_=ARRAY(BigInteger))
        query = query.where(rows.c.account_key == any_(keys))
    return query


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
