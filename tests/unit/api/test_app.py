"""What the composition root decides."""

import pytest

from api import app
from db.engine import connections
from tests import fakes

URL = "postgresql+psycopg2://nowhere/none"


@pytest.mark.parametrize(
    ("pool", "overflow", "threads", "kept"),
    [("5", "10", "8", 8), ("5", "10", "2", 5), ("2", "1", "8", 3), ("20", "0", "8", 20)],
)
def test_a_connection_is_kept_for_each_thread_that_reads_and_no_more_may_be_opened(
    pool: str, overflow: str, threads: str, kept: int
) -> None:
    given = {"DB_POOL_SIZE": pool, "DB_MAX_OVERFLOW": overflow, "READ_THREADS": threads}
    engine = app._engine(fakes.settings(URL, "redis://nowhere", **given), URL)
    assert engine.pool.size() == kept  # type: ignore[attr-defined]  # a QueuePool
    assert connections(engine).most == int(pool) + int(overflow)
