"""The accounts whose followers changed most, out of the kept newest numbers: it costs accounts, not history."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Double, cast, func, select

from db.models import account_latest, dim_account
from db.reads import COLUMNS, Clock, Filters, accounts_for, conditions
from db.rows import Precision, Source

Days = Literal[1, 7, 30]
By = Literal["number", "percent"]

OLDEST_DAYS = 7
"""A newest reading older than this says nothing of today, whatever the interval."""


class Mover(Struct, frozen=True):
    """An account, and by how much its followers changed until `snapshot_date`, the day of its newest reading.

    `change_pct` is None where it had no followers before.
    """

    account_key: int
    platform: str
    handle: str
    display_name: str | None
    org_name: str | None
    is_core_account: bool
    account_url: str
    followers: int
    change: int
    change_pct: float | None
    snapshot_date: date
    captured_at: datetime
    precision: Precision
    source: Source


class Interval(Struct, frozen=True):
    """Between which days followers are compared, and whether by their number or in percent."""

    days: Days
    by: By


def movers(
    conn: Connection,
    names: Sequence[str],
    filters: Filters,
    interval: Interval,
    clock: Clock,
    *,
    losses: bool,
    limit: int,
) -> Sequence[Sequence[Any]]:
    """Return the accounts that gained most, or lost most, of each these fields of Mover, in this order.

    An account whose newest reading is older than the interval isn't among them.
    """
    change = account_latest.c[f"delta_{interval.days}d"]
    share = 100.0 * change / func.nullif(account_latest.c.followers - change, 0)
    by = change if interval.by == "number" else share
    oldest = clock.now.date() - timedelta(days=min(interval.days, OLDEST_DAYS))
    passing = [
        *conditions(filters, clock),
        change < 0 if losses else change > 0,
        by.is_not(None),
        account_latest.c.snapshot_date >= oldest,
    ]
    ordered = [by.asc() if losses else by.desc(), dim_account.c.account_key]
    most = (
        select(dim_account.c.account_key)
        .select_from(accounts_for(*passing, *ordered))
        .where(*passing)
        .order_by(*ordered)
        .limit(limit)
        .subquery()
    )
    shown: dict[str, ColumnElement[Any]] = {
        **COLUMNS,
        "change": change,
        "change_pct": cast(func.round(share, 2), Double),
    }
    columns = [shown[name].label(name) for name in names]
    accounts = accounts_for(*columns, *ordered).join(most, most.c.account_key == dim_account.c.account_key)
    return conn.execute(select(*columns).select_from(accounts).order_by(*ordered)).all()
