"""Long results, a batch at a time through a cursor of the server: in flat memory on both sides."""

from typing import Any

from sqlalchemy import Connection, Select

from db.rows import Batches

_BATCH = 2_000


def streamed(conn: Connection, query: Select[Any]) -> Batches:
    """Yield the rows of a query as of the moment when the first is asked for; the connection is in a transaction."""
    with conn.execute(query.execution_options(yield_per=_BATCH)) as result:
        yield from result.partitions()
