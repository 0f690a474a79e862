"""Claims, leases and the state of jobs, against a real PostgreSQL and with real concurrency."""

import json
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from db import claims, explained, writes
from db.claims import Requested
from db.engine import Connection, Engine, reading, transaction
from db.rows import Job
from tests.fakes import NOON, job_ids
from tests.jobs import LEASE, claimed, decided, listed, requested, running, said, saved, until_one_waits_for_a_lock

LATER = NOON + LEASE
BATCHES = {("x", "profiles"): 100, ("x", "posts"): 1}


def _keys(job: Job | None) -> list[int]:
    return [account.account_key for account in job.accounts] if job else []


def _set(conn: Connection, key: int, **values: object) -> None:
    """Change columns of an account's scrape_state."""
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    conn.execute(text(f"UPDATE scrape_state SET {assignments} WHERE account_key = :key"), {"key": key, **values})


def _state(conn: Connection, key: int) -> Any:
    return conn.execute(text("SELECT * FROM scrape_state WHERE account_key = :key"), {"key": key}).one()


def _row(conn: Connection, job: Job) -> Any:
    return conn.execute(text("SELECT * FROM scrape_job WHERE job_id = :id"), {"id": job.job_id}).one()


def _ask(conn: Connection, keys: Sequence[int], **changed: Any) -> Requested:
    values: dict[str, Any] = {
        "account_keys": keys,
        "batches": BATCHES,
        "now": NOON,
        "lease_until": LATER,
        "new_job_id": job_ids(),
        "requested_by": "a person",
    }
    return claims.claim_requested(conn, **values | changed)


def test_one_planner_plans_at_a_time(engine: Engine) -> None:
    with transaction(engine) as first, transaction(engine) as second:
        assert claims.try_plan_lock(first)
        assert not claims.try_plan_lock(second)
    with transaction(engine) as third:
        assert claims.try_plan_lock(third)


def test_core_accounts_come_first_then_the_longest_due(engine: Engine) -> None:
    with transaction(engine) as conn:
        late, later, latest = (
            listed(conn, handle, now=NOON - timedelta(hours=hours))[0]
            for handle, hours in (("late", 1), ("later", 2), ("latest", 3))
        )
        core = listed(conn, "core", is_core_account=True)[0]
        order = [_keys(claimed(conn, batch=1)) for _ in range(5)]
    assert order == [[core], [latest], [later], [late], []]


def test_a_claimed_job_carries_its_accounts_and_stands_in_the_database(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "Name", platform="bluesky", external_id="did:plc:abc")[0]
        job = claimed(conn, platform="bluesky")
        assert job is not None
        row, state = _row(conn, job), _state(conn, key)
    assert job.accounts[0].handle == "Name"
    assert (job.accounts[0].platform, job.accounts[0].external_id) == ("bluesky", "did:plc:abc")
    assert (job.lane, job.attempt, job.page, job.failures) == ("core", 0, 1, {key: 0})
    assert (row.state, row.accounts, row.lease_until, row.created_at) == ("queued", [key], LATER, NOON)
    assert state.job_id == uuid.UUID(job.job_id)


def test_several_jobs_are_claimed_at_once_the_most_urgent_in_the_first_and_each_full(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = [listed(conn, f"due{n}", now=NOON - timedelta(hours=9 - n))[0] for n in range(7)]
        ids = [str(uuid.uuid4()) for _ in range(4)]
        jobs = claims.claim_due(
            conn,
            platform="x",
            kind="profiles",
            lane="core",
            batch=3,
            now=NOON,
            lease_until=LATER,
            job_ids=ids,
        )
    assert [(job.job_id, _keys(job)) for job in jobs] == [(ids[0], keys[:3]), (ids[1], keys[3:6]), (ids[2], keys[6:])]


def test_accounts_that_are_not_due_or_inactive_or_on_their_way_are_not_claimed(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "tomorrow", now=NOON + timedelta(days=1))
        listed(conn, "inactive", is_active=False)
        listed(conn, "busy")
        assert claimed(conn) is not None
        assert claimed(conn) is None


def test_an_account_whose_last_attempt_failed_goes_to_the_retry_lane(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "failing")[0]
        _set(conn, key, failures=2)
        assert claimed(conn) is None
        (job,) = claims.claim_due(
            conn,
            platform="x",
            kind="profiles",
            lane="retry",
            batch=10,
            now=NOON,
            lease_until=LATER,
            job_ids=[str(uuid.uuid4())],
        )
    assert (job.lane, job.failures) == ("retry", {key: 2})


def test_a_job_holds_accounts_of_one_host_only(engine: Engine) -> None:
    with transaction(engine) as conn:
        here = listed(conn, "a", "c", platform="mastodon", host="one.example", now=NOON - timedelta(minutes=1))
        there = listed(conn, "b", platform="mastodon", host="two.example")
        assert _keys(claimed(conn, platform="mastodon")) == here
        assert _keys(claimed(conn, platform="mastodon")) == there


def test_concurrent_planners_never_claim_the_same_account(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, *(f"account{n}" for n in range(300)))
    together = threading.Barrier(4)

    def plan(_: int) -> list[int]:
        mine: list[int] = []
        together.wait(10)
        while True:
            with transaction(engine) as conn:
                job = claimed(conn, batch=7)
            if job is None:
                return mine
            mine += _keys(job)

    with ThreadPoolExecutor(4) as pool:
        found = [key for mine in pool.map(plan, range(4)) for key in mine]
    assert sorted(found) == sorted(keys)


def test_a_claim_that_is_rolled_back_leaves_its_accounts_due(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b")
    with pytest.raises(ZeroDivisionError), transaction(engine) as conn:
        claimed(conn)
        raise ZeroDivisionError
    with transaction(engine) as conn:
        assert _keys(claimed(conn)) == keys


def _plan(engine: Engine, **claim: Any) -> dict[str, Any]:
    """Return how PostgreSQL carries out a claim, with what it reads; the claim itself is taken back."""
    plans: list[dict[str, Any]] = []

    def explained(conn: Connection, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if "SKIP LOCKED" in statement and not statement.startswith("EXPLAIN"):
            with conn.connection.cursor() as cursor:
                cursor.execute("SAVEPOINT before")
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
                plans.append(cursor.fetchone()[0][0]["Plan"])
                cursor.execute("ROLLBACK TO before")

    event.listen(engine, "before_cursor_execute", explained)
    with engine.connect() as conn:
        claimed(conn, **claim)
        conn.rollback()
    event.remove(engine, "before_cursor_execute", explained)
    return plans[0]


def _entries_read(engine: Engine, **claim: Any) -> int:
    """Return how many rows of scrape_state a claim reads, kept or passed over."""

    def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
        own = [plan] if plan.get("Relation Name") == "scrape_state" and "Scan" in plan["Node Type"] else []
        return own + [scan for part in plan.get("Plans", ()) for scan in scans(part)]

    plan = _plan(engine, **claim)
    found = scans(plan)
    assert found, json.dumps(plan)
    return sum(scan["Actual Loops"] * (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) for scan in found)


def _blocks_read(engine: Engine, **claim: Any) -> int:
    """Return how many blocks a claim reads, those that were found in memory too."""
    plan = _plan(engine, **claim)
    blocks: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return blocks


def _fill(engine: Engine, count: int, *, hosts: int = 0, leased: int = 0) -> None:
    """List many accounts as due, spread over the day before and many hosts or none; so many of them are on their way."""
    platform, host = ("mastodon", f"'server' || n % {hosts} || '.example'") if hosts else ("x", "''")
    with transaction(engine) as conn:
        conn.execute(
            text(f"""
                WITH added AS (
                    INSERT INTO dim_account (platform, host, handle, url)
                    SELECT '{platform}', {host}, gen_random_uuid()::text, 'https://many.example' FROM generate_series(1, :count) n
                    RETURNING account_key, platform, host
                )
                INSERT INTO scrape_state (account_key, subject, platform, host, kind, next_due_at, job_id)
                SELECT account_key, 'profile', platform, host, 'profiles',
                       CAST(:now AS timestamptz) - account_key % 86400 * interval '1 second',
                       CASE WHEN row_number() OVER () <= :leased THEN gen_random_uuid() END
                FROM added
            """),
            {"count": count, "now": NOON, "leased": leased},
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE dim_account, scrape_state"))


@pytest.mark.parametrize(
    ("platform", "more"),
    [("x", {}), ("x", {"leased": 90_000}), ("mastodon", {"hosts": 1}), ("mastodon", {"hosts": 20_000})],
    ids=["one platform", "most on their way", "all of one host", "of many hosts"],
)
def test_a_claim_costs_the_same_however_many_accounts_are_due(
    engine: Engine, platform: str, more: dict[str, int]
) -> None:
    few = {"hosts": 400} if more.get("hosts", 0) > 1 else more | ({"leased": 1_800} if "leased" in more else {})
    _fill(engine, 2_000, **few)
    small = _blocks_read(engine, platform=platform, batch=100)
    _fill(engine, 98_000, **more)

    # An index of fifty times as many entries has one more level.
    assert _blocks_read(engine, platform=platform, batch=100) <= 1.5 * small + 50


def test_claims_do_not_get_dearer_by_what_was_claimed_and_read_before_them(engine: Engine) -> None:
    _fill(engine, 20_000)

    def sweep(batches: int) -> None:
        for _ in range(batches):
            with transaction(engine) as conn:
                saved(conn, running(conn))

    sweep(1)
    early = _blocks_read(engine)
    sweep(100)

    assert _blocks_read(engine) <= 1.5 * early + 50


def test_what_is_due_is_told_by_call_and_lane_at_a_price_that_does_not_grow(engine: Engine) -> None:
    _fill(engine, 20_000)
    with transaction(engine) as conn:
        failing = listed(conn, "failing", platform="bluesky")[0]
        _set(conn, failing, failures=1)
        listed(conn, "later", platform="youtube", now=NOON + timedelta(minutes=1))
        listed(conn, "core", platform="tiktok", is_core_account=True)
        asked: list[claims.Call] = [(name, "profiles") for name in ("x", "bluesky", "youtube", "tiktok", "reddit")]

        assert claims.due(conn, asked, now=NOON) == {
            ("x", "profiles"): ("core",),
            ("bluesky", "profiles"): ("retry",),
            ("tiktok", "profiles"): ("core",),
        }
        assert claims.due(conn, [], now=NOON) == {}
        assert conn.scalar(text("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'scrape_state'")) == 0


def test_how_long_what_is_due_waits_is_told_by_platform_and_lane(engine: Engine) -> None:
    calls = [("x", "profiles"), ("x", "posts"), ("youtube", "profiles")]
    with transaction(engine) as conn:
        listed(conn, "late", now=NOON - timedelta(hours=1), is_core_account=True)
        failed = listed(conn, "failed", "soon", now=NOON + timedelta(hours=1))[0]
        _set(conn, failed, failures=2, next_due_at=NOON - timedelta(minutes=5))
        listed(conn, "paused", platform="youtube", is_active=False)
        found = claims.overdue_s(conn, calls, now=NOON)
        assert claims.overdue_s(conn, [], now=NOON) == {}
    waits = {("x", "core"): 3600.0, ("x", "retry"): 300.0, ("youtube", "core"): 0.0, ("youtube", "retry"): 0.0}
    assert found == waits


def test_what_a_claim_reads_does_not_grow_with_the_table(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, *(f"later{n}" for n in range(16_000)), now=NOON + timedelta(hours=1))
        listed(conn, *(f"core{n}" for n in range(2_000)), is_core_account=True, now=NOON + timedelta(hours=1))
        listed(conn, *(f"other{n}" for n in range(2_000)), platform="bluesky")
        listed(conn, *(f"due{n}" for n in range(1_000)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE scrape_state"))
    # The head, the batch, and the batch again to update it.
    assert _entries_read(engine, batch=50) <= 1 + 50 + 50


def test_what_a_claim_reads_does_not_grow_with_the_accounts_of_other_hosts(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "head", platform="mastodon", host="small.example", now=NOON - timedelta(days=1))
        for host in ("one.example", "two.example"):
            listed(conn, *(f"due{n}" for n in range(5_000)), platform="mastodon", host=host)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE scrape_state"))
    assert _entries_read(engine, platform="mastodon", batch=40) <= 3


def test_what_a_person_asks_for_is_claimed_whatever_its_due_time(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b", now=NOON + timedelta(days=1))
        found = _ask(conn, keys)
        row = _row(conn, found.jobs[0])
    assert [_keys(job) for job in found.jobs] == [keys]
    assert found.jobs[0].lane == "user_requested"
    assert (row.lane, row.state, row.requested_by, row.lease_until) == ("user_requested", "queued", "a person", LATER)


def test_accounts_asked_for_are_batched_by_platform_kind_and_host(engine: Engine) -> None:
    with transaction(engine) as conn:
        x = listed(conn, "a", "b", "c")
        unknown = listed(conn, "d", kind="resolve")
        one = listed(conn, "e", "f", platform="mastodon", host="one.example")
        two = listed(conn, "g", platform="mastodon", host="two.example")
        batches = {("x", "profiles"): 2, ("x", "resolve"): 2, ("mastodon", "profiles"): 40}
        found = _ask(conn, [*two, *one, *unknown, *x], batches=batches)
    assert sorted(_keys(job) for job in found.jobs) == sorted([x[:2], x[2:], unknown, one, two])


def test_accounts_that_nothing_reads_are_left_out(engine: Engine) -> None:
    with transaction(engine) as conn:
        found = _ask(conn, listed(conn, "a", platform="linkedin"))
    assert found == Requested([], {})


def test_an_account_on_its_way_joins_its_job(engine: Engine) -> None:
    with transaction(engine) as conn:
        busy = listed(conn, "busy")
        job = claimed(conn)
        assert job is not None
        free = listed(conn, "free")
        found = _ask(conn, [*busy, *free])
    assert found.joined == {busy[0]: job.job_id}
    assert [_keys(job) for job in found.jobs] == [free]


def test_who_asks_for_accounts_that_another_is_just_claiming_waits_and_joins(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b")

    def ask() -> Requested:
        with transaction(engine) as conn:
            return _ask(conn, keys)

    with ThreadPoolExecutor(1) as pool:
        with transaction(engine) as conn:
            first = _ask(conn, keys)
            second = pool.submit(ask)
            until_one_waits_for_a_lock(engine)
        assert second.result(10) == Requested([], dict.fromkeys(keys, first.jobs[0].job_id))


def test_people_who_ask_for_the_same_accounts_at_once_share_their_jobs(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, *(f"account{n}" for n in range(50)))
    together = threading.Barrier(4)

    def ask(turn: int) -> Requested:
        together.wait(10)
        with transaction(engine) as conn:
            return _ask(conn, keys if turn % 2 else keys[::-1])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    jobs = [job for one in found for job in one.jobs]
    assert sorted(key for job in jobs for key in _keys(job)) == sorted(keys)
    for one in found:
        assert sorted([*one.joined, *(key for job in one.jobs for key in _keys(job))]) == sorted(keys)


def test_a_second_delivery_finds_nothing_to_do(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        job = running(conn)
        assert (job.attempt, _row(conn, job).state, _row(conn, job).started_at) == (1, "running", NOON)
        assert claims.take(conn, job_id=job.job_id, now=NOON, lease_until=LATER) is None
        assert claims.take(conn, job_id=str(uuid.uuid4()), now=NOON, lease_until=LATER) is None


def test_of_concurrent_deliveries_one_gets_the_job(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        job = claimed(conn)
    assert job is not None
    together = threading.Barrier(4)

    def take(_: int) -> Job | None:
        together.wait(10)
        with transaction(engine) as conn:
            return claims.take(conn, job_id=job.job_id, now=NOON, lease_until=LATER)

    with ThreadPoolExecutor(4) as pool:
        assert sum(taken is not None for taken in pool.map(take, range(4))) == 1


def test_only_a_finished_job_says_which_accounts_to_purge_again(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b")
        job = running(conn)
        assert claims.finished_accounts(conn, job.job_id) == ()
        saved(conn, job, said(job))
        assert claims.finished_accounts(conn, job.job_id) == tuple(keys)
        assert claims.finished_accounts(conn, str(uuid.uuid4())) == ()


def test_a_job_given_back_costs_no_attempt_and_goes_out_when_its_pause_ends(engine: Engine) -> None:
    until = NOON + timedelta(hours=1)
    with transaction(engine) as conn:
        listed(conn, "a")
        job = running(conn)
        assert claims.release(conn, job, until=until)
        assert (_row(conn, job).state, _row(conn, job).attempt) == ("queued", 0)
        assert _expire(conn, until - timedelta(seconds=1)).again == []
        again = _expire(conn, until).again
    assert [(one.job_id, one.lane, one.attempt) for one in again] == [(job.job_id, "core", 0)]


def test_a_worker_cannot_give_back_what_is_not_its_own_any_more(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        first = running(conn)
        _expire(conn, LATER)
        second = claims.take(conn, job_id=first.job_id, now=LATER, lease_until=LATER + LEASE)
        assert second is not None
        assert not claims.release(conn, first, until=LATER)
        assert claims.release(conn, second, until=LATER)


def _expire(conn: Connection, now: Any, *, max_attempts: int = 3, wanted: int = 10) -> claims.Expired:
    return claims.expired(
        conn,
        wanted={("x", "profiles"): wanted},
        now=now,
        lease_until=now + LEASE,
        max_attempts=max_attempts,
    )


def test_a_job_whose_lease_ended_goes_out_again_in_the_retry_lane(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b")
        job = running(conn)
        assert _expire(conn, LATER - timedelta(seconds=1)) == claims.Expired([], [])
        found = _expire(conn, LATER)
        assert _expire(conn, LATER) == claims.Expired([], []), "it has a new lease"
        row = _row(conn, job)
    assert found.dead == []
    assert [(one.job_id, one.lane, _keys(one)) for one in found.again] == [(job.job_id, "retry", keys)]
    assert (row.state, row.attempt, row.lease_until) == ("queued", 1, LATER + LEASE)


def test_a_job_that_never_began_keeps_its_lane(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        claimed(conn)
        assert [job.lane for job in _expire(conn, LATER).again] == ["core"]


def test_what_a_person_waits_for_stays_in_its_lane(engine: Engine) -> None:
    with transaction(engine) as conn:
        requested(conn, listed(conn, "a"))
        assert [job.lane for job in _expire(conn, LATER).again] == ["user_requested"]


def test_a_job_begun_too_often_is_dead_and_only_its_finder_can_finish_it(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a")
        zombie = running(conn)
        found = _expire(conn, LATER, max_attempts=1)
        dead = found.dead[0]
        assert (found.again, _keys(dead), dead.attempt) == ([], keys, 2)
        assert saved(conn, zombie, said(zombie)) is None
        assert claims.take(conn, job_id=dead.job_id, now=LATER, lease_until=LATER) is None
        assert saved(conn, dead) is not None
        assert _expire(conn, LATER + LEASE) == claims.Expired([], [])


def test_a_job_whose_accounts_were_deleted_ends_too(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        job = claimed(conn)
        assert job is not None
        conn.execute(text("DELETE FROM dim_account"))
        assert claims.take(conn, job_id=job.job_id, now=NOON, lease_until=LATER) is None
        dead = _expire(conn, LATER, max_attempts=1).dead[0]
        assert dead.accounts == ()
        assert saved(conn, dead) is not None
        assert _row(conn, job).state == "failed"


def test_of_jobs_that_only_wait_no_more_come_again_than_wanted_people_s_and_the_oldest_first(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, *"abc")
        waiting = [claimed(conn, batch=1, now=NOON + timedelta(seconds=n)) for n in range(3)]
        asked = _ask(conn, listed(conn, "d", now=NOON + timedelta(days=1)), lease_until=LATER + timedelta(seconds=5))
        now = LATER + timedelta(seconds=10)
        order = [job.job_id for _ in range(5) for job in _expire(conn, now, wanted=1).again]
    assert order == [asked.jobs[0].job_id, *(job.job_id for job in waiting if job)]


def test_a_job_that_was_begun_comes_again_at_once_even_where_nothing_more_is_wanted(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        job = running(conn)
        assert [one.job_id for one in _expire(conn, LATER, wanted=0).again] == [job.job_id]


def test_expired_jobs_are_given_to_one_planner_and_no_more_than_asked_for(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, *"abcd")
        for _ in range(4):
            claimed(conn, batch=1)
    with transaction(engine) as first, transaction(engine) as second:
        mine, others = _expire(first, LATER, wanted=3).again, _expire(second, LATER).again
    assert (len(mine), len(others)) == (3, 1)
    assert {job.job_id for job in mine}.isdisjoint(job.job_id for job in others)


def test_the_backlog_counts_queued_jobs_by_platform_and_kind(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, *"abc")
        listed(conn, "d", kind="resolve")
        running(conn, batch=1)
        claimed(conn, batch=1)
        claimed(conn, batch=1)
        claimed(conn, kind="resolve")
        assert claims.backlog(conn) == {("x", "profiles"): 2, ("x", "resolve"): 1}
        assert claims.backlog(conn, leased_at=NOON) == claims.backlog(conn)
        assert claims.backlog(conn, leased_at=LATER) == {}


def test_accounts_of_a_platform_that_cannot_be_read_say_why_once(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        listed(conn, "other", platform="bluesky")
        assert explained.explain(conn, platform="x", result="blocked", reason="needs A_KEY") == 1
        assert explained.explain(conn, platform="x", result="blocked", reason="needs A_KEY") == 0
        state = _state(conn, key)
        assert (state.result, state.reason, state.next_due_at) == ("blocked", "needs A_KEY", NOON)
        assert explained.explain(conn, platform="x", result=None, reason="no reader yet") == 1
        assert (_state(conn, key).result, _state(conn, key).reason) == (None, "no reader yet")


def test_an_account_on_its_way_is_not_explained(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        claimed(conn)
        assert explained.explain(conn, platform="x", result="blocked", reason="needs A_KEY") == 0


def test_an_account_read_before_its_key_was_gone_is_ok_again_with_the_key(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        saved(conn, job := running(conn), said(job))
        before = _profile_state(conn, key)
        explained.explain(conn, platform="x", result="blocked", reason="needs A_KEY")
        assert _profile_state(conn, key).result == "blocked"
        assert explained.clear(conn, platform="x") == 1
        assert _profile_state(conn, key) == before
        assert explained.clear(conn, platform="x") == 0


def test_an_account_whose_last_attempt_failed_is_due_at_once_when_the_key_is_back(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        paused = listed(conn, "paused", is_active=False)[0]
        _set(conn, key, result="gone", failures=3, last_attempt_at=NOON, next_due_at=NOON + timedelta(days=30))
        explained.explain(conn, platform="x", result="blocked", reason="needs A_KEY")
        explained.clear(conn, platform="x")
        state = _state(conn, key)
        assert (state.result, state.reason, state.next_due_at, state.failures) == (None, None, NOON, 3)
        assert (
            conn.scalar(text("SELECT isfinite(next_due_at) FROM scrape_state WHERE account_key = :k"), {"k": paused})
            is False
        )


def test_an_account_that_was_never_read_is_due_as_before_when_the_key_comes(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        explained.explain(conn, platform="x", result="blocked", reason="needs A_KEY")
        assert explained.clear(conn, platform="x") == 1
        state = _state(conn, key)
        assert (state.result, state.reason, state.next_due_at) == (None, None, NOON)


def test_what_an_attempt_said_is_not_taken_for_an_explanation(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        explained.explain(conn, platform="x", result="blocked", reason="needs A_KEY")
        job = running(conn)
        writes.save(conn, job, nexts=decided(job, "blocked", "A_KEY was refused"), source="live", now=NOON)
        assert explained.clear(conn, platform="x") == 0
        assert _state(conn, key).reason == "A_KEY was refused"


def _profile_state(conn: Connection, key: int) -> Any:
    return conn.execute(
        text("SELECT * FROM scrape_state WHERE account_key = :key AND subject = 'profile'"), {"key": key}
    ).one()


def test_only_finished_jobs_older_than_the_limit_are_pruned(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, *"abc")
        saved(conn, running(conn, batch=1))
        kept_open = claimed(conn, batch=1)
        saved(conn, young := running(conn, batch=1, now=NOON + timedelta(days=1)))
        assert claims.prune(conn, before=NOON + timedelta(hours=1)) == 1
    with reading(engine) as conn:
        left = {str(job_id) for job_id in conn.scalars(text("SELECT job_id FROM scrape_job"))}
    assert kept_open is not None
    assert left == {kept_open.job_id, young.job_id}
