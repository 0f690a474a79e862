"""Saving a job: everything it brought in one transaction, against a real PostgreSQL."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import event, text

from db import accounts, claims, dataset, metrics, pauses, writes
from db.engine import Connection, Engine, reading, transaction
from db.metrics import Counted, Sample
from db.rows import Changes, Job, Post
from tests.fakes import NOON
from tests.jobs import LEASE, decided, listed, requested, running, said, saved, until_one_waits_for_a_lock

TODAY = NOON.date()
COUNTED = "platform, org_name, snapshot_date, snapshots"


def _rows(conn: Connection, sql: str, **values: Any) -> list[Any]:
    return list(conn.execute(text(sql), values))


def _one(conn: Connection, sql: str, **values: Any) -> Any:
    return conn.execute(text(sql), values).one()


def _latest(conn: Connection, key: int) -> Any:
    return _one(conn, "SELECT * FROM account_latest WHERE account_key = :key", key=key)


def _state(conn: Connection, key: int, subject: str = "profile") -> Any:
    return _one(conn, "SELECT * FROM scrape_state WHERE account_key = :key AND subject = :s", key=key, s=subject)


def _account(conn: Connection, key: int) -> Any:
    return _one(conn, "SELECT * FROM dim_account WHERE account_key = :key", key=key)


def _read(
    conn: Connection, key: int, followers: int | None, *, now: datetime = NOON, **fields: Any
) -> Changes | None:
    """Ask for one account and save what its profile said."""
    job = requested(conn, [key], now=now)
    return saved(conn, job, said(job, followers, **fields), now=now)


def _posts_job(conn: Connection) -> Job:
    return running(conn, kind="posts", batch=1)


def _post(post_id: str = "p1", *, days_ago: float = 1, **numbers: int | None) -> Post:
    return Post(
        post_id=post_id,
        url=f"https://x.example/{post_id}",
        published_at=NOON - timedelta(days=days_ago),
        post_type="post",
        text="Words",
        **numbers,
    )


def _save_posts(conn: Connection, job: Job, *posts: Post, now: datetime = NOON, **options: Any) -> Changes | None:
    pages = {job.accounts[0].account_key: posts}
    return writes.save(conn, job, nexts=decided(job, now=now), posts=pages, source="simulated", now=now, **options)


# Jobs


def test_a_good_job_succeeds_and_says_what_it_changed(engine: Engine) -> None:
    with transaction(engine) as conn:
        first, second = listed(conn, "a", "b")
        job = running(conn)
        changes = saved(conn, job, said(job))
        row = _one(conn, "SELECT * FROM scrape_job")
    assert changes == Changes(
        frozenset({f"account:{first}", f"account:{second}", "platform:x", "summary", "accounts", "jobs", "grid"}),
        snapshots=2,
    )
    assert (row.state, row.reason, row.finished_at) == ("succeeded", None, NOON)
    assert row.outcomes == [{"account_key": key, "result": "ok", "reason": None} for key in (first, second)]


def test_a_job_says_how_many_failed_and_why_most_of_them_did(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, *"abcd")
        job = running(conn)
        bad = [decided(job, "failed", reason) for reason in ("timed out", "gone away", "timed out")]
        nexts = [bad[0][0], bad[1][1], bad[2][2], decided(job)[3]]
        writes.save(conn, job, nexts=nexts, profiles=said(job)[3:], source="live", now=NOON)
        partly = _one(conn, "SELECT state, reason FROM scrape_job")
        listed(conn, "e")
        all_failed = running(conn)
        writes.save(conn, all_failed, nexts=decided(all_failed, "failed", "timed out"), source="live", now=NOON)
        failed = _one(conn, "SELECT state FROM scrape_job WHERE job_id = :id", id=all_failed.job_id)
    assert tuple(partly) == ("partly_failed", "timed out")
    assert failed.state == "failed"


def test_a_zombie_writes_nothing_after_its_job_was_given_on(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        zombie = running(conn)
        claims.expired(conn, now=NOON + LEASE, lease_until=NOON + 2 * LEASE, max_attempts=3)
        heir = claims.take(conn, job_id=zombie.job_id, now=NOON + LEASE, lease_until=NOON + 2 * LEASE)
        assert heir is not None
        assert saved(conn, zombie, said(zombie, 1, handle="other", bio="a zombie's")) is None
        for table in ("fact_followers_snapshot", "account_latest", "day_count", "dataset"):
            assert _one(conn, f"SELECT count(*) FROM {table}")[0] == 0, table
        assert (_account(conn, key).handle, _account(conn, key).bio, _state(conn, key).result) == ("a", None, None)
        assert saved(conn, heir, said(heir, 2)) is not None
        assert saved(conn, heir, said(heir, 3)) is None, "it is finished"
        assert _latest(conn, key).followers == 2


def test_of_two_workers_with_one_attempt_one_saves(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        job = running(conn)
    together = threading.Barrier(2)

    def save(followers: int) -> Changes | None:
        together.wait(10)
        with transaction(engine) as conn:
            return saved(conn, job, said(job, followers))

    with ThreadPoolExecutor(2) as pool:
        assert sum(changes is not None for changes in pool.map(save, (1, 2))) == 1
    with reading(engine) as conn:
        assert _one(conn, "SELECT snapshots FROM day_count WHERE platform = 'x'").snapshots == 1


def test_a_save_that_is_rolled_back_leaves_nothing(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        job = running(conn)
    with pytest.raises(ZeroDivisionError), transaction(engine) as conn:
        saved(conn, job, said(job))
        raise ZeroDivisionError
    with transaction(engine) as conn:
        assert _rows(conn, "SELECT * FROM fact_followers_snapshot") == []
        assert str(_state(conn, key).job_id) == job.job_id
        assert saved(conn, job, said(job)) is not None


def test_a_decision_for_every_account_of_the_job_is_demanded(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a", "b")
        job = running(conn)
        with pytest.raises(AssertionError):
            writes.save(conn, job, nexts=decided(job)[:1], source="live", now=NOON)


# Snapshots


def test_a_reading_becomes_the_snapshot_of_its_utc_day_and_the_newest(engine: Engine) -> None:
    late = NOON.replace(hour=23, minute=59, second=59)
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1_000, now=late, following=5, posts=7, precision="rounded")
        snapshot = _one(conn, "SELECT * FROM fact_followers_snapshot")
        latest = _latest(conn, key)
    assert (snapshot.snapshot_date, snapshot.captured_at) == (TODAY, late)
    assert (snapshot.followers, snapshot.following, snapshot.posts, snapshot.engagement) == (1_000, 5, 7, None)
    assert (snapshot.source, snapshot.precision) == ("simulated", "rounded")
    shared = [name for name in snapshot._fields if name in latest._fields]
    assert [getattr(latest, name) for name in shared] == [getattr(snapshot, name) for name in shared]


def test_a_second_reading_of_the_day_updates_the_one_row(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 10)
        changes = _read(conn, key, 11, now=NOON + timedelta(hours=1))
        assert changes is not None
        assert changes.snapshots == 1
        assert [row.followers for row in _rows(conn, "SELECT * FROM fact_followers_snapshot")] == [11]
        assert _latest(conn, key).followers == 11
        assert sorted(tuple(row) for row in _rows(conn, f"SELECT {COUNTED} FROM day_count")) == [
            ("", "", TODAY, 1),
            ("x", "", TODAY, 1),
        ]


def test_an_older_reading_never_replaces_a_newer_one(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 11, now=NOON + timedelta(hours=1))
        _read(conn, key, 10)
        assert [row.followers for row in _rows(conn, "SELECT * FROM fact_followers_snapshot")] == [11]
        assert _latest(conn, key).followers == 11
        _read(conn, key, 9, now=NOON - timedelta(days=1))
        assert _latest(conn, key).followers == 11
        assert _rows(conn, "SELECT * FROM fact_followers_snapshot WHERE followers = 9") != []


def test_unknown_stays_null_and_zero_stays_zero(engine: Engine) -> None:
    with transaction(engine) as conn:
        nothing, zero = listed(conn, "nothing", "zero")
        _read(conn, nothing, None, precision="hidden")
        _read(conn, zero, 0, following=0, posts=0)
        for table in ("fact_followers_snapshot", "account_latest"):
            found = {
                row.account_key: (row.followers, row.following, row.posts)
                for row in _rows(conn, f"SELECT * FROM {table}")
            }
            assert found == {nothing: (None, None, None), zero: (0, 0, 0)}, table


def test_a_failed_attempt_writes_no_snapshot_and_no_zero(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 10)
        tomorrow = NOON + timedelta(days=1)
        job = requested(conn, [key], now=tomorrow)
        writes.save(conn, job, nexts=decided(job, "failed", "timed out"), source="simulated", now=tomorrow)
        assert [row.snapshot_date for row in _rows(conn, "SELECT * FROM fact_followers_snapshot")] == [TODAY]
        assert _latest(conn, key).followers == 10


def test_deltas_are_against_exactly_so_many_days_before(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        for days_ago, followers in ((30, 100), (8, 150), (7, None), (1, 210), (0, 200)):
            _read(conn, key, followers, now=NOON - timedelta(days=days_ago))
        latest = _latest(conn, key)
    assert (latest.delta_1d, latest.delta_7d, latest.delta_30d) == (-10, None, 100)


def test_deltas_are_unknown_across_a_gap_and_for_an_unknown_count(engine: Engine) -> None:
    with transaction(engine) as conn:
        gap, hidden = listed(conn, "gap", "hidden")
        _read(conn, gap, 100, now=NOON - timedelta(days=2))
        _read(conn, gap, 200)
        assert _latest(conn, gap).delta_1d is None
        _read(conn, hidden, 100, now=NOON - timedelta(days=1))
        _read(conn, hidden, None)
        assert _latest(conn, hidden).delta_1d is None


def test_a_day_that_is_read_twice_keeps_its_deltas_right(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 100, now=NOON - timedelta(days=1))
        _read(conn, key, 110)
        _read(conn, key, 130, now=NOON + timedelta(hours=2))
        assert _latest(conn, key).delta_1d == 30


def test_days_are_counted_by_platform(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a", "b")
        listed(conn, "c", platform="bluesky")
        for platform in ("x", "bluesky"):
            job = running(conn, platform=platform)
            saved(conn, job, said(job))
        keys = [row.account_key for row in _rows(conn, "SELECT account_key FROM dim_account WHERE handle = 'a'")]
        _read(conn, keys[0], 5, now=NOON + timedelta(days=1))
        found = {(row.snapshot_date, row.platform): row.snapshots for row in _rows(conn, "SELECT * FROM day_count")}
    tomorrow = TODAY + timedelta(days=1)
    of_all = {(TODAY, ""): 3, (tomorrow, ""): 1}
    assert found == {(TODAY, "x"): 2, (TODAY, "bluesky"): 1, (tomorrow, "x"): 1, **of_all}


def test_concurrent_jobs_of_a_platform_all_count(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, *(f"account{n}" for n in range(8)))
        jobs = [running(conn, batch=1) for _ in range(8)]

    def save(job: Job) -> None:
        with transaction(engine) as conn:
            saved(conn, job, said(job))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, jobs))
    with reading(engine) as conn:
        assert _one(conn, "SELECT snapshots FROM day_count WHERE platform = 'x'").snapshots == 8


# Who an account is


def test_the_first_good_profile_fills_the_account_and_its_id_is_used_from_then_on(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a", kind="resolve")[0]
        job = running(conn, kind="resolve")
        profiles = said(
            job, external_id="42", display_name="A", bio="Bio\0", avatar_url="https://a.example", verified=True
        )
        saved(conn, job, profiles)
        account = _account(conn, key)
        assert (account.external_id, account.display_name, account.bio) == ("42", "A", "Bio")
        assert (account.avatar_url, account.verified) == ("https://a.example", True)
        assert _state(conn, key).kind == "profiles"


def test_what_a_later_profile_leaves_out_stays_as_known(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1, bio="Bio", verified=False)
        _read(conn, key, 1, bio="", display_name="A")
        account = _account(conn, key)
    assert (account.bio, account.verified, account.display_name) == ("", False, "A")


def test_an_account_that_did_not_change_is_not_written(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1, bio="Bio")
    with transaction(engine) as conn:
        before = _one(conn, "SELECT xmin FROM dim_account")
        _read(conn, key, 2, bio="Bio", now=NOON + timedelta(hours=1))
        assert _one(conn, "SELECT xmin FROM dim_account") == before


def _names(conn: Connection, key: int) -> dict[str, tuple[datetime, datetime]]:
    rows = _rows(conn, "SELECT handle, first_seen_at, last_seen_at FROM account_handle WHERE account_key = :k", k=key)
    return {row.handle: (row.first_seen_at, row.last_seen_at) for row in rows}


def test_a_rename_keeps_the_old_name_in_the_history(engine: Engine) -> None:
    later = NOON + timedelta(days=3)
    with transaction(engine) as conn:
        key = listed(conn, "old", now=NOON - timedelta(days=9))[0]
        _read(conn, key, 1)
        _read(conn, key, 2, now=later, handle="new")
        assert _account(conn, key).handle == "new"
        assert _names(conn, key) == {"old": (NOON - timedelta(days=9), NOON), "new": (later, later)}
        assert accounts.find(conn, "x", "OLD") == accounts.find(conn, "x", "new") == key
        assert _latest(conn, key).followers == 2


def test_a_name_that_comes_back_stands_in_the_history_once(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "first")[0]
        for day, handle in enumerate(("second", "First", "SECOND")):
            _read(conn, key, 1, now=NOON + timedelta(days=day), handle=handle)
        assert _account(conn, key).handle == "SECOND"
        assert [*sorted(_names(conn, key))] == ["First", "SECOND"]


def test_another_case_is_a_spelling_and_no_rename(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "hhsgov")[0]
        _read(conn, key, 1, handle="HHSGov")
        assert _account(conn, key).handle == "HHSGov"
        assert [*_names(conn, key)] == ["HHSGov"]


def test_a_name_that_another_listed_account_bears_is_not_taken_over_but_the_numbers_are(engine: Engine) -> None:
    with transaction(engine) as conn:
        mine, holder = listed(conn, "mine", "wanted")
        _read(conn, mine, 77, handle="Wanted")
        assert _account(conn, mine).handle == "mine"
        assert (_latest(conn, mine).followers, _state(conn, mine).result) == (77, "ok")
        assert [*_names(conn, mine)] == ["mine"]
        assert _account(conn, holder).handle == "wanted"


def test_a_name_that_comes_twice_in_a_batch_is_given_once(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a", "b")
        job = running(conn)
        saved(conn, job, said(job, handle="handle.invalid"))
        assert [row.handle for row in _rows(conn, "SELECT handle FROM dim_account ORDER BY account_key")] == [
            "handle.invalid",
            "b",
        ]
        assert _one(conn, "SELECT count(*) FROM account_latest")[0] == 2


def test_the_same_name_on_another_host_is_no_obstacle(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "wanted", platform="mastodon", host="one.example")
        key = listed(conn, "mine", platform="mastodon", host="two.example", now=NOON - timedelta(days=1))[0]
        job = running(conn, platform="mastodon")
        saved(conn, job, said(job, handle="wanted"))
        assert _account(conn, key).handle == "wanted"


def test_an_id_that_belongs_to_another_listed_account_brings_no_numbers_twice(engine: Engine) -> None:
    with transaction(engine) as conn:
        owner, other = listed(conn, "owner", "former")
        _read(conn, owner, 10, external_id="42")
        job = requested(conn, [other])
        changes = saved(conn, job, said(job, 10, external_id="42", handle="owner"))
        assert changes is not None
        assert changes.snapshots == 0
        state = _state(conn, other)
        assert (state.result, state.failures, state.job_id) == ("gone", 1, None)
        assert state.reason == "the same account as x/owner, which is listed itself"
        assert (_account(conn, other).handle, _account(conn, other).external_id) == ("former", None)
        assert _rows(conn, "SELECT * FROM account_latest WHERE account_key = :key", key=other) == []
        row = _one(conn, "SELECT * FROM scrape_job WHERE job_id = :id", id=job.job_id)
        assert (row.state, row.outcomes[0]["result"]) == ("failed", "gone")


def test_of_two_listed_accounts_that_prove_to_be_one_the_first_keeps_the_numbers(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b", "c", kind="resolve")
        job = running(conn, kind="resolve")
        saved(conn, job, said(job, external_id="42"))
        assert [_state(conn, key).result for key in keys] == ["ok", "gone", "gone"]
        assert {_state(conn, key).reason for key in keys[1:]} == {"the same account as x/a, which is listed itself"}
        assert _state(conn, keys[1]).kind == "resolve"


def test_accounts_of_two_jobs_that_prove_to_be_one_at_once_are_told_apart(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b", kind="resolve")
        jobs = [running(conn, kind="resolve", batch=1) for _ in keys]

    def save(job: Job) -> Changes | None:
        with transaction(engine) as conn:
            return saved(conn, job, said(job, external_id="42"))

    with ThreadPoolExecutor(1) as pool:
        with transaction(engine) as conn:
            saved(conn, jobs[0], said(jobs[0], external_id="42"))
            second = pool.submit(save, jobs[1])
            until_one_waits_for_a_lock(engine)
        changes = second.result(10)
    assert changes is not None
    assert changes.snapshots == 0
    with reading(engine) as conn:
        assert [_state(conn, key).result for key in keys] == ["ok", "gone"]


def test_an_id_stays_with_its_account_when_an_older_row_comes_with_it_in_one_batch(engine: Engine) -> None:
    with transaction(engine) as conn:
        older, owner = listed(conn, "older", "owner")
        _read(conn, owner, 10, external_id="42")
        job = requested(conn, [older, owner])
        saved(conn, job, said(job, 11, external_id="42"))
        assert (_state(conn, older).result, _state(conn, owner).result) == ("gone", "ok")
        assert _latest(conn, owner).followers == 11


# Posts and engagement


def test_the_first_good_profile_makes_the_posts_due_once(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a", platform="mastodon", host="one.example", is_core_account=True)[0]
        job = running(conn, platform="mastodon")
        saved(conn, job, said(job))
        state = _state(conn, key, "posts")
        assert (state.platform, state.host, state.kind, state.is_core) == ("mastodon", "one.example", "posts", True)
        assert (state.next_due_at, state.job_id, state.result) == (NOON, None, None)
        posts = running(conn, platform="mastodon", kind="posts")
        _save_posts(conn, posts)
        due_at = _state(conn, key, "posts").next_due_at
        again = running(conn, platform="mastodon", now=NOON + timedelta(days=1))
        saved(conn, again, said(again), now=NOON + timedelta(days=1))
        assert _state(conn, key, "posts").next_due_at == due_at


def test_an_account_that_failed_gets_no_posts_to_read(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        job = running(conn)
        writes.save(conn, job, nexts=decided(job, "failed", "timed out"), source="live", now=NOON)
        assert _rows(conn, "SELECT * FROM scrape_state WHERE subject = 'posts'") == []


def test_posts_are_kept_once_and_updated_only_where_they_changed(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        changes = _save_posts(
            conn, _posts_job(conn), _post("p1", likes=1), _post("p2", views=0), _post("p1", likes=2)
        )
        assert changes is not None
        assert changes.posts == 2
    later = NOON + timedelta(days=1)
    with transaction(engine) as conn:
        job = running(conn, kind="posts", now=later)
        changes = _save_posts(conn, job, _post("p1", likes=2), _post("p2", views=5), now=later)
        assert changes is not None
        assert changes.posts == 1
        found = {row.post_id: row for row in _rows(conn, "SELECT * FROM fact_social_post")}
    assert (found["p1"].likes, found["p1"].views, found["p1"].read_at) == (2, None, NOON)
    assert (found["p2"].views, found["p2"].read_at, found["p2"].source) == (5, later, "simulated")


def test_engagement_is_what_the_last_days_posts_gathered(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        _save_posts(
            conn,
            _posts_job(conn),
            _post("new", likes=10, comments=None, shares=3, views=1_000),
            _post("newer", days_ago=0, likes=1),
            _post("old", days_ago=31, likes=500),
        )
        snapshot = _one(conn, "SELECT engagement FROM fact_followers_snapshot")
        assert (snapshot.engagement, _latest(conn, key).engagement) == (14, 14)


def test_the_days_of_engagement_are_the_callers(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        job = _posts_job(conn)
        _save_posts(conn, job, _post("a", days_ago=6, likes=1), _post("b", days_ago=8, likes=2), engagement_days=7)
        assert _latest(conn, key).engagement == 1


def test_engagement_is_unknown_until_a_post_had_a_number_and_zero_when_none_did_lately(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        _save_posts(conn, _posts_job(conn), _post("silent"))
        assert _latest(conn, key).engagement is None
        later = NOON + timedelta(days=1)
        job = running(conn, kind="posts", now=later)
        _save_posts(conn, job, _post("old", days_ago=40, likes=9), now=later)
        assert _latest(conn, key).engagement is None, "yesterday's"
        _read(conn, key, 1, now=later)
        assert _latest(conn, key).engagement == 0


def test_a_later_profile_of_the_day_keeps_the_engagement(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        _save_posts(conn, _posts_job(conn), _post(likes=5))
        _read(conn, key, 2, now=NOON + timedelta(hours=1))
        assert _one(conn, "SELECT engagement FROM fact_followers_snapshot").engagement == 5
        assert _latest(conn, key).engagement == 5


def test_posts_of_a_day_without_a_reading_leave_past_days_alone_and_count_with_its_reading(engine: Engine) -> None:
    later = NOON + timedelta(days=1)
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        job = running(conn, kind="posts", now=later)
        _save_posts(conn, job, _post(likes=5), now=later)
        assert _one(conn, "SELECT engagement FROM fact_followers_snapshot").engagement is None
        assert _latest(conn, key).engagement is None
        _read(conn, key, 1, now=later)
        assert _latest(conn, key).engagement == 5


def test_a_further_page_follows_in_a_job_of_its_own(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        job = _posts_job(conn)
        follow = structs.replace(job, job_id=str(uuid.uuid4()), attempt=0, cursor="next", page=2)
        changes = _save_posts(conn, job, _post(), follow=follow)
        assert changes is not None
        assert changes.follow == (follow,)
        assert str(_state(conn, key, "posts").job_id) == follow.job_id
        row = _one(conn, "SELECT * FROM scrape_job WHERE job_id = :id", id=follow.job_id)
        assert (row.state, row.lane, row.cursor, row.page, row.accounts) == ("queued", "core", "next", 2, [key])
        assert row.lease_until == NOON + LEASE
        second = claims.take(conn, job_id=follow.job_id, now=NOON, lease_until=NOON + LEASE)
        assert second is not None
        assert (second.cursor, second.page, second.kind, second.attempt) == ("next", 2, "posts", 1)
        _save_posts(conn, second, _post("p2"))
        assert _state(conn, key, "posts").job_id is None


# How an account stands


def test_a_good_attempt_says_when_the_next_one_is_due(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        state = _state(conn, key)
    assert (state.result, state.reason, state.failures, state.job_id) == ("ok", None, 0, None)
    assert (state.last_attempt_at, state.last_success_at) == (NOON, NOON)
    assert state.next_due_at == NOON + timedelta(days=1)


def test_a_failed_attempt_keeps_the_time_of_the_last_good_one(engine: Engine) -> None:
    later = NOON + timedelta(days=1)
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
        job = running(conn, now=later)
        writes.save(conn, job, nexts=decided(job, "gone", "suspended", now=later), source="simulated", now=later)
        state = _state(conn, key)
    assert (state.result, state.reason, state.failures) == ("gone", "suspended", 1)
    assert (state.last_attempt_at, state.last_success_at) == (later, NOON)


def test_an_account_made_inactive_on_its_way_stays_paused(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        job = running(conn)
        conn.execute(text("UPDATE dim_account SET is_active = false"))
        saved(conn, job, said(job))
        due = _rows(conn, "SELECT subject FROM scrape_state WHERE isfinite(next_due_at) AND account_key = :k", k=key)
    assert due == []


# Live and simulated


def test_live_and_simulated_readings_never_mix(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        assert writes.source_of(conn) is None
        _read(conn, key, 1)
        assert writes.source_of(conn) == "simulated"
    with transaction(engine) as conn:
        job = requested(conn, [key])
        with pytest.raises(writes.MixedSources, match="rollcall demo clear"):
            writes.save(conn, job, nexts=decided(job), profiles=said(job), source="live", now=NOON)
        assert _one(conn, "SELECT count(*) FROM fact_followers_snapshot WHERE source = 'live'")[0] == 0


def test_of_a_live_and_a_simulated_worker_that_begin_at_once_one_is_refused(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a", "b")
        jobs = [running(conn, batch=1) for _ in range(2)]
    together = threading.Barrier(2)

    def save(job: Job, source: Any) -> bool:
        together.wait(10)
        try:
            with transaction(engine) as conn:
                writes.save(conn, job, nexts=decided(job), profiles=said(job), source=source, now=NOON)
        except writes.MixedSources:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(save, jobs, ("live", "simulated"))) == [False, True]
    with reading(engine) as conn:
        assert len({row.source for row in _rows(conn, "SELECT source FROM fact_followers_snapshot")}) == 1


def test_an_attempt_without_readings_says_nothing_of_the_source(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a")
        job = running(conn)
        writes.save(conn, job, nexts=decided(job, "blocked", "needs A_KEY"), source="live", now=NOON)
        assert writes.source_of(conn) is None


def test_clearing_the_demo_leaves_the_list_as_imported_and_live_readings_come_in(engine: Engine) -> None:
    added_at = NOON - timedelta(hours=1)
    with transaction(engine) as conn:
        key = listed(conn, "first", kind="resolve", now=added_at)[0]
        by_id = listed(conn, "UCabc", external_id="UCabc", now=added_at)[0]
        inactive = listed(conn, "inactive", is_active=False)[0]
        resolve = running(conn, kind="resolve")
        saved(conn, resolve, said(resolve, handle="renamed", bio="Simulated", display_name="S", verified=True))
        profiles = running(conn)
        saved(conn, profiles, said(profiles, external_id="UCabc", handle="TheChannel"))
        _save_posts(conn, _posts_job(conn), _post(likes=1))
        pauses.add(conn, pauses.Pause("x", "1", NOON + timedelta(days=1), "429", "limited"))
        on_its_way = running(conn, kind="posts")
        sample = Sample("rollcall_scrape_calls_total", ("x", "profiles", "core"), 1)
        message = Counted(sender="worker-1", role="worker", number=1, at=NOON, samples=(sample,))
        metrics.add(conn, [message], oldest=NOON - timedelta(days=30))
        before = _one(conn, "SELECT count(*) FROM dim_account")[0]

    with transaction(engine) as conn:
        removed = writes.clear_simulated(conn, resolving=["x"])
        assert removed == {
            "snapshots": 2,
            "latest": 2,
            "day counts": 2,
            "gaps": 0,
            "posts": 1,
            "jobs": 4,
            "pauses": 1,
            "alerts": 0,
            "metrics": 1,
            "dataset": 1,
            "renames": 2,
        }
        assert _one(conn, "SELECT count(*) FROM dim_account")[0] == before
        account = _account(conn, key)
        assert (account.handle, account.external_id, account.bio) == ("first", None, None)
        assert (account.display_name, account.verified) == (None, None)
        assert (_account(conn, by_id).handle, _account(conn, by_id).external_id) == ("UCabc", "UCabc")
        assert [*_names(conn, key)] == ["first"]
        assert (_state(conn, key).kind, _state(conn, by_id).kind) == ("resolve", "profiles")
        state = _state(conn, key)
        assert (state.result, state.reason, state.job_id, state.failures) == (None, None, None, 0)
        assert (state.last_attempt_at, state.last_success_at, state.next_due_at) == (None, None, added_at)
        assert _rows(conn, "SELECT 1 FROM scrape_state WHERE subject = 'posts'") == []
        assert (
            _rows(conn, "SELECT 1 FROM scrape_state WHERE account_key = :k AND isfinite(next_due_at)", k=inactive)
            == []
        )

    with transaction(engine) as conn:
        assert _save_posts(conn, on_its_way, _post()) is None, "a simulated worker that lived on"
        job = running(conn, kind="resolve")
        assert writes.save(conn, job, nexts=decided(job), profiles=said(job), source="live", now=NOON) is not None
        assert writes.source_of(conn) == "live"


def test_clearing_the_demo_leaves_live_readings_alone(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        job = running(conn)
        writes.save(conn, job, nexts=decided(job), profiles=said(job), source="live", now=NOON)
        assert writes.clear_simulated(conn, resolving=["x"]) == {}
        assert (_latest(conn, key).source, writes.source_of(conn)) == ("live", "live")


def test_clearing_the_demo_waits_for_a_save_on_its_way(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 1)
    saving, done = threading.Event(), threading.Event()

    def save() -> None:
        with transaction(engine) as conn:
            _read(conn, key, 2, now=NOON + timedelta(days=1))
            saving.set()
            assert not done.wait(0.2), "cleared beside an open save"

    def clear() -> None:
        assert saving.wait(10)
        with transaction(engine) as conn:
            writes.clear_simulated(conn, resolving=[])
            done.set()

    with ThreadPoolExecutor(2) as pool:
        for work in (pool.submit(save), pool.submit(clear)):
            work.result(20)
    with reading(engine) as conn:
        assert _rows(conn, "SELECT * FROM fact_followers_snapshot") == []


# Cost


@pytest.mark.parametrize("kind", ["profiles", "resolve"])
def test_a_batch_of_a_thousand_costs_as_many_statements_as_one(engine: Engine, kind: Any) -> None:
    def statements(size: int, *, now: datetime) -> int:
        with transaction(engine) as conn:
            listed(conn, *(f"{kind}{size}n{n}" for n in range(size)), kind=kind, now=now)
            job = running(conn, kind=kind, batch=size, now=now)
            assert len(job.accounts) == size
            sent: list[str] = []
            event.listen(conn, "before_cursor_execute", lambda *args: sent.append(args[2]))
            profiles = [
                structs.replace(profile, handle=f"new{profile.account_key}", bio="Bio") for profile in said(job)
            ]
            changes = saved(conn, job, profiles, now=now)
            assert changes is not None
            assert changes.snapshots == size
            return len(sent)

    with transaction(engine) as conn:
        dataset.claim(conn, "simulated")
    one = statements(1, now=NOON)
    assert statements(1_000, now=NOON + timedelta(hours=1)) == one
    assert one <= 14
