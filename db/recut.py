"""Cuts the snapshots of an existing database into partitions of another width, while everybody works on.

One calendar year after the other: its rows are copied into new tables beside the old ones; a trigger notes what changes
meanwhile. Then saves of jobs wait while the noted rows are copied again, readers too while the tables change places.
Until that commit nothing has happened to the snapshots; whatever an interrupted run leaves, the next one clears away.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from itertools import groupby

from sqlalchemy import Connection, Engine, func, select, text

from db import derived, partitions
from db.engine import reading, transaction
from db.partitions import Partition

_TABLE = "fact_followers_snapshot"
# Any number, as long as no other lock of ours has it.
_LOCK = 0x726F6C6C05
_TRY_LOCK = select(func.pg_try_advisory_lock(_LOCK))
_UNLOCK = select(func.pg_advisory_unlock(_LOCK))

_Range = tuple[date, date]


class Underway(Exception):
    """Another process cuts the partitions already."""

    def __init__(self) -> None:
        super().__init__("The partitions are being cut anew by another process: wait until it has finished.")


class Changed(Exception):
    """Someone else changed the partitions of a year meanwhile."""

    def __init__(self, year: int) -> None:
        super().__init__(f"The partitions of {year} changed while they were copied; nothing is lost: run it again.")


def recut(engine: Engine, *, months: int, done: Callable[[int], None]) -> None:
    """Give every partition the width of `months`; call `done` with each year that has been cut.

    Raises Underway or Changed; and DatabaseError when a lock isn't to be had within partitions.LOCK_WAIT_S, because a
    long read holds the tables. The years that were done stay so.
    """
    with _only_one(engine):
        with reading(engine) as conn:
            years = _years(partitions.listed(conn))
        for year, old in years:
            new = _cut(old, months)
            if new != [(part.first, part.after) for part in old]:
                _recut_year(engine, old, new)
                done(year)


def _years(listed: Sequence[Partition]) -> list[tuple[int, list[Partition]]]:
    return [(year, list(parts)) for year, parts in groupby(listed, lambda part: part.first.year)]


def _cut(old: Sequence[Partition], months: int) -> list[_Range]:
    """Return the ranges that hold every day of the old ones, oldest first."""
    found = set()
    for part in old:
        day = part.first
        while day < part.after:
            first, day = partitions.range_of(day, months)
            found.add((first, day))
    return sorted(found)


def _recut_year(engine: Engine, old: Sequence[Partition], new: Sequence[_Range]) -> None:
    try:
        with transaction(engine) as conn:
            _prepare(conn, old, new)
        with transaction(engine) as conn:
            for part in old:
                conn.execute(text(f"INSERT INTO {_TABLE}_recut SELECT * FROM {part.name}"))  # noqa: S608  # a name
        with transaction(engine) as conn:
            conn.execute(text(f"ANALYZE {_TABLE}_recut"))
        with transaction(engine) as conn:
            _swap(conn, old, new)
    finally:
        with transaction(engine) as conn:
            _clear(conn)


def _prepare(conn: Connection, old: Sequence[Partition], new: Sequence[_Range]) -> None:
    """Make the new tables, and note from now on what changes in the old ones.

    The triggers wait for everyone who is writing there, so the copy that follows sees what they wrote.
    """
    partitions.lock(conn)
    _clear(conn)
    conn.execute(
        text(f"CREATE TABLE {_TABLE}_recut (LIKE {_TABLE} INCLUDING ALL) PARTITION BY RANGE (snapshot_date)")
    )
    for first, after in new:
        name = _new_name(first)
        bounds = f"FOR VALUES FROM ('{first}') TO ('{after}') {partitions.STORAGE}"
        conn.execute(text(f"CREATE TABLE {name} PARTITION OF {_TABLE}_recut {bounds}"))
        # Said beforehand, so that attaching needs no look at the rows.
        check = f"CHECK (snapshot_date >= '{first}' AND snapshot_date < '{after}')"
        conn.execute(text(f"ALTER TABLE {name} ADD CONSTRAINT recut_days {check}"))
    conn.execute(text(_NOTES))
    for part in old:
        conn.execute(
            text(f"""
                CREATE TRIGGER recut AFTER INSERT OR UPDATE OR DELETE ON {part.name}
                FOR EACH ROW EXECUTE FUNCTION {_TABLE}_recut_note()
            """)
        )


_NOTES = f"""
    CREATE TABLE {_TABLE}_recut_notes (account_key bigint NOT NULL, snapshot_date date NOT NULL);
    CREATE FUNCTION {_TABLE}_recut_note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO {_TABLE}_recut_notes VALUES (NEW.account_key, NEW.snapshot_date);
        END IF;
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO {_TABLE}_recut_notes VALUES (OLD.account_key, OLD.snapshot_date);
        END IF;
        RETURN NULL;
    END $$
"""  # noqa: S608  # the name of the table
_COPY_NOTED = f"""
    DELETE FROM {_TABLE}_recut USING {_TABLE}_recut_notes AS noted
    WHERE ({_TABLE}_recut.account_key, {_TABLE}_recut.snapshot_date) = (noted.account_key, noted.snapshot_date);
    INSERT INTO {_TABLE}_recut
    SELECT fact.* FROM {_TABLE} AS fact
    JOIN (SELECT DISTINCT account_key, snapshot_date FROM {_TABLE}_recut_notes) AS noted
        USING (account_key, snapshot_date)
"""  # noqa: S608  # the name of the table


_INDEXES = text("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = CAST(:of_table AS regclass)")


def _swap(conn: Connection, old: Sequence[Partition], new: Sequence[_Range]) -> None:
    """Bring the new tables up to date and put them in the place of the old ones."""
    partitions.lock(conn)
    derived.alone(conn)
    conn.execute(text(f"LOCK TABLE {_TABLE} IN SHARE ROW EXCLUSIVE MODE"))
    year = old[0].first.year
    standing = {part.name for part in partitions.listed(conn) if part.first.year == year}
    if standing != {part.name for part in old}:
        raise Changed(year)
    conn.execute(text(_COPY_NOTED))
    for part in old:
        conn.execute(text(f"ALTER TABLE {_TABLE} DETACH PARTITION {part.name}"))
        conn.execute(text(f"DROP TABLE {part.name}"))
    for first, after in new:
        name = _new_name(first)
        conn.execute(text(f"ALTER TABLE {_TABLE}_recut DETACH PARTITION {name}"))
        partitions.attach(conn, name, first, after)
        conn.execute(text(f"ALTER TABLE {name} DROP CONSTRAINT recut_days"))
        conn.execute(text(f"ALTER TABLE {name} RENAME TO {partitions.name_of(first)}"))
        for index in list(conn.scalars(_INDEXES, {"of_table": partitions.name_of(first)})):
            if "_recut" in index:  # PostgreSQL has shortened the name of another
                conn.execute(text(f"ALTER INDEX {index} RENAME TO {index.replace('_recut', '')}"))


def _clear(conn: Connection) -> None:
    """Remove what a run leaves behind."""
    conn.execute(text(f"DROP TABLE IF EXISTS {_TABLE}_recut, {_TABLE}_recut_notes"))
    conn.execute(text(f"DROP FUNCTION IF EXISTS {_TABLE}_recut_note CASCADE"))  # its triggers go with it


def _new_name(first: date) -> str:
    return f"{partitions.name_of(first)}_recut"


@contextmanager
def _only_one(engine: Engine) -> Iterator[None]:
    with reading(engine) as conn:
        if not conn.scalar(_TRY_LOCK):
            raise Underway
        try:
            yield
        finally:
            conn.execute(_UNLOCK)
