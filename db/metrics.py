"""Per-minute sums of finished jobs."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import BigInteger, Connection, Float, Text, func, select
from sqlalchemy.dialects.postgresql import insert

from db.models import UTC, scrape_metric
from db.recordset import as_json, recordset
from db.rows import Kind, Lane


class Metric(Struct, frozen=True, kw_only=True):
    """One finished job. `outcome` is the job's state, or `released`."""

    at: datetime
    platform: str
    kind: Kind
    lane: Lane
    outcome: str
    accounts: int
    failed_accounts: int
    duration_s: float


_ROWS = recordset(
    "metrics",
    at=UTC,
    platform=Text,
    kind=Text,
    lane=Text,
    outcome=Text,
    accounts=BigInteger,
    failed_accounts=BigInteger,
    duration_s=Float,
)
_GROUP = (
    func.date_trunc("minute", _ROWS.c.at).label("minute"),
    _ROWS.c.platform,
    _ROWS.c.kind,
    _ROWS.c.lane,
    _ROWS.c.outcome,
)
_INSERT = insert(scrape_metric).from_select(
    [*scrape_metric.primary_key.columns.keys(), "calls", "accounts", "failed_accounts", "duration_s", "longest_s"],
    select(
        *_GROUP,
        func.count(),
        func.sum(_ROWS.c.accounts),
        func.sum(_ROWS.c.failed_accounts),
        func.sum(_ROWS.c.duration_s),
        func.max(_ROWS.c.duration_s),
    )
    .group_by(*_GROUP)
    # In one order, so that two recorders wait for each other instead of dying of it.
    .order_by(*_GROUP),
)
_SUMMED = ("calls", "accounts", "failed_accounts", "duration_s")
_ADD = _INSERT.on_conflict_do_update(
    index_elements=scrape_metric.primary_key.columns,
    set_={name: scrape_metric.c[name] + _INSERT.excluded[name] for name in _SUMMED}
    | {"longest_s": func.greatest(scrape_metric.c.longest_s, _INSERT.excluded.longest_s)},
)


def add(conn: Connection, rows: Sequence[Metric]) -> None:
    """Add finished jobs to the sums of their minutes."""
    conn.execute(_ADD, {"metrics": as_json(rows)})
