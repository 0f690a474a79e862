"""Speed as ratios, measured side by side in one run: `./dev bench`. No test here fails for being slow."""

import io
import statistics
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sqlalchemy import text

from db import claims, writes
from db.engine import Engine, transaction
from pipeline.accounts import import_list
from pipeline.decide import Policy, decide
from pipeline.records import Job, Outcome, Profile

BATCH = 100
ROUNDS = 30
POLICY = Policy(interval_s=0.000001, backoff_base_s=60, backoff_cap_s=60, gone_recheck_s=60, blocked_recheck_s=60)


@pytest.mark.benchmark(group="keep 100 readings")
def test_saving_a_job_against_a_plain_copy_of_its_rows(benchmark: BenchmarkFixture, engine: Engine) -> None:
    """One job of 100 accounts, claimed, taken and saved with everything kept, against COPY of as many bare rows."""
    rows = "\n".join(["platform,handle", *(f"bluesky,agency{n}.example" for n in range(BATCH))])
    import_list(engine, rows.encode(), now=datetime.now(UTC))
    with transaction(engine) as conn:
        conn.execute(
            text("CREATE TABLE plain (account_key bigint, day date, followers bigint, captured_at timestamptz)")
        )
    copies: list[float] = []
    saves: list[float] = []

    def prepare() -> tuple[tuple[Job, int], dict[str, object]]:
        copies.append(_copy(engine))
        return (_taken(engine), len(copies)), {}

    def save(job: Job, followers: int) -> None:
        began = time.perf_counter()
        _save(engine, job, followers)
        saves.append(time.perf_counter() - began)

    benchmark.pedantic(save, setup=prepare, rounds=ROUNDS, warmup_rounds=3)

    ratios = [mine / plain for mine, plain in zip(saves, copies, strict=True)]
    benchmark.extra_info |= {
        "times_a_plain_copy": round(statistics.median(ratios), 2),
        "spread": [round(q, 2) for q in statistics.quantiles(ratios, n=4)],
    }
    print(f"\nsaving a job of {BATCH}: {statistics.median(ratios):.1f} times a plain COPY of its rows")


def _copy(engine: Engine) -> float:
    now = datetime.now(UTC)
    data = io.StringIO("".join(f"{n}\t{now:%Y-%m-%d}\t{n}\t{now.isoformat()}\n" for n in range(BATCH)))
    connection = engine.raw_connection()
    try:
        began = time.perf_counter()
        with connection.cursor() as cursor:
            cursor.copy_expert("COPY plain FROM STDIN", data)
        connection.commit()
        return time.perf_counter() - began
    finally:
        connection.close()


def _taken(engine: Engine) -> Job:
    now = datetime.now(UTC) + timedelta(seconds=1)
    lease_until = now + timedelta(minutes=5)
    with transaction(engine) as conn:
        claimed = claims.claim_due(
            conn,
            platform="bluesky",
            kind="profiles",
            lane="core",
            batch=BATCH,
            now=now,
            lease_until=lease_until,
            job_id=str(uuid.uuid4()),
        )
        assert claimed is not None
        job = claims.take(conn, job_id=claimed.job_id, now=now, lease_until=lease_until)
    assert job is not None and len(job.accounts) == BATCH
    return job


def _save(engine: Engine, job: Job, followers: int) -> None:
    now = datetime.now(UTC)
    profiles = [
        Profile(
            account_key=a.account_key, external_id=f"did:plc:{a.account_key}", handle=a.handle, followers=followers
        )
        for a in job.accounts
    ]
    nexts = [decide(Outcome(a.account_key, "ok"), 0, now, POLICY, 0.5) for a in job.accounts]
    with transaction(engine) as conn:
        assert writes.save(conn, job, nexts=nexts, profiles=profiles, source="simulated", now=now) is not None
