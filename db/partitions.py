"""Partitions of the snapshots: ranges of whole months by `snapshot_date`, made before they are needed.

Rows of days that no partition covers wait in the default partition; `ensure` moves them when it makes theirs.
"""

from datetime import date

from sqlalchemy import Connection, func, select, text

# Any number, as long as no other lock of ours has it.
_LOCK = 0x726F6C6C02

_LOCK_PARTITIONS = select(func.pg_advisory_xact_lock(_LOCK))

_OVERLAPS = text("""
    SELECT count(*)
    FROM pg_inherits
    JOIN pg_class child ON child.oid = inhrelid
    CROSS JOIN LATERAL regexp_match(
        pg_get_expr(child.relpartbound, child.oid), $$FROM \\('(.+)'\\) TO \\('(.+)'\\)$$
    ) AS bounds
    WHERE inhparent = 'fact_followers_snapshot'::regclass
      AND bounds IS NOT NULL  -- of the default partition
      AND daterange(bounds[1]::date, bounds[2]::date) && daterange(:first, :after)
""")


def ensure(conn: Connection, *, today: date, months: int = 12) -> list[str]:
    """Make the partitions of `today` and of the range after it, where they are missing; return the new ones' names.

    A range is `months` wide and aligned to that (12 makes calendar years). One that overlaps with a partition of
    another width is left out: its days stay in the default partition until the widths meet again.
    """
    conn.execute(_LOCK_PARTITIONS)
    first = _months(today) // months * months
    ranges = [(_first_day(start), _first_day(start + months)) for start in (first, first + months)]
    return [_make(conn, first_day, after) for first_day, after in ranges if not _overlaps(conn, first_day, after)]


def _overlaps(conn: Connection, first: date, after: date) -> bool:
    return bool(conn.scalar(_OVERLAPS, {"first": first, "after": after}))


def _make(conn: Connection, first: date, after: date) -> str:
    """Make one partition beside the table, move the waiting rows into it, then attach it.

    CREATE TABLE … PARTITION OF would refuse while the default partition holds rows of the range.
    """
    name = f"fact_followers_snapshot_{first:%Y_%m}"
    conn.execute(text(f"CREATE TABLE {name} (LIKE fact_followers_snapshot INCLUDING ALL)"))
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
    attach = f"ALTER TABLE fact_followers_snapshot ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{after}')"
    conn.execute(text(attach))
    return name


def _months(day: date) -> int:
    """Return the whole months from year 0 to the month of `day`."""
    return day.year * 12 + day.month - 1


def _first_day(months: int) -> date:
    return date(months // 12, months % 12 + 1, 1)
