"""Accounts and jobs for tests of the database: listed as an import lists them, claimed as the planner claims."""

import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from db import accounts, claims, writes
from db.accounts import Facts, New, Sought
from db.engine import Connection, Engine, reading
from db.rows import Changes, Job, Kind, Next, Profile, Result
from tests.fakes import NOON

LEASE = timedelta(minutes=2)


def listed(
    conn: Connection,
    *handles: str,
    platform: str = "x",
    host: str = "",
    kind: Kind = "profiles",
    external_id: str | None = None,
    now: datetime = NOON,
    **facts: Any,
) -> list[int]:
    """List accounts, each due at `now`; return their keys in the order of the handles."""
    wanted = [Sought(platform, handle, host, external_id) for handle in handles]
    urls = [f"https://{platform}.example/{external_id or one.handle}" for one in wanted]
    accounts.add(conn, [New(one, url, Facts(**facts), kind) for one, url in zip(wanted, urls, strict=True)], now=now)
    keys = accounts.find_each(conn, wanted)
    assert None not in keys
    return keys  # type: ignore[return-value]  # said above


def claimed(
    conn: Connection, *, platform: str = "x", kind: Kind = "profiles", batch: int = 100, now: datetime = NOON
) -> Job | None:
    """Claim one job of what is due in the core lane."""
    found = claims.claim_due(
        conn,
        platform=platform,
        kind=kind,
        lane="core",
        batch=batch,
        one_host=platform == "mastodon",
        now=now,
        lease_until=now + LEASE,
        job_ids=[str(uuid.uuid4())],
    )
    return found[0] if found else None


def running(conn: Connection, **claim: Any) -> Job:
    """Claim what is due in the core lane, and begin it."""
    job = claimed(conn, **claim)
    assert job is not None, "nothing is due"
    now = claim.get("now", NOON)
    job = claims.take(conn, job_id=job.job_id, now=now, lease_until=now + LEASE)
    assert job is not None
    return job


def requested(conn: Connection, keys: Sequence[int], *, now: datetime = NOON) -> Job:
    """Ask for profiles of x as a person does, and begin the job."""
    found = claims.claim_requested(
        conn,
        account_keys=keys,
        batches={("x", "profiles"): 100, ("x", "resolve"): 100},
        now=now,
        lease_until=now + LEASE,
        new_job_id=lambda: str(uuid.uuid4()),
        requested_by="a test",
    )
    job = claims.take(conn, job_id=found.jobs[0].job_id, now=now, lease_until=now + LEASE)
    assert job is not None
    return job


def said(job: Job, followers: int | None = 100, **fields: Any) -> list[Profile]:
    """Return a profile for every account of a job, its id made of its key."""
    return [
        Profile(
            account_key=account.account_key,
            **{
                "external_id": f"id-{account.account_key}",
                "handle": account.handle,
                "followers": followers,
                **fields,
            },
        )
        for account in job.accounts
    ]


def decided(job: Job, result: Result = "ok", reason: str | None = None, *, now: datetime = NOON) -> list[Next]:
    """Return the same decision for every account of a job, due a day later."""
    return [
        Next(
            account_key=account.account_key,
            result=result,
            reason=reason,
            failures=0 if result == "ok" else job.failures[account.account_key] + 1,
            due_at=now + timedelta(days=1),
        )
        for account in job.accounts
    ]


def saved(conn: Connection, job: Job, profiles: Sequence[Profile] = (), *, now: datetime = NOON) -> Changes | None:
    """Save a job whose accounts were all read well."""
    return writes.save(conn, job, nexts=decided(job, now=now), profiles=profiles, source="simulated", now=now)


def until_one_waits_for_a_lock(engine: Engine) -> None:
    """Return when a transaction of this test's database waits for another."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with reading(engine) as conn:
            if conn.scalar(waiting):
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")
