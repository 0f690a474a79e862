"""Partitions of the snapshots: ranges of whole months by `snapshot_date`, made before they are needed.

Rows of days that no partition covers wait in the default partition; `ensure` makes partitions for them and moves
them there. Whatever takes a lock that readers or writers wait for takes it last, for as long as renaming takes, and
gives up when it doesn't get it within `LOCK_WAIT_S`: a queue behind a waiting lock would stop everybody.
"""

from collections.abc import Iterable
from datetime import date
from typing import Literal

from msgspec import Struct
from sqlalchemy import Connection, Date, bindparam, func, literal, select, text

from db import derived, gaps, totals
from db.engine import DatabaseError

# Any number, as long as no other lock of ours has it.
_LOCK = 0x726F6C6C02
LOCK_WAIT_S = 5
# Widths that make calendar years: a year can then be cut anew without touching another.
WIDTHS = (1, 2, 3, 4, 6, 12)
# Most rows are written again on their day, when the posts have been read: room on the page keeps that cheap.
STORAGE = "WITH (fillfactor = 90)"
_DETACHED = "_detached"
_LOCK_NOT_AVAILABLE = "55P03"

_LOCK_PARTITIONS = select(func.pg_advisory_xact_lock(_LOCK))
_LOCK_TIMEOUT = select(func.set_config("lock_timeout", f"{LOCK_WAIT_S}s", literal(True)))

Action = Literal["detach", "drop"]


class Partition(Struct, frozen=True):
    """A range of days, `after` not included, in a table of its own. Sizes are the planner's estimates."""

    name: str
    first: date
    after: date
    rows: int
    size_bytes: int


class Detached(Struct, frozen=True):
    """A table that was a partition until its days had passed the retention."""

    name: str
    rows: int
    size_bytes: int


_SIZES = "greatest(reltuples, 0)::bigint, pg_total_relation_size(oid)"
_PARTITIONS = text(f"""
    SELECT relname, bounds[1]::date, bounds[2]::date, {_SIZES}
    FROM pg_inherits
    JOIN pg_class ON oid = inhrelid
    CROSS JOIN LATERAL regexp_match(
        pg_get_expr(relpartbound, oid), $$FROM \\('(.+)'\\) TO \\('(.+)'\\)$$
    ) AS bounds
    WHERE inhparent = 'fact_followers_snapshot'::regclass AND bounds IS NOT NULL  -- of the default partition
    ORDER BY 2
""")  # noqa: S608  # names of columns
_DETACHED_TABLES = text(f"""
    SELECT relname, {_SIZES} FROM pg_class
    WHERE relkind = 'r' AND NOT relispartition AND relnamespace = current_schema()::regnamespace
        AND starts_with(relname, 'fact_followers_snapshot_') AND relname LIKE '%{_DETACHED}%'
    ORDER BY relname
""")  # noqa: S608  # names of columns
_ARE_OWN = text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'fact_followers_snapshot'::regclass")
_WAITING = text("SELECT DISTINCT date_trunc('month', snapshot_date)::date FROM fact_followers_snapshot_default")


def are_own(conn: Connection) -> bool:
    """Tell whether this session's role may make partitions and take them out: only their owner may."""
    return bool(conn.scalar(_ARE_OWN))


def lock(conn: Connection) -> None:
    """Let nobody else change partitions until the transaction ends, and wait for no table longer than LOCK_WAIT_S."""
    conn.execute(_LOCK_PARTITIONS)
    conn.execute(_LOCK_TIMEOUT)


def is_busy(error: DatabaseError) -> bool:
    """Say whether an error means that a long read or write held a table for longer than LOCK_WAIT_S."""
    return getattr(error.orig, "pgcode", None) == _LOCK_NOT_AVAILABLE


def listed(conn: Connection) -> list[Partition]:
    """Return the partitions, oldest first; not the default one, which has no range."""
    return [Partition(*row) for row in conn.execute(_PARTITIONS)]


def detached(conn: Connection) -> list[Detached]:
    """Return the tables that the retention has taken out; they stay until someone drops them."""
    return [Detached(*row) for row in conn.execute(_DETACHED_TABLES)]


def uncovered(conn: Connection, *, today: date, months: int) -> list[date]:
    """Return which of today and the first day of the range after it has no partition of its own."""
    known = listed(conn)
    days = (today, range_of(today, months)[1])
    return [day for day in days if not any(one.first <= day < one.after for one in known)]


def ensure(conn: Connection, *, today: date, months: int = 12) -> list[str]:
    """Make the missing partitions of `today`, of the range after it, and of the days that wait in the default one.

    Returns the new ones' names. A range is `months` wide and aligned to that (12 makes calendar years). Where one
    would overlap with a partition of another width, a month is made instead, until the widths meet again.
    """
    lock(conn)
    return _cover(conn, [today, range_of(today, months)[1], *conn.scalars(_WAITING)], months)


def cover(conn: Connection, days: Iterable[date], *, months: int = 12) -> list[str]:
    """Make the missing partitions of these days, before rows of them come in bulk; return the new ones' names."""
    lock(conn)
    return _cover(conn, days, months)


def range_of(day: date, months: int) -> tuple[date, date]:
    """Return the first day of the range that a day lies in, and the first day after it."""
    start = (day.year * 12 + day.month - 1) // months * months
    return _first_day(start), _first_day(start + months)


def _cover(conn: Connection, days: Iterable[date], months: int) -> list[str]:
    taken = [(known.first, known.after) for known in listed(conn)]
    made = []
    for day in sorted(days):
        free = (span for span in (range_of(day, months), range_of(day, 1)) if not _overlaps(span, taken))
        if span := next(free, None):
            taken.append(span)
            made.append(_make(conn, *span))
    return made


def _overlaps(span: tuple[date, date], taken: Iterable[tuple[date, date]]) -> bool:
    first, after = span
    return any(known_first < after and first < known_after for known_first, known_after in taken)


def _make(conn: Connection, first: date, after: date) -> str:
    """Make one partition beside the table, move the waiting rows into it, then attach it.

    CREATE TABLE … PARTITION OF would refuse while the default partition holds rows of the range.
    """
    name = name_of(first)
    conn.execute(text(f"CREATE TABLE {name} (LIKE fact_followers_snapshot INCLUDING ALL) {STORAGE}"))
    # No row of the range may arrive between the move and the attaching.
    conn.execute(text("LOCK TABLE fact_followers_snapshot_default IN ACCESS EXCLUSIVE MODE"))
    move = f"""
        WITH waiting AS (
            DELETE FROM fact_followers_snapshot_default
            WHERE snapshot_date >= :first AND snapshot_date < :after RETURNING *
        )
        INSERT INTO {name} SELECT * FROM waiting
    """  # noqa: S608  # the name is made of a date
    conn.execute(text(move), {"first": first, "after": after})
    attach(conn, name, first, after)
    return name


def attach(conn: Connection, name: str, first: date, after: date) -> None:
    """Make a table of the same shape the partition of these days."""
    bounds = f"FOR VALUES FROM ('{first}') TO ('{after}')"
    conn.execute(text(f"ALTER TABLE fact_followers_snapshot ATTACH PARTITION {name} {bounds}"))


_AFFECTED = text("SELECT account_key FROM account_latest WHERE snapshot_date < :until").bindparams(
    bindparam("until", type_=Date)
)


def retire(conn: Connection, *, today: date, months: int, action: Action) -> list[str]:
    """Take out the partitions whose days are all `months` whole months old; return the names of their tables.

    `detach` leaves each as a table beside the others, `drop` doesn't. Newest numbers and counts of days are derived
    anew from what stays, so an account that hasn't been read since has no newest number any more.
    """
    kept_from = oldest_kept(today, months)
    lock(conn)
    if not any(known.after <= kept_from for known in listed(conn)):
        return []
    derived.alone(conn)
    _cover(conn, conn.scalars(_WAITING), months=1)  # no older day may wait outside
    past = [known for known in listed(conn) if known.after <= kept_from]
    since = max(known.after for known in past)
    # A delta of 30 days reaches back behind the newest day.
    affected = list(conn.scalars(_AFFECTED, {"until": date.fromordinal(since.toordinal() + 30)}))
    derived.rederive(conn, affected, since=since)
    derived.forget(conn, before=since)
    gaps.forget(conn, before=since)
    totals.forget(conn, before=since)
    return [_take_out(conn, known.name, action) for known in past]  # last: readers wait from here on


def _take_out(conn: Connection, name: str, action: Action) -> str:
    if action == "drop":
        conn.execute(text(f"DROP TABLE {name}"))
        return name
    conn.execute(text(f"ALTER TABLE fact_followers_snapshot DETACH PARTITION {name}"))
    # Its name stays free for a partition of the same days, should they be imported again.
    standing = {table.name for table in detached(conn)}
    names = (f"{name}{_DETACHED}{suffix}" for suffix in ("", *(f"_{n}" for n in range(2, len(standing) + 3))))
    kept = next(new for new in names if new not in standing)
    conn.execute(text(f"ALTER TABLE {name} RENAME TO {kept}"))
    return kept


def oldest_kept(today: date, months: int) -> date:
    """Return the first day that isn't `months` whole months old."""
    return _first_day(today.year * 12 + today.month - 1 - months)


def name_of(first: date) -> str:
    """Return the name of the partition that begins on a day."""
    return f"fact_followers_snapshot_{first:%Y_%m}"


def _first_day(months: int) -> date:
    """Return the first day of the month that is so many whole months from year 0."""
    return date(months // 12, months % 12 + 1, 1)
