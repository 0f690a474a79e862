"""Snapshots of any days for tests, kept as an import keeps them, and what PostgreSQL holds of them."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import text

from db import bulk, check
from db.bulk import Snapshot, Upserted
from db.engine import Connection, Engine, transaction


def snapshot(key: int, day: date, followers: int | None = 5, **fields: Any) -> Snapshot:
    """Return a day's numbers, captured in its last minute."""
    captured_at = datetime.combine(day, time(23, 59), UTC)
    return Snapshot(
        **{
            "account_key": key,
            "snapshot_date": day,
            "captured_at": captured_at,
            "followers": followers,
            **fields,
        }
    )


def keep(conn: Connection, key: int, *days: date, followers: int = 5) -> Upserted:
    """Import the same number for each of these days."""
    return bulk.upsert_snapshots(conn, [snapshot(key, day, followers) for day in days])


def partition_of_days(conn: Connection) -> dict[date, str]:
    """Return where each day's rows lie: `2026_01`, `default`."""
    found = conn.execute(
        text("SELECT DISTINCT snapshot_date, tableoid::regclass::text FROM fact_followers_snapshot")
    ).all()
    return {day: name.removeprefix("fact_followers_snapshot_") for day, name in found}


def all_is_derived(engine: Engine) -> bool:
    """Say whether newest numbers and counts are what the snapshots say."""
    with transaction(engine) as conn:
        check.one_moment(conn)
        assert list(check.differences(conn)) == []
    return True


def counts(conn: Connection) -> dict[tuple[str, str, date], int]:
    """Return the kept counts of days by platform and organisation."""
    rows: Iterable[Any] = conn.execute(text("SELECT platform, org_name, snapshot_date, snapshots FROM day_count"))
    return {(platform, org, day): snapshots for platform, org, day, snapshots in rows}
