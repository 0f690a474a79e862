"""Dates and times as psycopg2 reads them, each text once: in a list, many rows were read at the same time.

To read one takes psycopg2 as long as five numbers or names.
"""

from collections.abc import Callable
from typing import Any

import psycopg2.extensions

# So many texts are known, some 150 bytes each.
_MOST = 5_000
_OIDS = {1082: psycopg2.extensions.PYDATE, 1184: psycopg2.extensions.PYDATETIMETZ}


def register(connection: Any) -> None:
    """Let a connection read dates and times so."""
    for cast in _CASTS:
        psycopg2.extensions.register_type(cast, connection)


def _remembering(read: Callable[[str, Any], Any]) -> Callable[[str | None, Any], Any]:
    known: dict[str, Any] = {}

    def cast(text: str | None, cursor: Any) -> Any:
        if text is None:
            return None
        found = known.get(text)
        if found is None:
            if len(known) >= _MOST:
                known.clear()
            found = known[text] = read(text, cursor)
        return found

    return cast


_CASTS = [psycopg2.extensions.new_type((oid,), "REMEMBERED", _remembering(read)) for oid, read in _OIDS.items()]
