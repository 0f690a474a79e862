"""Snapshots by the thousand: COPY of what is new, an upsert of what stands, and what follows from it, all set-based.

COPY writes several times as fast as INSERT, but bears no row that stands. Since nobody else writes meanwhile, what
stands is known before, and only that goes the long way of a temporary table and ON CONFLICT.
"""

import io
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from db import derived
from db.recordset import as_json
from db.rows import Precision, Source

_PIECE_BYTES = 65_536
_ENCODER = msgspec.json.Encoder()

_Day = tuple[int, date]  # of an account


class Snapshot(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One account's numbers of one day, wherever they were kept before.

    It refers to nothing that could refer back, so Python's search for circles leaves out what comes by the thousand.
    """

    account_key: int
    snapshot_date: date
    captured_at: datetime
    followers: int | None = None
    following: int | None = None
    posts: int | None = None
    engagement: int | None = None
    precision: Precision = "exact"


class Upserted(Struct, frozen=True):
    """How many days are new, how many stood with other numbers, which gave way, and how many a platform was asked on,
    so that they stay as they are.
    """

    inserted: int
    updated: int
    outranked: int = 0


_FIELDS = ", ".join(Snapshot.__struct_fields__)
_TARGET = f"{_FIELDS}, source, import_id"
_PREPARE = text("""
    DROP TABLE IF EXISTS given_snapshot;
    CREATE TEMPORARY TABLE given_snapshot (LIKE fact_followers_snapshot) ON COMMIT DROP
""")
# The days tell the planner which partitions to open; OFFSET keeps it from searching those for the days first.
_STANDING = text("""
    SELECT fact.* FROM json_to_recordset(CAST(:blocks AS json)) AS block (account_keys bigint[], days date[])
    CROSS JOIN LATERAL (
        SELECT account_key, snapshot_date, source FROM fact_followers_snapshot
        WHERE account_key = ANY(account_keys) AND snapshot_date = ANY(days)
        AND snapshot_date BETWEEN :first AND :last
        OFFSET 0
    ) AS fact
""")
_VALUES = ("captured_at", "followers", "following", "posts", "engagement", "precision", "source")
_UPDATE = text(f"""
    INSERT INTO fact_followers_snapshot AS stored ({_TARGET}) SELECT {_TARGET} FROM given_snapshot
    ON CONFLICT (account_key, snapshot_date) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in (*_VALUES, "import_id"))}
    WHERE ({", ".join(f"stored.{name}" for name in _VALUES)})
        IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in _VALUES)})
    RETURNING account_key, snapshot_date
""")  # noqa: S608  # names of columns


def upsert_snapshots(
    conn: Connection,
    snapshots: Iterable[Snapshot],
    *,
    source: Source = "imported",
    import_id: int | None = None,
    overwrite_live: bool = False,
) -> Upserted:
    """Keep snapshots of any days, with the newest numbers and the counts that follow; write only what changes.

    A day that a platform was asked on keeps what it said, unless `overwrite_live`. Snapshots of accounts that aren't
    listed are left out. What is written says by which import (see db.provenance). Saves of jobs wait until the
    transaction ends, so hand over some ten thousand at a time: they are held in memory.
    """
    derived.alone(conn)
    given = _later_of_each_day(snapshots)
    newest = derived.newest(conn, {key for key, _ in given})
    rows = {day: given[day] for day in sorted(given) if day[0] in newest}
    standing = _standing(conn, rows)
    new = {day: row for day, row in rows.items() if day not in standing}
    gives_way = {day for day, said_by in standing.items() if overwrite_live or said_by == "imported"}
    _copy(conn, "fact_followers_snapshot", new.values(), source, import_id)
    corrected = _correct(conn, [rows[day] for day in rows if day in gives_way], source, import_id)
    added = derived.blocks(new)
    held = {key for (key, _), row in rows.items() if row.precision == "held"}
    derived.catch_up(conn, newest, derived.blocks(sorted([*new, *corrected])) if corrected else added, held)
    derived.count_days(conn, added)
    outranked = sum(standing[day] != source for day in standing.keys() - gives_way)
    return Upserted(len(new), len(corrected), outranked)


def _later_of_each_day(snapshots: Iterable[Snapshot]) -> dict[_Day, Snapshot]:
    """Return snapshots by account and day: of a day that is given twice the later reading, as where they come singly."""
    given: dict[_Day, Snapshot] = {}
    for row in snapshots:
        day = (row.account_key, row.snapshot_date)
        if row.captured_at >= given.setdefault(day, row).captured_at:
            given[day] = row
    return given


def _standing(conn: Connection, days: Collection[_Day]) -> Mapping[_Day, str]:
    """Return the sources of the snapshots that stand on these days."""
    counted = derived.counted(conn, {day for _, day in days})
    # A day that counts no snapshot needs no look: today's, and those before the first.
    sought = [(key, day) for key, day in days if day in counted]
    if not sought:
        return {}
    values = {"blocks": as_json(derived.blocks(sought)), "first": min(counted), "last": max(counted)}
    return {(key, day): source for key, day, source in conn.execute(_STANDING, values).all()}


def _correct(conn: Connection, rows: Collection[Snapshot], source: Source, import_id: int | None) -> list[_Day]:
    """Write these over the snapshots of their days; return which days differed."""
    if not rows:
        return []
    conn.execute(_PREPARE)
    _copy(conn, "given_snapshot", rows, source, import_id)
    return [tuple(row) for row in conn.execute(_UPDATE)]


def _copy(conn: Connection, table: str, rows: Collection[Snapshot], source: Source, import_id: int | None) -> None:
    if not rows:
        return
    # Lists in JSON, one a line, are CSV but for the brackets, which no value has: many times as fast as Python's csv.
    lines = _ENCODER.encode_lines(rows).replace(
        b"]\n", b",%b,%b\n" % (_ENCODER.encode(source), _ENCODER.encode(import_id))
    )
    driver: Any = conn.connection.driver_connection
    with driver.cursor() as cursor:
        statement = f"COPY {table} ({_TARGET}) FROM STDIN (FORMAT csv, NULL 'null')"
        cursor.copy_expert(statement, io.BytesIO(lines.translate(None, b"[")), _PIECE_BYTES)
