"""The indexes that db.models declares, as they stand in a database; missing ones are made beside running writers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from msgspec import Struct
from sqlalchemy import Connection, Engine, Index, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from db.engine import reading
from db.models import metadata

State = Literal["present", "missing", "invalid", "building"]

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
# A queue behind a waiting lock would stop every writer.
LOCK_WAIT_S = 5


class Standing(Struct, frozen=True):
    """One index and how it stands: `invalid` slows writers and serves no reader, an interrupted build leaves it so."""

    name: str
    table: str
    state: State
    size_bytes: int | None


def declared() -> list[Index]:
    """Return the indexes of every table, by name; primary keys aren't among them."""
    found = [index for table in metadata.tables.values() for index in table.indexes]
    return sorted(found, key=_name)


_FOUND = text("""
    SELECT index.relname, owner.relname,
        CASE
            WHEN indisvalid THEN 'present'
            WHEN EXISTS (SELECT FROM pg_stat_progress_create_index AS at_work WHERE index_relid = index.oid)
                THEN 'building'
            ELSE 'invalid'
        END,
        coalesce(
            (SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(index.oid)), pg_relation_size(index.oid)
        )::bigint
    FROM pg_index
    JOIN pg_class AS index ON index.oid = indexrelid
    JOIN pg_class AS owner ON owner.oid = indrelid
    WHERE index.relnamespace = current_schema()::regnamespace
""")


def standing(conn: Connection, indexes: Sequence[Index] | None = None) -> list[Standing]:
    """Return how each declared index stands, and every invalid one beside them."""
    wanted = declared() if indexes is None else indexes
    found = {row[0]: Standing(*row) for row in conn.execute(_FOUND)}
    names = {_name(index) for index in wanted}
    stray = [known for known in found.values() if known.state == "invalid" and known.name not in names]
    missing = {_name(index): Standing(_name(index), _table(index), "missing", None) for index in wanted}
    return sorted([*((missing | found)[name] for name in names), *stray], key=lambda known: known.name)


def create_missing(
    engine: Engine, *, started: Callable[[str], None], indexes: Sequence[Index] | None = None
) -> list[str]:
    """Make what is missing, and anew what is invalid, one after the other; return their names.

    Writers go on meanwhile: each index is built CONCURRENTLY, those of a partitioned table partition by partition.
    Interrupted, it leaves one invalid index, which the next run makes anew. One that is building is left alone.
    """
    wanted = {_name(index): index for index in (declared() if indexes is None else indexes)}
    made = []
    with reading(engine) as conn:  # not in a transaction: CONCURRENTLY works in none
        for known in standing(conn, list(wanted.values())):
            if known.name in wanted and known.state in ("missing", "invalid"):
                started(known.name)
                _create(conn, wanted[known.name])
                made.append(known.name)
    return made


def _create(conn: Connection, index: Index) -> None:
    if metadata.tables[_table(index)].dialect_options["postgresql"]["partition_by"] is None:
        _build(conn, index, _name(index), _table(index))
        return
    # Invalid until every partition has its own.
    whole = _statement(index, _name(index), f"ONLY {_table(index)}")
    _at_once(conn, whole.replace("INDEX", "INDEX IF NOT EXISTS", 1))
    for partition in list(_without(conn, index)):
        name = f"{_name(index)}_{partition.removeprefix(_table(index) + '_')}"
        _build(conn, index, name, partition)
        _at_once(conn, f"ALTER INDEX {_name(index)} ATTACH PARTITION {name}")


def _at_once(conn: Connection, statement: str) -> None:
    """Run what keeps writers waiting while it waits itself: for no longer than LOCK_WAIT_S."""
    conn.execute(text(f"SET lock_timeout = '{LOCK_WAIT_S}s'"))
    try:
        conn.execute(text(statement))
    finally:
        conn.execute(text("RESET lock_timeout"))


_WITHOUT = text("""
    SELECT partition.relname
    FROM pg_inherits
    JOIN pg_class AS partition ON partition.oid = inhrelid
    WHERE inhparent = CAST(:of_table AS regclass) AND NOT EXISTS (
        SELECT FROM pg_inherits AS attached JOIN pg_index ON indexrelid = attached.inhrelid
        WHERE attached.inhparent = CAST(:of_index AS regclass) AND indrelid = partition.oid
    )
    ORDER BY partition.relname
""")


def _without(conn: Connection, index: Index) -> Iterator[str]:
    """Yield the partitions that have no part of an index yet."""
    yield from conn.scalars(_WITHOUT, {"of_table": _table(index), "of_index": _name(index)})


def _build(conn: Connection, index: Index, name: str, table: str) -> None:
    conn.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))  # what an interrupted build left
    conn.execute(text(_statement(index, f"CONCURRENTLY {name}", table)))


def _statement(index: Index, name: str, table: str) -> str:
    """Return the CREATE INDEX of a declared index with another name and table."""
    written = str(CreateIndex(index).compile(dialect=_DIALECT))
    head, _, tail = written.partition(f" {_name(index)} ON {_table(index)} ")
    return f"{head} {name} ON {table} {tail}"


def _name(index: Index) -> str:
    return str(index.name)


def _table(index: Index) -> str:
    assert index.table is not None
    return index.table.name
