"""Writing history, as a ratio measured side by side in one run: `./dev bench`."""

import io
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sqlalchemy import text

from db import bulk
from db.bulk import Snapshot, Upserted
from db.engine import Engine, transaction

ACCOUNTS = 10_000
DAYS = 60
ROUNDS = 10
FIRST = date(2026, 1, 1)


_PLAIN = """
    CREATE TABLE plain (LIKE fact_followers_snapshot INCLUDING ALL) PARTITION BY RANGE (snapshot_date);
    CREATE TABLE plain_2026 PARTITION OF plain FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') WITH (fillfactor = 90);
    CREATE TABLE plain_others PARTITION OF plain DEFAULT;
    INSERT INTO plain SELECT * FROM fact_followers_snapshot ORDER BY snapshot_date, account_key
"""


def _new_day(number: int) -> list[Snapshot]:
    """Return the next day of all accounts."""
    return _days(range(1, ACCOUNTS + 1), [FIRST + timedelta(days=DAYS + number)])


def _year_of_some(number: int) -> list[Snapshot]:
    """Return the year before the first day of thirty accounts of three organisations, as an import brings it."""
    keys = [3 * number + org + 500 * n + 1 for org in range(3) for n in range(10)]
    return _days(keys, [FIRST - timedelta(days=n + 1) for n in reversed(range(365))])


@pytest.mark.benchmark(group="write 10,000 snapshots")
@pytest.mark.parametrize("batch", [_new_day, _year_of_some])
def test_an_upsert_against_a_plain_copy_into_a_table_of_the_same_shape(
    benchmark: BenchmarkFixture, engine: Engine, batch: Callable[[int], list[Snapshot]]
) -> None:
    """COPY, upsert, newest numbers with three deltas and counts of days, against COPY alone, both committed."""
    with transaction(engine) as conn:
        conn.execute(
            text("""
                INSERT INTO dim_account (platform, handle, url, org_name)
                SELECT 'x', 'h' || n, 'https://x.example/' || n, 'org' || n % 500 FROM generate_series(1, :n) AS n
            """),
            {"n": ACCOUNTS},
        )
        for day in range(DAYS):
            bulk.upsert_snapshots(conn, _days(range(1, ACCOUNTS + 1), [FIRST + timedelta(days=day)]))
        conn.execute(text(_PLAIN))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE"))
    copies: list[float] = []
    upserts: list[float] = []

    def prepare() -> tuple[tuple[list[Snapshot]], dict[str, object]]:
        snapshots = batch(len(copies))
        copies.append(_copy(engine, snapshots))
        return (snapshots,), {}

    def upsert(snapshots: list[Snapshot]) -> None:
        began = time.perf_counter()
        with transaction(engine) as conn:
            assert bulk.upsert_snapshots(conn, snapshots) == Upserted(len(snapshots), 0)
        upserts.append(time.perf_counter() - began)

    benchmark.pedantic(upsert, setup=prepare, rounds=ROUNDS, warmup_rounds=1)

    ratios = [plain / mine for plain, mine in zip(copies, upserts, strict=True)]
    benchmark.extra_info |= {
        "of_a_plain_copy": round(statistics.median(ratios), 2),
        "spread": [round(q, 2) for q in statistics.quantiles(ratios, n=4)],
    }
    print(f"\n{benchmark.name}: {statistics.median(ratios):.2f} of a plain COPY's rows/s")


def _days(account_keys: Iterable[int], days: Iterable[date]) -> list[Snapshot]:
    now = datetime.now(UTC)
    return [
        Snapshot(account_key=key, snapshot_date=day, captured_at=now, followers=key + day.toordinal())
        for key, day in product(account_keys, days)
    ]


def _copy(engine: Engine, snapshots: list[Snapshot]) -> float:
    """Return how long COPY takes for these rows, which are CSV already, and their commit."""
    rows = "".join(
        f"{s.account_key},{s.snapshot_date},{s.captured_at.isoformat()},{s.followers},imported,exact\n"
        for s in snapshots
    )
    connection: Any = engine.raw_connection()
    try:
        began = time.perf_counter()
        with connection.cursor() as cursor:
            cursor.copy_expert(
                "COPY plain (account_key, snapshot_date, captured_at, followers, source, precision)"
                " FROM STDIN (FORMAT csv)",
                io.StringIO(rows),
            )
        connection.commit()
        return time.perf_counter() - began
    finally:
        connection.close()
