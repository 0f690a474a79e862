"""How the readings of today go, and what a day of them takes: counts of accounts, in two statements."""

from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta

from msgspec import Struct
from sqlalchemy import Connection, and_, func, or_, select

from db.models import dim_account, scrape_state
from db.reads import Clock
from db.rows import Kind
from db.standing import Status, status


class Standing(Struct, frozen=True):
    """Accounts of one platform that stand the same for the same reason.

    `expected` of them should have a reading of the day, `read` have one. `last_attempt_at` is the newest of any.
    """

    status: Status
    platform: str
    reason: str | None
    accounts: int
    expected: int
    read: int
    last_attempt_at: datetime | None


class Alike(Struct, frozen=True):
    """Accounts that aren't paused, that one kind of call reads, on one host, as often: None is as their platform's."""

    platform: str
    kind: Kind
    host: str
    read_interval_s: int | None
    accounts: int


_PROFILES = dim_account.join(
    scrape_state,
    and_(scrape_state.c.account_key == dim_account.c.account_key, scrape_state.c.subject == "profile"),
)


def standings(conn: Connection, day: date, clock: Clock) -> list[Standing]:
    """Return how all accounts stand, the largest group first.

    A reading is expected of an account that was read or tried on this day, or is due before its end, and that isn't
    gone: one that failed is, even where its next try is tomorrow's.
    """
    standing = status(clock.now, clock.stale_after)
    begins_at = datetime.combine(day, time(), UTC)
    of = scrape_state.c
    is_read = of.last_success_at >= begins_at
    is_expected = and_(
        dim_account.c.is_active,
        of.result.is_distinct_from("gone"),
        or_(is_read, of.last_attempt_at >= begins_at, of.next_due_at < begins_at + timedelta(days=1)),
    )
    count = func.count()
    query = (
        select(
            standing,
            dim_account.c.platform,
            of.reason,
            count,
            count.filter(is_expected),
            count.filter(and_(is_expected, is_read)),
            func.max(of.last_attempt_at),
        )
        .select_from(_PROFILES)
        .group_by(standing, dim_account.c.platform, of.reason)
        .order_by(count.desc(), dim_account.c.platform, standing, of.reason)
    )
    return [Standing(*row) for row in conn.execute(query)]


def alike(conn: Connection, platforms: Collection[str]) -> list[Alike]:
    """Return how many accounts of these platforms are read in the same way."""
    grouped = (dim_account.c.platform, scrape_state.c.kind, dim_account.c.host, dim_account.c.read_interval_s)
    query = (
        select(*grouped, func.count())
        .select_from(_PROFILES)
        .where(dim_account.c.is_active, dim_account.c.platform.in_(platforms))
        .group_by(*grouped)
        .order_by(*grouped)
    )
    return [Alike(*row) for row in conn.execute(query)]
