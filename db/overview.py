"""What the command line asks: which accounts a request means, and how the whole stands."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    any_,
    bindparam,
    func,
    or_,
    select,
)

from db.accounts import NAME
from db.models import dim_account, scrape_state
from db.rows import Kind
from db.standing import StaleAfter, Status, status


class Candidate(Struct, frozen=True):
    """An account that could be read: `kind` is the call that would read its profile next."""

    account_key: int
    platform: str
    host: str
    name: str
    kind: Kind
    is_active: bool


class Chosen(Struct, frozen=True, kw_only=True):
    """Which accounts are meant, of those that aren't paused; None lets all pass.

    `statuses` are those that an account may have, `reason` the one why. `unread_since` leaves those that have a reading from then on.
    """

    platform: str | None = None
    org: str | None = None
    core: bool | None = None
    statuses: Collection[Status] | None = None
    reason: str | None = None
    unread_since: datetime | None = None


class Group(Struct, frozen=True):
    """Accounts of one platform that stand the same, for the same reason."""

    status: Status
    platform: str
    reason: str | None
    accounts: int


_PROFILES = dim_account.join(
    scrape_state,
    (scrape_state.c.account_key == dim_account.c.account_key) & (scrape_state.c.subject == "profile"),
)
# Accounts a statement.
_PAGE = 5_000
CANDIDATES = select(
    dim_account.c.account_key,
    dim_account.c.platform,
    dim_account.c.host,
    NAME,
    scrape_state.c.kind,
    dim_account.c.is_active,
).join_from(dim_account, scrape_state)
"""Every subject of every account."""
_CANDIDATES = CANDIDATES.where(scrape_state.c.subject == "profile").order_by(dim_account.c.account_key)


def candidates(conn: Connection, account_keys: Sequence[int]) -> list[Candidate]:
    """Return these accounts, paused ones too."""
    asked = bindparam(None, list(account_keys), type_=ARRAY(BigInteger))
    query = _CANDIDATES.where(dim_account.c.account_key == any_(asked))
    return [Candidate(*row) for row in conn.execute(query)]


def chosen(conn: Connection, which: Chosen, *, now: datetime, stale_after: StaleAfter) -> Iterator[Candidate]:
    """Yield the accounts that are meant, by their keys, a page at a time: the list may be very long."""
    query = _CANDIDATES.where(*_conditions(which, now, stale_after)).limit(_PAGE)
    after = 0
    while page := conn.execute(query.where(dim_account.c.account_key > after)).all():
        yield from (Candidate(*row) for row in page)
        after = page[-1].account_key


def _conditions(which: Chosen, now: datetime, stale_after: StaleAfter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [dim_account.c.is_active]
    if which.platform is not None:
        conditions.append(dim_account.c.platform == which.platform)
    if which.org is not None:
        conditions.append(dim_account.c.org_name == which.org)
    if which.core is not None:
        conditions.append(dim_account.c.is_core_account.is_(which.core))
    if which.statuses is not None:
        conditions.append(status(now, stale_after).in_(which.statuses))
    if which.reason is not None:
        conditions.append(scrape_state.c.reason == which.reason)
    if which.unread_since is not None:
        last_read = scrape_state.c.last_success_at
        conditions.append(or_(last_read.is_(None), last_read < which.unread_since))
    return conditions


_ORGANISATIONS = select(dim_account.c.org_name).where(dim_account.c.org_name.is_not(None)).distinct()


def organisations(conn: Connection) -> list[str]:
    """Return the names of all organisations that have an account."""
    return list(conn.scalars(_ORGANISATIONS))


_NAMES = select(dim_account.c.account_key, NAME).where(
    dim_account.c.account_key == any_(bindparam("account_keys", type_=ARRAY(BigInteger)))
)


def names(conn: Connection, account_keys: Collection[int]) -> dict[int, str]:
    """Return what accounts are called (`x/name`, `mastodon/name@host`), by their keys."""
    return dict(conn.execute(_NAMES, {"account_keys": list(account_keys)}).all())


def groups(conn: Connection, *, now: datetime, stale_after: StaleAfter) -> list[Group]:
    """Return how many accounts stand how, per platform and reason; the largest group of a status first."""
    standing = status(now, stale_after)
    count = func.count()
    query = (
        select(standing, dim_account.c.platform, scrape_state.c.reason, count)
        .select_from(_PROFILES)
        .group_by(standing, dim_account.c.platform, scrape_state.c.reason)
        .order_by(standing, count.desc(), dim_account.c.platform)
    )
    return [Group(*row) for row in conn.execute(query)]


def last_reading(conn: Connection) -> datetime | None:
    """Return when an account was last read, None before the first time."""
    newest: datetime | None = conn.execute(select(func.max(scrape_state.c.last_success_at))).scalar_one()
    return newest


def account_counts(conn: Connection) -> Mapping[str, int]:
    """Return how many accounts that aren't paused each platform has."""
    query = (
        select(dim_account.c.platform, func.count())
        .where(dim_account.c.is_active)
        .group_by(dim_account.c.platform)
        .order_by(dim_account.c.platform)
    )
    return dict(conn.execute(query).all())


def clock(conn: Connection) -> datetime:
    """Return what the database's clock says."""
    says: datetime = conn.execute(select(func.clock_timestamp())).scalar_one()
    return says


def keys_by_platform(conn: Connection) -> Mapping[str, Sequence[int]]:
    """Return every account_key, paused accounts' too."""
    query = select(dim_account.c.platform, func.array_agg(dim_account.c.account_key)).group_by(dim_account.c.platform)
    return dict(conn.execute(query).all())
