"""What the rules of alerts look at: accounts whose followers jumped, and accounts that aren't read as they should be.

Each costs one pass over the accounts, and returns as many rows as it is asked for.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Literal

from msgspec import Struct
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Double,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from db.accounts import NAME
from db.models import account_latest, alert, dim_account, scrape_state
from db.standing import StaleAfter, by_status

Way = Literal["drop", "spike"]
Trouble = Literal["stale", "failing", "blocked"]


class Jump(Struct, frozen=True):
    """An account whose followers changed by `change` from the day before `snapshot_date`, the day of its newest reading."""

    subject: str
    platform: str
    name: str
    followers: int
    change: int
    snapshot_date: date


class Jumps(Struct, frozen=True):
    """Some of the accounts that jumped, those with an open alert first, then the largest change; `total` is of all."""

    total: int
    first: Sequence[Jump]


class Unwell(Struct, frozen=True):
    """Accounts of one platform in the same trouble for the same reason: how many, and the keys of the first."""

    trouble: Trouble
    platform: str
    reason: str | None
    accounts: int
    first: Sequence[int]


def jumps(conn: Connection, way: Way, *, pct: float, min_followers: int, since: date, most: int) -> Jumps:
    """Return the accounts that lost (`drop`) or gained (`spike`) so many percent of their followers within a day.

    Counted are accounts with so many followers before or after, whose newest reading is of `since` or later and that
    have one of the day before it.
    """
    latest, change = account_latest.c, account_latest.c.delta_1d
    before = cast(latest.followers, Double) - change
    moved = cast(change if way == "spike" else -change, Double)
    subject = cast(latest.account_key, Text) + literal(":") + cast(latest.snapshot_date, Text)
    is_open = exists().where(alert.c.rule == way, alert.c.subject == subject, alert.c.resolved_at.is_(None))
    query = (
        select(
            func.count().over(),
            subject,
            dim_account.c.platform,
            NAME,
            latest.followers,
            change,
            latest.snapshot_date,
        )
        .join_from(account_latest, dim_account, dim_account.c.account_key == latest.account_key)
        .where(
            dim_account.c.is_active,
            latest.snapshot_date >= since,
            moved > 0,
            moved * 100 >= pct * before,
            func.greatest(before, latest.followers) >= min_followers,
        )
        .order_by(is_open.desc(), (moved / func.nullif(before, 0)).desc().nulls_first(), latest.account_key)
        .limit(most)
    )
    rows = conn.execute(query).all()
    return Jumps(rows[0][0] if rows else 0, [Jump(*row[1:]) for row in rows])


def unwell(
    conn: Connection, *, now: datetime, stale_after: StaleAfter, late_s: float, failures: int, most: int
) -> list[Unwell]:
    """Return the accounts in trouble by platform and reason, the largest group of a platform first.

    `stale` are those whose numbers are older by `late_s` than they may be, never read ones included; `failing` those
    whose last so many attempts failed. `most` are named of each group, core accounts first.
    """
    then = now - timedelta(seconds=late_s)
    of = scrape_state.c
    never_since = then - timedelta(seconds=stale_after.after_s)
    trouble = by_status(
        then,
        stale_after,
        {
            "blocked": literal("blocked"),
            "failing": case((of.failures >= failures, "failing")),
            "never": case((dim_account.c.added_at < never_since, "stale")),
            "stale": literal("stale"),
        },
    )
    reason = case((trouble != "stale", of.reason))
    count = func.count()
    keys = func.array_agg(
        aggregate_order_by(
            dim_account.c.account_key, dim_account.c.is_core_account.desc(), dim_account.c.account_key
        ),
        type_=ARRAY(BigInteger),
    )
    query = (
        select(trouble, dim_account.c.platform, reason, count, keys[1:most])
        .join_from(
            dim_account,
            scrape_state,
            and_(of.account_key == dim_account.c.account_key, of.subject == "profile"),
        )
        .where(trouble.is_not(None))
        .group_by(trouble, dim_account.c.platform, reason)
        .order_by(dim_account.c.platform, count.desc(), reason)
    )
    return [Unwell(*row) for row in conn.execute(query)]
