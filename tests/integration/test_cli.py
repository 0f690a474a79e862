"""The commands against real servers: what they print, what they change, and how they exit."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis as redis_py
from click.testing import CliRunner, Result

from db import claims, keys, pauses, writes
from db.engine import Engine, reading, transaction
from db.models import dim_account, scrape_job, scrape_state
from db.pauses import Pause
from db.rows import Next, Profile
from pipeline.cli import main
from pipeline.messages import SEQUENCE_KEY, TAG_KEY

LIST = """url,organization,is_core
https://x.com/goose,Geese,yes
https://x.com/gander,Geese,no
https://pond.example/@duck,Ducks,no
https://www.flickr.com/photos/swan,Swans,no
"""
DEADLINE_S = 20


@pytest.fixture
def environ(database_url: str, redis_url: str) -> Mapping[str, str]:
    """Return the settings of a process whose platforms are all readable, so that nothing waits for a credential."""
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "SIMULATOR_URL": "http://127.0.0.1:9"}
    return {**given, "BROKER_URL": "", "X_BEARER_TOKEN": ""}  # whatever the developer has set


@pytest.fixture
def rollcall(environ, tmp_path, monkeypatch, flickr_unread) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | None = None, **more: str) -> Result:
        result = CliRunner(env={**environ, **more}).invoke(main, arguments, input=stdin)
        assert isinstance(result.exception, SystemExit | None), result.exception
        return result

    return run


@pytest.fixture
def listed(rollcall) -> None:
    assert rollcall("accounts", "import", "-", stdin=LIST).exit_code == 0


@pytest.fixture
def worker(engine: Engine) -> Iterator[None]:
    """Run a worker's half of every queued job: accounts called `gander` are gone, all others read."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: _work(engine, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


def _work(engine: Engine, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        now = datetime.now(UTC)
        with transaction(engine) as conn:
            for job_id in conn.execute(scrape_job.select().where(scrape_job.c.state == "queued")).scalars().all():
                job = claims.take(conn, job_id=job_id, now=now, lease_until=now + timedelta(minutes=1))
                gone = [a for a in job.accounts if a.handle == "gander"]
                read = [a for a in job.accounts if a.handle != "gander"]
                due_at = now + timedelta(days=1)
                ok = [
                    Next(account_key=a.account_key, result="ok", reason=None, failures=0, due_at=due_at) for a in read
                ]
                lost = [
                    Next(account_key=a.account_key, result="gone", reason="not found", failures=1, due_at=due_at)
                    for a in gone
                ]
                profiles = [
                    Profile(account_key=a.account_key, external_id=f"id-{a.handle}", handle=a.handle, followers=7)
                    for a in read
                ]
                writes.save(conn, job, nexts=[*ok, *lost], profiles=profiles, source="simulated", now=now)


def lines(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


# accounts


def test_an_import_tells_what_needs_a_look_and_counts_the_rest(rollcall):
    text = LIST + "https://x.com/home,,\nhttps://x.com/GOOSE,,\n"
    result = rollcall("accounts", "import", "-", stdin=text)
    assert result.exit_code == 0
    assert [line[:2] for line in lines(result)] == [["6", "rejected"], ["7", "duplicate"]]
    assert result.stderr == "4 imported, 1 rejected, 1 duplicate.\n"


def test_an_import_in_json_lists_every_row(rollcall):
    answer = json.loads(rollcall("accounts", "import", "-", "--json", stdin=LIST).stdout)
    assert answer["counts"] == {"imported": 4}
    assert [(row["row"], row["verdict"], row["account"]) for row in answer["rows"]] == [
        (2, "imported", "x/goose"),
        (3, "imported", "x/gander"),
        (4, "imported", "mastodon/duck@pond.example"),
        (5, "imported", "flickr/swan"),
    ]


def test_an_update_says_from_what_to_what(rollcall, listed):
    result = rollcall("accounts", "import", "-", stdin="url,org\nhttps://x.com/goose,Wild Geese\n")
    assert lines(result) == [["2", "updated", "x/goose", "org_name: Geese → Wild Geese"]]


def test_a_dry_run_says_so_and_writes_nothing(rollcall, engine):
    result = rollcall("accounts", "import", "-", "--dry-run", stdin=LIST)
    assert result.stderr == "Would be: 4 imported. Nothing was written.\n"
    with reading(engine) as conn:
        assert conn.execute(dim_account.select()).first() is None


def test_an_import_is_read_from_a_file_and_unknown_columns_are_named(rollcall, tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("url,mood\nhttps://x.com/goose,good\n")
    result = rollcall("accounts", "import", str(file))
    assert "The column 'mood' is not known" in result.stderr


def test_an_import_that_takes_nothing_fails(rollcall):
    assert rollcall("accounts", "import", "-", stdin="url\nnowhere\n").exit_code == 1
    assert rollcall("accounts", "import", "-", stdin="Dear colleague,\n").exit_code == 2


def test_a_changed_account_is_purged_from_the_caches(rollcall, listed, engine, redis_url):
    with redis_py.Redis.from_url(redis_url) as redis:
        redis.flushall()
        rollcall("accounts", "import", "-", stdin="url,is_core\nhttps://x.com/goose,no\n")
        with reading(engine) as conn:
            key = conn.execute(dim_account.select().where(dim_account.c.handle == "goose")).scalar_one()
        assert {name.decode() for name in redis.scan_iter()} >= {
            SEQUENCE_KEY,
            f"{TAG_KEY}accounts",
            f"{TAG_KEY}summary",
            f"{TAG_KEY}account:{key}",
        }


def test_an_import_goes_through_without_redis(rollcall, tmp_path):
    gone = f"unix://{tmp_path}/no.sock"
    result = rollcall("accounts", "import", "-", "--json", stdin=LIST, REDIS_URL=gone)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["counts"] == {"imported": 4}
    assert "purge_lost" in result.stderr


def test_accounts_are_listed_and_filtered(rollcall, listed):
    assert lines(rollcall("accounts", "list"))[0] == ["x/goose", "Geese", "yes", "never", "", "never"]
    assert [line[0] for line in lines(rollcall("accounts", "list", "--platform", "X"))] == ["x/goose", "x/gander"]
    assert [line[0] for line in lines(rollcall("accounts", "list", "--org", "Ducks"))] == [
        "mastodon/duck@pond.example"
    ]
    assert [line[0] for line in lines(rollcall("accounts", "list", "--q", "SWAN"))] == ["flickr/swan"]
    assert len(lines(rollcall("accounts", "list", "--status", "never"))) == 4
    assert lines(rollcall("accounts", "list", "--status", "fresh")) == []
    assert [item["handle"] for item in json.loads(rollcall("accounts", "list", "--json", "--q", "g").stdout)] == [
        "goose",
        "gander",
    ]


def test_a_list_longer_than_a_page_is_listed_whole(rollcall):
    count = 2_345
    text = "platform,handle\n" + "".join(f"x,goose{n}\n" for n in range(count))
    rollcall("accounts", "import", "-", stdin=text)
    assert [line[0] for line in lines(rollcall("accounts", "list"))] == [f"x/goose{n}" for n in range(count)]


# enqueue


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
    result = rollcall("enqueue", "x/goose", REDIS_URL=f"unix://{tmp_path}/no.sock", JOB_LEASE_S="90")
    assert result.exit_code == 0
    ((account, job_id),) = lines(result)
    with reading(engine) as conn:
        job = conn.execute(scrape_job.select()).one()
    assert (account, job.job_id, job.state) == ("x/goose", job_id, "queued")
    (said,) = result.stderr.splitlines()
    assert "The broker can't be reached" in said
    assert "waits in the database" in said
    assert "within 1 min 30 s" in said


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


# status, doctor, demo, keys, db


def test_the_status_counts_accounts_by_standing_and_reason(rollcall, listed, worker):
    rollcall("enqueue", "--platform", "x", "--wait")
    rollcall("enqueue", "mastodon/duck@pond.example")
    answer = json.loads(rollcall("status", "--json").stdout)
    assert answer["accounts"] == 4
    assert answer["source"] == "simulated"
    assert datetime.now(UTC) - datetime.fromisoformat(answer["last_read_at"]) < timedelta(minutes=1)
    assert {(g["status"], g["platform"], g["reason"], g["accounts"]) for g in answer["groups"]} >= {
        ("fresh", "x", None, 1),
        ("gone", "x", "not found", 1),
        ("never", "flickr", "no reader yet", 1),
    }


def test_the_status_tells_what_waits_and_what_pauses(rollcall, listed, engine):
    rollcall("enqueue", "x/goose")
    until = datetime.now(UTC) + timedelta(hours=1)
    with transaction(engine) as conn:
        pauses.add(conn, Pause("x", "1", until, "limit reached", "limited"))
    answer = json.loads(rollcall("status", "--json").stdout)
    assert answer["backlog"] == [{"platform": "x", "kind": "resolve", "jobs": 1}]
    assert [(pause["platform"], pause["reason"]) for pause in answer["pauses"]] == [("x", "limit reached")]
    assert ["x", "1", f"{until:%Y-%m-%d %H:%M} UTC", "limit reached"] in lines(rollcall("status"))


def findings(result: Result) -> dict[str, str]:
    return {finding["what"]: finding["level"] for finding in json.loads(result.stdout)}


def test_the_doctor_finds_nothing_wrong_where_nothing_is(rollcall, listed):
    result = rollcall("doctor", "--json")
    assert result.exit_code == 0
    assert findings(result) | {"disk": "ok"} == {
        "settings": "ok",
        "database": "ok",
        "schema": "ok",
        "clock": "ok",
        "numbers": "ok",
        "redis": "ok",
        "redis keeps": "ok",
        "flickr": "warn",
        "mastodon": "ok",
        "x": "ok",
        "disk": "ok",
    }


def test_the_doctor_names_missing_credentials_and_faulty_addresses(rollcall, listed):
    result = rollcall("doctor", SIMULATOR_URL="", MASTODON_BASE_URL="pond")
    assert result.exit_code == 1
    assert ["warn", "x", "2 accounts waiting for a credential", "set X_BEARER_TOKEN"] in lines(result)
    assert [
        "fail",
        "mastodon",
        "MASTODON_BASE_URL is not an address",
        "write MASTODON_BASE_URL as https://host",
    ] in lines(result)


def test_the_doctor_sees_simulated_numbers_in_the_way_of_live_ones(rollcall, listed, worker):
    rollcall("enqueue", "x/goose", "--wait")
    assert findings(rollcall("doctor", "--json"))["numbers"] == "ok"
    live = rollcall("doctor", SIMULATOR_URL="")
    assert live.exit_code == 1
    assert "run `rollcall demo clear`" in live.stdout


def test_the_doctor_sees_a_redis_that_forgets(rollcall, listed, redis_url):
    with redis_py.Redis.from_url(redis_url) as redis:
        before = {name: redis.config_get(name)[name] for name in ("appendonly", "maxmemory-policy")}
        try:
            redis.config_set("appendonly", "no")
            redis.config_set("maxmemory-policy", "allkeys-lru")
            found = rollcall("doctor")
        finally:
            for name, value in before.items():
                redis.config_set(name, value)
    assert found.exit_code == 0
    assert sum(line[:2] == ["warn", "redis keeps"] for line in lines(found)) == 2


def test_the_doctor_sees_a_broker_that_is_away(rollcall, listed):
    result = rollcall("doctor", BROKER_URL="redis://127.0.0.1:1/0")
    assert result.exit_code == 1
    assert "BROKER_URL" in result.stdout


def test_a_database_without_a_schema_is_told_how_to_get_one(rollcall, engine, database_url):
    with transaction(engine) as conn:
        conn.exec_driver_sql("DROP SCHEMA public CASCADE")
        conn.exec_driver_sql("CREATE SCHEMA public")
    result = rollcall("status")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: The database's tables are missing or old: run `rollcall db upgrade`.\n",
    )
    assert findings(rollcall("doctor", "--json"))["schema"] == "fail"
    assert rollcall("db", "upgrade").exit_code == 0
    assert rollcall("status").exit_code == 0


def test_clearing_the_demo_removes_its_numbers_and_keeps_the_list(rollcall, listed, worker):
    rollcall("enqueue", "x/goose", "--wait")
    assert rollcall("demo", "clear", stdin="n\n").exit_code == 1
    assert json.loads(rollcall("status", "--json").stdout)["source"] == "simulated"
    assert rollcall("demo", "clear", "--yes").exit_code == 0
    answer = json.loads(rollcall("status", "--json").stdout)
    assert (answer["accounts"], answer["source"], answer["last_read_at"]) == (4, None, None)


def test_a_cleared_demo_vanishes_from_the_caches_too(rollcall, listed, worker, redis_url):
    rollcall("enqueue", "x/goose", "--wait")
    with redis_py.Redis.from_url(redis_url) as redis:
        redis.flushall()
        rollcall("demo", "clear", "--yes")
        assert len(redis.keys(f"{TAG_KEY}account:*")) == 4
        assert redis.exists(f"{TAG_KEY}summary")


def test_a_key_is_shown_once_works_and_can_be_revoked(rollcall, engine):
    token = rollcall("keys", "create", "--name", "desk", "--scope", "refresh", "--scope", "admin").stdout.strip()
    with reading(engine) as conn:
        key = keys.find(conn, token)
    assert key is not None
    assert (key.name, key.scopes) == ("desk", {"refresh", "admin"})
    shown = rollcall("keys", "list")
    assert lines(shown)[0][:3] == [key.key_id, "desk", "admin refresh"]
    assert token.rpartition("_")[2] not in shown.stdout + rollcall("keys", "list", "--json").stdout
    assert rollcall("keys", "revoke", key.key_id).exit_code == 0
    assert rollcall("keys", "revoke", key.key_id).exit_code == 2
    with reading(engine) as conn:
        assert keys.find(conn, token) is None


def test_the_installed_command_is_plain_in_a_pipe(environ, listed, tmp_path):
    command = Path(sys.executable).with_name("rollcall")
    done = subprocess.run(
        [command, "accounts", "list"], env=dict(environ), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 4
