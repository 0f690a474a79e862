"""Who imported which history and when, and how far each import came, so that an interrupted one goes on from there.

The row of an import and the snapshots that it brought change in one transaction.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import Connection, Engine, bindparam, func, insert, literal_column, select, update
from sqlalchemy.types import BigInteger

from db.engine import reading
from db.models import history_import

_HELD = func.hashtextextended(bindparam("sha256"), literal_column("0"))
_TRY_LOCK = select(func.pg_try_advisory_lock(_HELD))
_UNLOCK = select(func.pg_advisory_unlock(_HELD))


class Underway(Exception):
    """Another process imports the same file."""

    def __init__(self) -> None:
        super().__init__("This file is being imported by another process: wait until it has finished.")


class Given(Struct, frozen=True, kw_only=True):
    """A file that someone brings. `sha256` and `size_bytes` are None where it comes by a stream."""

    file_name: str
    sha256: str | None
    size_bytes: int | None
    imported_by: str
    overwrite: bool


class Counts(Struct, frozen=True):
    """What became of the rows of a file: each of `rows` counts in one of the five others."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    outranked: int = 0
    rejected: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(structs.astuple(self), structs.astuple(other), strict=True)))


class Import(Struct, frozen=True, kw_only=True):
    """One import; `finished_at` is None while it is under way, and for good when it was interrupted."""

    import_id: int
    given: Given
    started_at: datetime
    finished_at: datetime | None
    counts: Counts
    rejects_bytes: int


_IMPORTS = select(history_import).order_by(history_import.c.import_id.desc())
_INTERRUPTED = _IMPORTS.where(
    history_import.c.sha256 == bindparam("sha256"),
    history_import.c.overwrite == bindparam("overwrite"),
    history_import.c.finished_at.is_(None),
).limit(1)
_BEGIN = insert(history_import).returning(history_import.c.import_id)
_OF_IMPORT = history_import.c.import_id == bindparam("of_import")
_ADVANCE = (
    update(history_import)
    .where(_OF_IMPORT)
    .values(
        **{name: history_import.c[name] + bindparam(name, type_=BigInteger) for name in Counts.__struct_fields__},
        rejects_bytes=bindparam("rejects_bytes"),
    )
)
_FINISH = update(history_import).where(_OF_IMPORT).values(finished_at=bindparam("now"))


@contextmanager
def alone_with(engine: Engine, sha256: str | None) -> Iterator[None]:
    """Let nobody else import the same file meanwhile; a stream is like no other. Raises Underway."""
    if sha256 is None:
        yield
        return
    with reading(engine) as conn:
        if not conn.scalar(_TRY_LOCK, {"sha256": sha256}):
            raise Underway
        try:
            yield
        finally:
            conn.execute(_UNLOCK, {"sha256": sha256})


def interrupted(conn: Connection, given: Given) -> Import | None:
    """Return the last import of the same file in the same manner that didn't come to its end, if there is one."""
    row = conn.execute(_INTERRUPTED, {"sha256": given.sha256, "overwrite": given.overwrite}).mappings().one_or_none()
    return None if row is None else _import(dict(row))


def begin(conn: Connection, given: Given, *, now: datetime) -> Import:
    """Write down that an import begins."""
    import_id = conn.execute(_BEGIN, {**structs.asdict(given), "started_at": now}).scalar_one()
    return Import(
        import_id=import_id, given=given, started_at=now, finished_at=None, counts=Counts(), rejects_bytes=0
    )


def advance(conn: Connection, import_id: int, counts: Counts, *, rejects_bytes: int) -> None:
    """Add what became of the next rows; `rejects_bytes` is how long the file of rejects is with theirs."""
    conn.execute(_ADVANCE, {**structs.asdict(counts), "rejects_bytes": rejects_bytes, "of_import": import_id})


def finish(conn: Connection, import_id: int, *, now: datetime) -> None:
    """Write down that every row has been done."""
    conn.execute(_FINISH, {"of_import": import_id, "now": now})


def listed(conn: Connection, *, most: int | None = None) -> list[Import]:
    """Return the imports, newest first; all of them where it isn't said how many at most."""
    return [_import(dict(row)) for row in conn.execute(_IMPORTS.limit(most)).mappings()]


def _import(row: dict[str, Any]) -> Import:
    def part(of: type[Given] | type[Counts]) -> dict[str, Any]:
        return {name: row.pop(name) for name in of.__struct_fields__}

    return Import(given=Given(**part(Given)), counts=Counts(**part(Counts)), **row)
