"""Years of daily snapshots straight into the tables, with everything that is kept beside them."""

from datetime import UTC, date, datetime, timedelta

from sqlalchemy import select, text

from db import derived, partitions
from db.engine import Engine, reading, transaction
from db.models import dim_account
from pipeline import platforms
from tests.performance.accounts import load_due

_ORGANISATIONS = """
    UPDATE dim_account SET org_name = 'Organisation ' || account_key % :organisations, display_name = 'Agency ' || account_key
"""
# Neither triggers, which would keep every row in memory, nor indexes, which are made faster afterwards.
_BARE = """
    SET LOCAL session_replication_role = replica;
    ALTER TABLE fact_followers_snapshot DROP CONSTRAINT pk_fact_followers_snapshot;
    DROP INDEX ix_fact_followers_snapshot_day
"""
# Day by day, as they come in.
_SNAPSHOTS = """
    INSERT INTO fact_followers_snapshot
        (account_key, snapshot_date, followers, following, posts, engagement, captured_at, source, precision)
    SELECT account_key, day, 1000 + 7 * account_key + (day - CAST(:first AS date)) * (account_key % 11),
        account_key % 900, account_key % 5000, account_key % 300, day + interval '12 hours', 'live', 'exact'
    FROM (SELECT CAST(:first AS date) + number AS day FROM generate_series(0, :days - 1) AS number) AS each_day
    CROSS JOIN (SELECT account_key FROM dim_account ORDER BY account_key) AS account
"""
_KEYS = """
    ALTER TABLE {table} ADD CONSTRAINT pk_{table} PRIMARY KEY (account_key, snapshot_date);
    CREATE INDEX ix_{table}_day ON {table} (snapshot_date, account_key)
"""
_PLAIN = "CREATE TABLE plain (LIKE fact_followers_snapshot); INSERT INTO plain SELECT * FROM fact_followers_snapshot"


def load(
    engine: Engine, *, accounts: int, days: int, last: date, covered_from: date, organisations: int = 500
) -> None:
    """List accounts and keep `days` snapshots of each, the newest of `last`; make partitions from `covered_from` on.

    Eleven million rows take two minutes.
    """
    load_due(engine, accounts, platforms=sorted(platforms.load()), now=datetime.now(UTC))
    first = last - timedelta(days=days - 1)
    span = [covered_from + timedelta(days=n) for n in range(0, (last - covered_from).days, 28)]
    with transaction(engine) as conn:
        conn.execute(text(_ORGANISATIONS), {"organisations": organisations})
        partitions.cover(conn, [*span, last])
        conn.execute(text(_BARE))
        conn.execute(text(_SNAPSHOTS), {"first": first, "days": days})
        conn.execute(text(_KEYS.format(table="fact_followers_snapshot")))
        conn.execute(text("ANALYZE fact_followers_snapshot"))
        derived.rederive(conn, list(conn.scalars(select(dim_account.c.account_key))))
        derived.recount(conn)
    settle(engine)


def copy_to_plain(engine: Engine) -> None:
    """Make the table `plain`: the same rows and indexes without partitions."""
    with transaction(engine) as conn:
        conn.execute(text(_PLAIN))
        conn.execute(text(_KEYS.format(table="plain")))
    settle(engine)


def settle(engine: Engine) -> None:
    """Leave nothing to be done behind the benchmark's back."""
    with reading(engine) as conn:
        conn.execute(text("VACUUM (ANALYZE)"))
        conn.execute(text("CHECKPOINT"))
