"""Any number of rows as one JSON parameter: the statement stays the same, whatever the size of the batch."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import JSON, Text, bindparam, cast, column, func
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

# \u0000 behind an even number of backslashes: behind an odd one it is a backslash and the text "u0000".
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def recordset(name: str, **columns: type[TypeEngine[Any]] | TypeEngine[Any]) -> TableValuedAlias:
    """Return a FROM clause over the parameter `name`, as `as_json` writes it; fields not named are ignored."""
    rows = func.json_to_recordset(cast(bindparam(name, type_=Text), JSON))
    return rows.table_valued(*(column(key, kind) for key, kind in columns.items())).render_derived(
        name, with_types=True
    )


def as_json(rows: Iterable[object]) -> str:
    """Return structs or dicts as a parameter for `recordset`.

    NUL characters are left out: PostgreSQL's text holds none, and one in a biography would cost its whole batch.
    """
    encoded = msgspec.json.encode(list(rows)).decode()
    # The expression reads slowly, and hardly any batch holds one: it took half of the time of saving a job.
    return _NUL.sub(r"\1", encoded) if "\\u0000" in encoded else encoded
