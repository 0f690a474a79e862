"""`rollcall jobs` against real servers: what it lists, whom it asks for again, what it ends, and how it exits."""

import json
import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import text

from db import claims, jobs, writes
from db.engine import Connection, Engine, reading, transaction
from db.jobs import Which
from db.models import dim_account, scrape_job, scrape_state
from db.rows import Job, Next
from tests.commands import lines
from tests.jobs import decided, until_one_waits_for_a_lock

NOW = datetime.now(UTC)
LEASE_END = NOW + timedelta(minutes=2)
NOBODY = "00000000-0000-4000-8000-000000000000"


# list and show


def test_jobs_are_listed_newest_first_with_what_tells_them_apart(rollcall, listed, engine):
    old = _job(engine, ["goose"], lane="core", ago_s=120)
    new = rollcall("enqueue", "x/gander").stdout.split()[1]
    (newer, older) = lines(rollcall("jobs"))
    assert newer[:7] == [new, "x", "resolve", "user_requested", "queued", "1", "0"]
    assert newer[9] == "rollcall enqueue"
    assert older[:7] == [old, "x", "resolve", "core", "queued", "1", "0"]
    assert older[7].startswith("2 min")
    assert older[8] == f"{LEASE_END:%Y-%m-%d %H:%M} UTC"
    assert lines(rollcall("jobs", "list")) == lines(rollcall("jobs"))


def test_jobs_are_filtered_and_limited(rollcall, listed, engine):
    goose = _job(engine, ["goose"], lane="core")
    gander = _job(engine, ["gander"], lane="retry")
    duck = _job(engine, ["duck"], lane="core", platform="mastodon")
    _finish(engine, goose, "failed", "limit reached")

    def ids(*options: str) -> set[str]:
        return {job["job_id"] for job in json.loads(rollcall("jobs", "--json", *options).stdout)}

    assert ids("--platform", "mastodon") == {duck}
    assert ids("--lane", "retry") == {gander}
    assert ids("--state", "failed") == {goose}
    assert ids("--state", "queued", "--platform", "x") == {gander}
    assert len(ids("--limit", "2")) == 2


def test_a_finished_job_has_its_reason_and_no_lease(rollcall, listed, engine):
    job_id = _job(engine, ["goose"])
    _finish(engine, job_id, "failed", "given up: begun 5 times")
    (job,) = json.loads(rollcall("jobs", "list", "--json").stdout)
    assert (job["state"], job["reason"], job["lease_until"]) == ("failed", "given up: begun 5 times", None)
    assert lines(rollcall("jobs"))[0][-1] == "given up: begun 5 times"


def test_a_job_is_shown_with_what_came_of_each_account(rollcall, listed, engine):
    job_id = _job(engine, ["goose", "gander"])
    _finish(engine, job_id, {"goose": ("ok", None), "gander": ("gone", "not found")})
    shown = lines(rollcall("jobs", "show", job_id.upper()))
    assert ["state", "partly_failed"] in shown
    assert ["x/goose", "ok", ""] in shown
    assert ["x/gander", "gone", "not found"] in shown
    answer = json.loads(rollcall("jobs", "show", job_id, "--json").stdout)
    assert (answer["job_id"], answer["lane"], answer["attempt"]) == (job_id, "core", 1)
    assert [(one["account"], one["result"]) for one in answer["accounts"]] == [
        ("x/goose", "ok"),
        ("x/gander", "gone"),
    ]


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
def test_an_unknown_job_is_named_and_nothing_is_done(rollcall, listed, engine, command):
    known = () if command == "show" else (_job(engine, ["goose"]),)
    result = rollcall("jobs", command, NOBODY, *known)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"There is no job {NOBODY}:" in result.stderr
    assert all(_row(engine, job_id).state == "queued" for job_id in known)


# retry


def test_a_job_is_retried_for_the_accounts_that_it_did_not_read(rollcall, listed, engine):
    job_id = _job(engine, ["goose", "gander"])
    _finish(engine, job_id, {"goose": ("ok", None), "gander": ("gone", "not found")})
    result = rollcall("jobs", "retry", job_id)
    assert result.exit_code == 0
    ((account, again),) = lines(result)
    row = _row(engine, again)
    assert account == "x/gander"
    assert (row.lane, row.state, row.requested_by) == ("user_requested", "queued", "rollcall jobs retry")


def test_all_that_failed_is_retried_of_one_platform_or_of_all(rollcall, listed, engine):
    x = _job(engine, ["goose", "gander"])
    mastodon = _job(engine, ["duck"], platform="mastodon")
    _finish(engine, x, {"goose": ("failed", "cut off"), "gander": ("gone", "not found")})
    _finish(engine, mastodon, "failed", "cut off")
    assert [line[0] for line in lines(rollcall("jobs", "retry", "--failed", "--platform", "x"))] == ["x/goose"]
    assert [line[0] for line in lines(rollcall("jobs", "retry", "--failed"))] == [
        "x/goose",
        "mastodon/duck@pond.example",
    ]


def test_what_was_read_since_is_not_asked_for_again(rollcall, listed, engine):
    first = _job(engine, ["goose"])
    _finish(engine, first, "failed", "cut off")
    _finish(engine, _job(engine, ["goose"]), "ok", at=NOW + timedelta(seconds=1))
    for which in ([first], ["--failed"]):
        result = rollcall("jobs", "retry", *which)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "Nothing was enqueued." in result.stderr


def test_a_job_of_posts_is_retried_as_one_of_posts(rollcall, listed, engine):
    with transaction(engine) as conn:
        conn.execute(
            text(
                "INSERT INTO scrape_state (account_key, subject, platform, kind, next_due_at) "
                "SELECT account_key, 'posts', platform, 'posts', now() FROM dim_account WHERE handle = 'goose'"
            )
        )
    job_id = _job(engine, ["goose"], kind="posts", batch=1)
    _finish(engine, job_id, "failed", "cut off")
    ((_, again),) = lines(rollcall("jobs", "retry", job_id))
    assert _row(engine, again).kind == "posts"


def test_a_job_that_is_open_is_not_retried_and_the_others_are(rollcall, listed, engine):
    still_open, failed = _job(engine, ["goose"]), _job(engine, ["gander"])
    _finish(engine, failed, "failed", "cut off")
    result = rollcall("jobs", "retry", still_open, failed)
    assert result.exit_code == 1
    assert [line[0] for line in lines(result)] == ["x/gander"]
    assert f"{still_open} is queued: it can be retried once it has finished." in result.stderr


def test_a_retry_names_the_accounts_that_nothing_can_read(rollcall, listed, engine):
    job_id = _job(engine, ["goose"])
    _finish(engine, job_id, "failed", "cut off")
    result = rollcall("jobs", "retry", job_id, "--json", SIMULATOR_URL="")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["left_out"] == [{"account": "x/goose", "reason": "needs X_BEARER_TOKEN"}]
    assert answer["jobs"] == []


# cancel


def test_a_cancelled_job_never_runs_and_its_accounts_are_as_they_were(rollcall, listed, engine):
    before = _states(engine)
    job_id = _job(engine, ["goose", "gander"])
    result = rollcall("jobs", "cancel", job_id)
    assert (result.exit_code, lines(result), result.stderr) == (0, [[job_id, "cancelled"]], "1 cancelled.\n")
    job = _row(engine, job_id)
    assert (job.state, job.reason, job.outcomes) == ("failed", "cancelled by `rollcall jobs cancel`", None)
    assert job.finished_at is not None
    assert _states(engine) == before
    with transaction(engine) as conn:
        assert claims.take(conn, job_id=job_id, now=NOW, lease_until=LEASE_END) is None
        expired = claims.expired(
            conn,
            wanted={("x", "resolve"): 10},
            now=NOW + timedelta(days=1),
            lease_until=LEASE_END,
            max_attempts=5,
        )
        assert not (expired.again or expired.dead)


def test_a_job_that_was_done_in_part_keeps_what_it_read_when_it_is_cancelled(rollcall, listed, engine):
    job_id = _job(engine, ["goose", "gander"])
    job = _take(engine, job_id)
    first, rest = (structs.replace(job, accounts=(account,)) for account in job.accounts)
    with transaction(engine) as conn:
        writes.save(conn, job, nexts=decided(first, now=NOW), again=rest, source="simulated", now=NOW)
    assert rollcall("jobs", "cancel", job_id).exit_code == 0
    answer = json.loads(rollcall("jobs", "show", job_id, "--json").stdout)
    assert answer["state"] == "partly_failed"
    assert [(one["account"], one["result"]) for one in answer["accounts"]] == [("x/goose", "ok"), ("x/gander", None)]
    assert [line[0] for line in lines(rollcall("jobs", "retry", job_id))] == ["x/gander"]


def test_whoever_waits_for_a_cancelled_job_hears_of_it(rollcall, listed, engine):
    waited = threading.Event()

    def cancel() -> None:
        while not waited.wait(0.05):
            with transaction(engine) as conn:
                jobs.cancel(conn, Which(), now=NOW, reason="cancelled by a test")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    result = rollcall("enqueue", "x/goose", "--wait")
    waited.set()
    canceller.join()
    assert result.exit_code == 1
    assert lines(result)[-1] == ["x/goose", "failed", "cancelled by a test"]


def test_a_cancelled_job_can_be_retried_but_is_none_that_failed(rollcall, listed, engine):
    job_id = _job(engine, ["goose"])
    rollcall("jobs", "cancel", job_id)
    assert lines(rollcall("jobs", "retry", "--failed")) == []
    assert [line[0] for line in lines(rollcall("jobs", "retry", job_id))] == ["x/goose"]


def test_a_job_that_runs_or_has_finished_is_not_cancelled_and_said_so(rollcall, listed, engine):
    running, done, queued = (_job(engine, [handle]) for handle in ("goose", "gander", "duck"))
    _take(engine, running)
    _finish(engine, done, "ok")
    result = rollcall("jobs", "cancel", running, done, queued)
    assert result.exit_code == 1
    assert {tuple(line) for line in lines(result)} == {
        (queued, "cancelled"),
        (running, "can't be cancelled: it is running"),
        (done, "can't be cancelled: it has succeeded"),
    }
    assert (_row(engine, running).state, _row(engine, done).state) == ("running", "succeeded")
    answer = json.loads(rollcall("jobs", "cancel", done, "--json").stdout)
    assert answer["cancelled"] == []
    assert [job["state"] for job in answer["not_cancelled"]] == ["succeeded"]


def test_all_that_is_queued_is_cancelled_of_one_platform_or_of_all(rollcall, listed, engine):
    x, mastodon = _job(engine, ["goose"]), _job(engine, ["duck"], platform="mastodon")
    assert lines(rollcall("jobs", "cancel", "--queued", "--platform", "x")) == [[x, "cancelled"]]
    assert _row(engine, mastodon).state == "queued"
    assert lines(rollcall("jobs", "cancel", "--queued")) == [[mastodon, "cancelled"]]
    assert rollcall("jobs", "cancel", "--queued").stderr == "0 cancelled.\n"


def test_a_job_that_is_being_taken_is_not_cancelled(rollcall, listed, engine):
    job_id = _job(engine, ["goose"])
    cancelled: list[str] = []

    def cancel() -> None:
        with transaction(engine) as conn:
            cancelled.extend(jobs.cancel(conn, Which(job_ids=[job_id]), now=NOW, reason="cancelled"))

    with transaction(engine) as conn:
        assert claims.take(conn, job_id=job_id, now=NOW, lease_until=LEASE_END) is not None
        canceller = threading.Thread(target=cancel)
        canceller.start()
        until_one_waits_for_a_lock(engine)
    canceller.join()
    assert cancelled == []
    assert _row(engine, job_id).state == "running"


def test_a_person_does_not_hurry_a_job_that_is_being_taken(rollcall, listed, engine):
    job_id = _job(engine, ["goose"], lane="core")
    hurried: list[Job] = []

    def hurry() -> None:
        with transaction(engine) as conn:
            hurried.extend(jobs.hurry(conn, [job_id], lease_until=LEASE_END, paused=(), requested_by="a test"))

    with transaction(engine) as conn:
        claims.take(conn, job_id=job_id, now=NOW, lease_until=LEASE_END)
        person = threading.Thread(target=hurry)
        person.start()
        until_one_waits_for_a_lock(engine)
    person.join()
    assert hurried == []
    assert _row(engine, job_id).lane == "core"


def _job(
    engine: Engine,
    handles: Sequence[str],
    *,
    lane: str = "core",
    platform: str = "x",
    kind: Any = "resolve",
    batch: int = 100,
    ago_s: float = 0,
) -> str:
    """Put these accounts into a queued job, and return its id."""
    job_id = str(uuid.uuid4())
    with transaction(engine) as conn:
        found = claims.claim_requested(
            conn,
            account_keys=_keys(conn, handles),
            subject="posts" if kind == "posts" else "profile",
            batches={("x", kind): batch, ("mastodon", kind): batch},
            now=datetime.now(UTC) - timedelta(seconds=ago_s),  # NOW may be long ago in a long run
            lease_until=LEASE_END,
            new_job_id=lambda: job_id,
            requested_by="a test",
        )
        assert len(found.jobs) == 1, "one call carries them all"
        changed = {"lane": lane, "requested_by": None if lane != "user_requested" else "a test"}
        conn.execute(scrape_job.update().where(scrape_job.c.job_id == job_id).values(**changed))
    return job_id


def _take(engine: Engine, job_id: str) -> Job:
    with transaction(engine) as conn:
        job = claims.take(conn, job_id=job_id, now=NOW, lease_until=LEASE_END)
    assert job is not None
    return job


def _finish(
    engine: Engine,
    job_id: str,
    said: Any,
    reason: str | None = None,
    *,
    at: datetime = NOW,
) -> None:
    """Run a job: every account ends so, or each as its handle says."""
    job = _take(engine, job_id)
    if isinstance(said, str):
        nexts = decided(job, said, reason, now=at)  # type: ignore[arg-type]  # a Result
    else:
        nexts = [
            Next(account_key=a.account_key, result=said[a.handle][0], reason=said[a.handle][1], failures=1, due_at=at)
            for a in job.accounts
        ]
    with transaction(engine) as conn:
        assert writes.save(conn, job, nexts=nexts, source="simulated", now=at) is not None


def _row(engine: Engine, job_id: str) -> Any:
    with reading(engine) as conn:
        return conn.execute(scrape_job.select().where(scrape_job.c.job_id == job_id)).one()


def _states(engine: Engine) -> list[Any]:
    with reading(engine) as conn:
        return list(conn.execute(scrape_state.select().order_by(scrape_state.c.account_key)))


def _keys(conn: Connection, handles: Sequence[str]) -> list[int]:
    found = dim_account.select().where(dim_account.c.handle.in_(handles)).order_by(dim_account.c.account_key)
    return list(conn.scalars(found))
