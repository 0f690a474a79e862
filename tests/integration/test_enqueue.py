"""`rollcall enqueue` against real servers: whom it means, what it asks for, what it says, and how it exits."""

import json
import threading
import time
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis as redis_py
from sqlalchemy import text

from db import claims, overview, pauses
from db.engine import Engine, reading, transaction
from db.models import dim_account, scrape_job, scrape_state
from db.overview import Chosen
from db.pauses import Pause
from pipeline import enqueue, platforms
from pipeline.app import make_celery
from pipeline.asking import ask
from pipeline.enqueue import CHUNK
from pipeline.estimate import Wanted
from pipeline.lanes import LANES, queue_name
from pipeline.messages import publish_jobs
from tests.commands import lines
from tests.fakes import settings
from tests.jobs import claimed
from tests.system import system

DEADLINE_S = 20
NOW = datetime.now(UTC)


@pytest.mark.parametrize("name", ["x/goose", "X/@Goose", "https://twitter.com/goose?lang=en"])
def test_an_account_asked_for_goes_to_the_user_requested_lane(rollcall, listed, engine, name):
    result = rollcall("enqueue", name)
    assert result.exit_code == 0
    ((account, job_id),) = lines(result)
    with reading(engine) as conn:
        job = conn.execute(scrape_job.select().where(scrape_job.c.job_id == job_id)).one()
    assert (account, job.lane, job.state) == ("x/goose", "user_requested", "queued")


def test_an_account_on_its_way_is_answered_with_its_job(rollcall, listed):
    first, second = (json.loads(rollcall("enqueue", "x/goose", "--json").stdout) for _ in range(2))
    assert first.pop("request_id") != second.pop("request_id")
    assert first == second == {"jobs": [{"account": "x/goose", "job_id": first["jobs"][0]["job_id"]}], "left_out": []}


def test_an_unknown_account_is_an_error_that_offers_the_nearest(rollcall, listed, engine):
    result = rollcall("enqueue", "x/gose", "x/goose", "gander", "https://pond.example/@dukc")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "x/gose is not in the account list. Did you mean x/goose" in result.stderr
    assert "Did you mean x/gander" in result.stderr
    assert "Did you mean mastodon/duck@pond.example" in result.stderr
    with reading(engine) as conn:
        assert conn.execute(scrape_job.select()).first() is None


def test_an_account_without_a_reader_is_left_out_and_said_so(rollcall, listed):
    result = rollcall("enqueue", "x/goose", "flickr/swan")
    assert result.exit_code == 1
    assert [line[0] for line in lines(result)] == ["x/goose"]
    assert "Left out, no reader yet: flickr/swan." in result.stderr


def test_a_paused_account_is_left_out_and_said_so(rollcall, listed):
    rollcall("accounts", "import", "-", stdin="url,is_active\nhttps://x.com/goose,no\n")
    result = rollcall("enqueue", "x/goose")
    assert result.exit_code == 1
    assert "Left out, paused: x/goose." in result.stderr


def test_groups_of_accounts_can_be_asked_for(rollcall, listed, engine):
    with transaction(engine) as conn:
        gander = (
            dim_account.select().where(dim_account.c.handle == "gander").with_only_columns(dim_account.c.account_key)
        )
        conn.execute(
            scrape_state.update()
            .where(scrape_state.c.account_key == gander.scalar_subquery())
            .values(result="failed")
        )
    assert [line[0] for line in lines(rollcall("enqueue", "--failed"))] == ["x/gander"]
    assert [line[0] for line in lines(rollcall("enqueue", "--platform", "mastodon"))] == [
        "mastodon/duck@pond.example"
    ]
    everything = rollcall("enqueue", "--all")
    assert everything.exit_code == 0
    assert {line[0] for line in lines(everything)} == {"x/goose", "x/gander", "mastodon/duck@pond.example"}
    assert "Left out, no reader yet: flickr/swan." in everything.stderr


def test_a_dry_run_tells_calls_time_and_cost_and_asks_for_nothing(rollcall, listed, engine):
    result = rollcall("enqueue", "--all", "--dry-run")
    assert lines(result) == [
        ["mastodon", "resolve", "1", "1", "under 1 s", "$0.00"],
        ["x", "resolve", "2", "1", "under 1 s", "$0.02"],
    ]
    with reading(engine) as conn:
        assert conn.execute(scrape_job.select()).first() is None


def test_a_missing_credential_is_named(rollcall, listed):
    result = rollcall("enqueue", "x/goose", SIMULATOR_URL="")
    assert result.exit_code == 1
    assert "Left out, needs X_BEARER_TOKEN: x/goose." in result.stderr


def test_without_a_broker_the_job_waits_in_the_database_and_a_line_says_so(rollcall, listed, engine, tmp_path):
    result = rollcall("enqueue", "x/goose", REDIS_URL=f"unix://{tmp_path}/no.sock")
    assert result.exit_code == 0
    ((account, job_id),) = lines(result)
    with reading(engine) as conn:
        job = conn.execute(scrape_job.select()).one()
    assert (account, job.job_id, job.state) == ("x/goose", job_id, "queued")
    (said,) = result.stderr.splitlines()
    assert "The broker can't be reached" in said
    assert "waits in the database and goes out when it is back" in said


def test_waiting_ends_with_the_result(rollcall, listed, worker):
    result = rollcall("enqueue", "x/goose", "--wait")
    assert result.exit_code == 0
    assert result.stderr == "1 read, 0 failed.\n"


def test_waiting_for_an_account_that_fails_fails_and_says_why(rollcall, listed, worker):
    result = rollcall("enqueue", "--platform", "x", "--wait")
    assert result.exit_code == 1
    assert lines(result)[2:] == [["x/gander", "gone", "not found"]]
    assert result.stderr == "1 read, 1 failed.\n"


def test_waiting_in_json_tells_each_result(rollcall, listed, worker):
    answer = json.loads(rollcall("enqueue", "--platform", "x", "--wait", "--json").stdout)
    assert {(job["account"], job["result"], job["reason"]) for job in answer["jobs"]} == {
        ("x/goose", "ok", None),
        ("x/gander", "gone", "not found"),
    }


def test_waiting_for_a_job_that_was_removed_ends(rollcall, listed, engine):
    def remove() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with transaction(engine) as conn:
                if conn.execute(scrape_job.delete()).rowcount:
                    return

    remover = threading.Thread(target=remove)
    remover.start()
    result = rollcall("enqueue", "x/goose", "--wait")
    remover.join()
    assert result.exit_code == 1
    assert lines(result)[-1] == ["x/goose", "failed", "its job ended without a result"]


# files


@pytest.mark.parametrize(
    "content",
    [
        "x/goose\nhttps://pond.example/@duck\n",
        "\ufeff# geese and ducks\r\n\r\nX/@Goose\r\n  mastodon/duck@pond.example  \r\nx/goose\r\n",
        "Platform;Handle\nx;goose\nmastodon;duck@pond.example\n",
        '[{"url": "https://x.com/goose"}, {"url": "https://pond.example/@duck"}]',
        '{"url": "https://x.com/goose"}\n{"url": "https://pond.example/@duck"}\n',
    ],
    ids=["lines", "lines with comments", "csv", "json", "json lines"],
)
def test_a_file_names_accounts_in_lines_or_as_a_list(rollcall, listed, tmp_path, content):
    file = tmp_path / "some.txt"
    file.write_bytes(content.encode())
    from_file = rollcall("enqueue", "--file", str(file))
    from_input = rollcall("enqueue", "--file", "-", stdin=content)
    assert [line[0] for line in lines(from_file)] == ["x/goose", "mastodon/duck@pond.example"]
    assert from_input.stdout == from_file.stdout


def test_files_and_arguments_are_taken_together_and_each_account_once(rollcall, listed, tmp_path):
    for name in ("goose", "gander"):
        (tmp_path / name).write_text(f"x/{name}\n")
    result = rollcall("enqueue", "x/goose", "--file", str(tmp_path / "goose"), "--file", str(tmp_path / "gander"))
    assert [line[0] for line in lines(result)] == ["x/goose", "x/gander"]


def test_every_name_at_fault_in_a_file_is_told_with_its_place_and_nothing_is_enqueued(
    rollcall, listed, engine, tmp_path
):
    file = tmp_path / "some.txt"
    file.write_bytes(b"x/goose\nx/gose\n\ngander\nx/go\x00ose\n\xff\xfe\n")
    result = rollcall("enqueue", "--file", str(file), "x/swan")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{file}, line 2: x/gose is not in the account list. Did you mean x/goose" in result.stderr
    assert f"{file}, line 4: gander: 'gander' names no platform" in result.stderr
    assert f"{file}, line 5: " in result.stderr
    assert f"{file}, line 6: " in result.stderr
    assert "x/swan is not in the account list" in result.stderr
    assert "\x00" not in result.stderr
    with reading(engine) as conn:
        assert conn.execute(scrape_job.select()).first() is None


def test_of_very_many_unknown_names_some_are_told_and_the_rest_counted(rollcall, listed):
    result = rollcall("enqueue", "--file", "-", stdin="".join(f"x/nobody{n}\n" for n in range(1_000)))
    assert result.exit_code == 2
    assert "line 1: x/nobody0 is not in the account list" in result.stderr
    assert "And 980 more." in result.stderr


def test_a_row_of_a_list_that_names_nobody_is_told_with_its_number(rollcall, listed):
    result = rollcall("enqueue", "--file", "-", stdin="url,is_core\nhttps://x.com/goose,maybe\nnowhere,\n")
    assert result.exit_code == 2
    assert "standard input, row 2: is_core must be yes or no, not 'maybe'" in result.stderr
    assert "standard input, row 3: 'nowhere' is not a web address" in result.stderr


@pytest.mark.parametrize("content", ["", "\n# nobody\n", "url\n", '[{"url": ', "{}"])
def test_a_file_that_names_nobody_is_refused(rollcall, listed, content):
    result = rollcall("enqueue", "--file", "-", stdin=content)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: standard input")


# filters


def test_filters_narrow_each_other_down(rollcall, listed):
    def chosen(*options: str) -> set[str]:
        answer = json.loads(rollcall("enqueue", "--json", *options).stdout)
        return {job["account"] for job in answer["jobs"]}

    assert chosen("--platform", "x", "--core") == {"x/goose"}
    assert chosen("--org", "Geese") == {"x/goose", "x/gander"}
    assert chosen("--org", "Ducks", "--core") == set()


def test_since_takes_the_accounts_without_a_reading_from_then_on(rollcall, listed, engine):
    _read(engine, "goose", hours_ago=3)
    _read(engine, "gander", hours_ago=30)

    def chosen(when: str) -> list[str]:
        return [line[0] for line in lines(rollcall("enqueue", "--platform", "x", "--since", when, "--dry-run"))]

    def accounts(when: str) -> int:
        found = lines(rollcall("enqueue", "--platform", "x", "--since", when, "--dry-run"))
        return sum(int(line[2]) for line in found)

    assert (accounts("1h"), accounts("6h"), accounts("2d")) == (2, 1, 0)
    assert accounts(f"{NOW - timedelta(hours=6):%Y-%m-%dT%H:%M}") == 1
    assert accounts(f"{NOW - timedelta(days=3):%Y-%m-%d}") == 0
    assert lines(rollcall("enqueue", "--platform", "mastodon", "--since", "2d"))[0][0] == "mastodon/duck@pond.example"


def test_stale_and_failed_accounts_are_those_that_the_status_counts(rollcall, listed, engine):
    _read(engine, "goose", hours_ago=100)
    _read(engine, "gander", hours_ago=100, result="failed")
    _read(engine, "duck", hours_ago=1)
    counted = json.loads(rollcall("status", "--json").stdout)["groups"]
    assert {(g["status"], g["accounts"]) for g in counted} >= {("stale", 1), ("failing", 1), ("fresh", 1)}
    for options, meant in (
        (("--stale",), ["x/goose"]),
        (("--failed",), ["x/gander"]),
        (("--stale", "--failed"), ["x/goose", "x/gander"]),
    ):
        assert [line[0] for line in lines(rollcall("enqueue", *options))] == meant


def test_an_unknown_organisation_is_an_error_that_offers_the_nearest(rollcall, listed):
    result = rollcall("enqueue", "--org", "Gese")
    assert result.exit_code == 2
    assert "No account is of the organisation 'Gese'. Did you mean Geese?" in result.stderr


def test_a_filter_that_nobody_passes_enqueues_nothing_and_says_so(rollcall, listed):
    result = rollcall("enqueue", "--failed")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Nothing was enqueued.\n")


def test_a_dry_run_counts_what_the_filters_leave(rollcall, listed):
    assert lines(rollcall("enqueue", "--platform", "x", "--core", "--dry-run")) == [
        ["x", "resolve", "1", "1", "under 1 s", "$0.01"]
    ]
    answer = json.loads(rollcall("enqueue", "--all", "--dry-run", "--json").stdout)
    assert [(call["platform"], call["accounts"]) for call in answer["calls"]] == [("mastodon", 1), ("x", 2)]
    assert answer["left_out"] == [{"account": "flickr/swan", "reason": "no reader yet"}]


# waiting


def test_a_wait_that_is_over_fails_and_leaves_the_jobs_be(rollcall, listed, engine):
    result = rollcall("enqueue", "x/goose", "--wait", "--timeout", "1s")
    assert result.exit_code == 1
    assert lines(result)[1:] == [["x/goose", "", "not finished within 1 s"]]
    assert result.stderr == "0 read, 0 failed, 1 not finished within 1 s.\n"
    with reading(engine) as conn:
        assert conn.execute(scrape_job.select()).one().state == "queued"


def test_a_result_that_was_not_waited_for_is_null(rollcall, listed):
    answer = json.loads(rollcall("enqueue", "x/goose", "--wait", "--timeout", "1s", "--json").stdout)
    assert [(job["result"], job["reason"]) for job in answer["jobs"]] == [(None, "not finished within 1 s")]


def test_waiting_for_accounts_of_others_jobs_tells_only_what_was_asked_for(rollcall, listed, engine, worker):
    _plan(engine, ["goose", "gander"])
    result = rollcall("enqueue", "x/goose", "--wait", "--json")
    assert result.exit_code == 0
    assert [job["account"] for job in json.loads(result.stdout)["jobs"]] == ["x/goose"]


# accounts on their way


def test_a_job_that_waits_in_another_lane_is_moved_ahead_and_done_once(rollcall, listed, engine, redis_url):
    job_id = _plan(engine, ["goose", "gander"])
    result = rollcall("enqueue", "x/goose")
    assert lines(result) == [["x/goose", job_id]]
    assert _messages(redis_url, "x") == [job_id]
    with transaction(engine) as conn:
        job = conn.execute(scrape_job.select()).one()
        assert (job.lane, job.state, job.requested_by) == ("user_requested", "queued", "rollcall enqueue")
        taken = claims.take(conn, job_id=job_id, now=NOW, lease_until=NOW)
        assert taken is not None
        assert taken.lane == "user_requested"
        assert claims.take(conn, job_id=job_id, now=NOW, lease_until=NOW) is None


def test_a_job_that_is_ahead_already_or_runs_is_not_published_again(rollcall, listed, engine, redis_url):
    rollcall("enqueue", "x/goose")
    assert len(_messages(redis_url, "x")) == 1
    rollcall("enqueue", "x/goose")
    assert len(_messages(redis_url, "x")) == 1
    running = _plan(engine, ["gander"])
    with transaction(engine) as conn:
        claims.take(conn, job_id=running, now=NOW, lease_until=NOW + timedelta(minutes=2))
    assert lines(rollcall("enqueue", "x/gander")) == [["x/gander", running]]
    assert len(_messages(redis_url, "x")) == 1
    with reading(engine) as conn:
        assert conn.execute(scrape_job.select().where(scrape_job.c.job_id == running)).one().lane == "core"


@pytest.mark.parametrize("lane", ["core", "user_requested"])
def test_a_job_that_was_put_off_goes_out_now_when_a_person_asks(rollcall, listed, engine, redis_url, lane):
    job_id = _plan(engine, ["goose"])
    _put_off(engine, job_id, lane)
    rollcall("enqueue", "x/goose")
    assert _messages(redis_url, "x") == [job_id]
    with reading(engine) as conn:
        lease_until = conn.execute(scrape_job.select()).one().lease_until
    assert lease_until < datetime.now(UTC) + timedelta(minutes=3)


@pytest.mark.parametrize("lane", ["core", "user_requested"])
def test_a_pause_of_the_platform_outlasts_a_persons_request_and_is_told(rollcall, listed, engine, redis_url, lane):
    until = NOW + timedelta(hours=1)
    job_id = _plan(engine, ["goose"])
    _put_off(engine, job_id, lane, until)
    with transaction(engine) as conn:
        pauses.add(conn, Pause("x", "1", until, "limit reached", "limited"))
    result = rollcall("enqueue", "x/goose")
    assert (
        result.stderr == f"x pauses until {until:%Y-%m-%d %H:%M} UTC (limit reached): its accounts are read then.\n"
    )
    assert _messages(redis_url, "x") == []
    with reading(engine) as conn:
        job = conn.execute(scrape_job.select()).one()
    assert (job.lane, job.lease_until) == ("user_requested", until)


def test_a_refused_credential_is_no_pause_for_a_person(rollcall, listed, engine, redis_url):
    job_id = _plan(engine, ["goose"])
    with transaction(engine) as conn:
        pauses.add(conn, Pause("x", "1", NOW + timedelta(hours=1), "refused", "blocked"))
    assert rollcall("enqueue", "x/goose").stderr == ""
    assert _messages(redis_url, "x") == [job_id]


def test_a_worker_does_a_job_that_was_moved_ahead_next_and_each_job_once(
    rollcall, engine, database_url, redis_url, tmp_path
):
    rollcall(
        "accounts",
        "import",
        "-",
        stdin="platform,handle\n" + "".join(f"bluesky,swan{n}.example\n" for n in range(250)),
    )
    with transaction(engine) as conn:
        planned = [claimed(conn, platform="bluesky", batch=25, now=datetime.now(UTC)) for _ in range(10)]
    found = settings(database_url, redis_url, SIMULATOR_URL="http://127.0.0.1:9")
    publish_jobs(make_celery(found), planned)
    asked = planned[-1]
    assert lines(rollcall("enqueue", f"bluesky/{asked.accounts[0].handle}")) == [
        [f"bluesky/{asked.accounts[0].handle}", asked.job_id]
    ]

    def done() -> list[Any]:
        with reading(engine) as conn:
            rows = conn.execute(scrape_job.select().order_by(scrape_job.c.started_at)).all()
        return rows if all(row.state == "succeeded" for row in rows) else []

    limits = {"RATE_LIMIT_BLUESKY_PROFILES": "10/s", "WORKER_CONCURRENCY": "1"}
    with system(database_url, redis_url, tmp_path / "logs", **limits) as (processes, _):
        processes.worker("bluesky")
        rows = processes.wait(done, within_s=40, what="ten jobs done")
        processes.wait(lambda: not _left(redis_url, "bluesky"), within_s=20, what="every message taken")
    # A worker that starts may have the first core message in hand before it looks at the other lane.
    assert asked.job_id in [row.job_id for row in rows[:3]]
    assert [row.attempt for row in done()] == [1] * 10


# very many accounts


def test_very_many_accounts_take_no_more_calls_than_the_estimate_says(rollcall, engine):
    count = CHUNK + 250
    with transaction(engine) as conn:
        _listed(conn, "bluesky", 30)
        _listed(conn, "x", count)
        _listed(conn, "threads", 7)
    promised = {line[0]: int(line[3]) for line in lines(rollcall("enqueue", "--all", "--dry-run"))}
    asked = lines(rollcall("enqueue", "--all"))
    assert len({account for account, _ in asked}) == len(asked) == count + 37
    made = {p: len({job for account, job in asked if account.startswith(f"{p}/")}) for p in promised}
    assert made == promised


def test_memory_does_not_grow_with_the_number_of_accounts(engine, database_url, redis_url, monkeypatch):
    part = 250
    monkeypatch.setattr(enqueue, "CHUNK", part)
    monkeypatch.setattr(overview, "_PAGE", part)
    found = settings(database_url, redis_url, SIMULATOR_URL="http://127.0.0.1:9")
    counts = {"threads": part, "bluesky": 2 * part, "x": 20 * part}  # the first one fills what is filled once
    with transaction(engine) as conn:
        for platform, count in counts.items():
            _listed(conn, platform, count)
    peaks = {}
    for platform, count in counts.items():
        tracemalloc.start()
        wanted = Wanted(found, platforms.load())
        with reading(engine) as conn:
            asked = overview.chosen(conn, Chosen(platform=platform), now=NOW, stale_after=found.stale_after)
            assert list(wanted.sort(asked)) == []
        assert sum(1 for _ in ask(found, engine, wanted, requested_by="a test")) == count
        peaks[platform] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks["x"] < 1.5 * peaks["bluesky"], peaks


def _listed(conn: Any, platform: str, count: int) -> None:
    """List accounts whose ids are known, by SQL: an import of very many takes its time."""
    rows = {"platform": platform, "count": count}
    conn.execute(
        text(
            "INSERT INTO dim_account (platform, handle, external_id, url) "
            "SELECT :platform, 'goose' || n, 'id' || n, 'https://goose.example/' || n FROM generate_series(1, :count) n"
        ),
        rows,
    )
    conn.execute(
        text(
            "INSERT INTO scrape_state (account_key, subject, platform, kind, next_due_at) "
            "SELECT account_key, 'profile', platform, 'profiles', now() FROM dim_account WHERE platform = :platform"
        ),
        rows,
    )


def _key(conn: Any, handle: str) -> int:
    key: int = conn.scalar(dim_account.select().where(dim_account.c.handle == handle))
    return key


def _read(engine: Engine, handle: str, *, hours_ago: float, result: str = "ok") -> None:
    """Have an account read so long ago; with another result, its last attempt came after that."""
    at = NOW - timedelta(hours=hours_ago)
    with transaction(engine) as conn:
        conn.execute(
            scrape_state.update()
            .where(scrape_state.c.account_key == _key(conn, handle))
            .values(result=result, last_success_at=at, last_attempt_at=at)
        )


def _plan(engine: Engine, handles: Sequence[str]) -> str:
    """Claim due accounts as the planner does, and return their job: its message is on its way in the core lane."""
    with transaction(engine) as conn:
        others = scrape_state.c.account_key.not_in([_key(conn, handle) for handle in handles])
        conn.execute(scrape_state.update().where(others).values(next_due_at=NOW + timedelta(days=1)))
        job = claimed(conn, kind="resolve", now=datetime.now(UTC))
    assert job is not None
    assert {account.handle for account in job.accounts} == set(handles)
    return job.job_id


def _put_off(engine: Engine, job_id: str, lane: str, until: datetime = NOW + timedelta(hours=1)) -> None:
    """Leave a job as a worker gives it back: queued, with no message, until then."""
    with transaction(engine) as conn:
        conn.execute(scrape_job.update().where(scrape_job.c.job_id == job_id).values(lane=lane, lease_until=until))


def _left(redis_url: str, platform: str) -> int:
    """Return how many messages wait for the workers of a platform."""
    with redis_py.Redis.from_url(redis_url) as redis:
        return sum(redis.llen(queue_name(platform, lane)) for lane in LANES)


def _messages(redis_url: str, platform: str) -> list[str]:
    """Return the jobs whose messages wait in the user-requested lane, the oldest first."""
    with redis_py.Redis.from_url(redis_url) as redis:
        raw = redis.lrange(queue_name(platform, "user_requested"), 0, -1)
    return [json.loads(message)["headers"]["id"] for message in reversed(raw)]
