"""Statements that a connection parses and plans once: for a page of a list that is half of what PostgreSQL spends on it.

psycopg2 prepares nothing by itself. A statement of the type `Prepared` is prepared by the cursor that executes it; to all
that stands above the driver (SQLAlchemy, the profiler, EXPLAIN) it is an ordinary one with its parameters.
"""

import hashlib
import re
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2.errors import InvalidSqlStatementName

from db import casts

# What was asked this often is worth preparing: there are as many forms of a list as clients think of.
_WORTH = 3
# So many are kept by one connection; each takes some 100 kB of the server's memory.
MOST = 16
_PARAMETER = re.compile(r"%\((\w+)\)s")


class Prepared(str):
    """A statement with parameters as `%(name)s`, whose plan doesn't depend on their values.

    PostgreSQL finds their types out from where they stand; where it can't, such as beside `-`, there must be a cast.
    One name never means two statements, even where something between us and the server swaps sessions.
    """

    __slots__ = ("definition", "given", "name", "uses")

    def __init__(self, _: str) -> None:
        names = list(dict.fromkeys(_PARAMETER.findall(self)))
        self.definition = _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", self)
        self.name = f"rollcall_{hashlib.sha256(self.encode()).hexdigest()[:32]}"
        self.given = ", ".join(f"%({name})s" for name in names)
        self.uses = 0


class Connection(psycopg2.extensions.connection):  # type: ignore[misc]  # psycopg2 has no types
    """Knows which statements it has prepared, in their order, and which of them (false) it was refused."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: dict[Prepared, bool] = {}
        self.cursor_factory = Cursor
        casts.register(self)


class Cursor(psycopg2.extensions.cursor):  # type: ignore[misc]
    """Executes prepared statements by their names, outside of transactions: a refusal would end one."""

    def execute(self, sql: Any, parameters: Any = None) -> None:
        if isinstance(sql, Prepared) and self.connection.autocommit:
            done: dict[Prepared, bool] = self.connection.prepared  # it is a Connection of ours
            command = _command(sql, done)
            if command is not None:
                try:
                    super().execute(command, parameters)
                except psycopg2.DataError:
                    pass  # a value that the parameter's type doesn't hold; it may be compared with all the same
                except (psycopg2.NotSupportedError, psycopg2.ProgrammingError, InvalidSqlStatementName):
                    done[sql] = (
                        False  # a column has another type since, or somebody has thrown away what was prepared
                    )
                else:
                    return
        super().execute(sql, parameters)


def _command(sql: Prepared, done: dict[Prepared, bool]) -> str | None:
    """Return what executes a statement by its name, preparing it first; None where it is sent as it stands."""
    if sql in done:
        return f"EXECUTE {sql.name} ({sql.given})" if done[sql] else None
    sql.uses += 1
    if sql.uses <= _WORTH:
        return None
    begin = ""
    if len(done) >= MOST:
        oldest = next(iter(done))
        begin = f"DEALLOCATE {oldest.name}; " if done.pop(oldest) else ""
    # It stands even where the execution fails: preparing isn't part of a transaction.
    done[sql] = True
    return f"{begin}PREPARE {sql.name} AS {sql.definition}; EXECUTE {sql.name} ({sql.given})"
