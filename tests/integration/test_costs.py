"""What a job costs must follow from the job, not from how many accounts are listed."""

from datetime import timedelta

import pytest
from sqlalchemy import event, text

from db.engine import Connection, Engine, transaction
from tests.fakes import NOON
from tests.jobs import listed, running, said, saved
from tests.performance.accounts import load_due

LISTED = 5_000


@pytest.mark.parametrize("batch", [1, 100])
def test_a_job_looks_for_its_own_accounts_instead_of_reading_all_that_are_listed(engine: Engine, batch: int) -> None:
    load_due(engine, LISTED, now=NOON - timedelta(days=1))
    with transaction(engine) as conn:
        conn.execute(
            text(
                "INSERT INTO account_latest (account_key, snapshot_date, captured_at, followers, source, precision)"
                " SELECT account_key, :day, :day, 100, 'simulated', 'exact' FROM dim_account"
            ),
            {"day": NOON - timedelta(days=1)},
        )
        conn.execute(text("ANALYZE account_latest"))

    with transaction(engine) as conn:
        job = running(conn, batch=batch, now=NOON)
        before = _rows_read_in_order(conn)
        assert saved(conn, job, said(job)) is not None
        assert _rows_read_in_order(conn) == before


def test_a_job_that_brings_nothing_but_new_numbers_sends_few_statements(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, *(f"agency{n}" for n in range(10)))
        first = running(conn)
        assert saved(conn, first, said(first)) is not None
    tomorrow = NOON + timedelta(days=1)
    sent: list[str] = []

    with transaction(engine) as conn:
        job = running(conn, now=tomorrow)
        event.listen(conn, "before_cursor_execute", lambda *args: sent.append(args[2]))
        changes = saved(conn, job, said(job, followers=101), now=tomorrow)

    assert changes is not None and changes.snapshots == 10
    assert len(sent) <= 8, sent


def _rows_read_in_order(conn: Connection) -> dict[str, int]:
    """Return how many rows this session's scans of whole tables have read."""
    counted = text("SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = ANY(:tables)")
    rows = conn.execute(counted, {"tables": ["dim_account", "scrape_state", "account_latest"]})
    return {row.relname: row.seq_tup_read for row in rows}
