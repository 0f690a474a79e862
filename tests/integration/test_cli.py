"""The commands against real servers: what they print, what they change, and how they exit."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis as redis_py
from click.testing import Result

from api import access
from db import keys, pauses
from db.engine import reading, transaction
from db.models import dim_account
from db.pauses import Pause
from pipeline.messages import SEQUENCE_KEY, TAG_KEY
from tests import fakes
from tests.commands import LIST, lines
from tests.serving import in_process, wait_for

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


@pytest.mark.parametrize("fault", ["password", "virtual host"])
def test_a_broker_that_refuses_is_said_in_a_line_and_what_was_asked_for_is_kept(rollcall, listed, rabbitmq, fault):
    url = {"password": rabbitmq.url.replace(":guest@", ":s3cret@"), "virtual host": f"{rabbitmq.url[:-1]}nowhere"}[
        fault
    ]

    answers = {
        " ".join(command): rollcall(*command, BROKER_URL=url)
        for command in (("doctor",), ("drain",), ("enqueue", "x/goose"), ("jobs", "cancel", "--queued"))
    }

    # Each is one line, not a traceback: click's runner would hold the exception.
    assert all(isinstance(one.exception, SystemExit | None) for one in answers.values()), answers
    assert [one.exit_code for one in answers.values()] == [1, 1, 0, 0]
    assert "the broker refuses" in answers["enqueue x/goose"].stderr
    assert len(lines(answers["jobs cancel --queued"])) == 1
    assert "s3cret" not in "".join(one.output for one in answers.values())


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


def test_a_key_without_a_scope_reads_and_one_that_is_revoked_ends_at_once(
    rollcall, database_url, redis_url, monkeypatch
):
    monkeypatch.setattr(access, "REMEMBERED_S", 3600.0)
    token = rollcall("keys", "create", "--name", "board").stdout.strip()
    mine = {"Authorization": f"Bearer {token}"}
    with in_process(fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")) as api:
        api.wait_until_it_hears_purges()
        assert api.get("/api/summary", **mine).status_code == 200
        assert api.ask("POST", "/api/refresh", **mine).status_code == 403
        assert rollcall("keys", "revoke", token.split("_")[1]).exit_code == 0
        wait_for(lambda: api.get("/api/summary", **mine).status_code == 401, "the key's end", within_s=5)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[2J", "a" * 101])
def test_a_key_has_a_name_that_a_log_can_show(rollcall, engine, name):
    refused = rollcall("keys", "create", "--name", name)
    assert (refused.exit_code, refused.stdout) == (2, "")
    with reading(engine) as conn:
        assert keys.list_keys(conn) == []


def test_the_installed_command_is_plain_in_a_pipe(environ, listed, tmp_path):
    command = Path(sys.executable).with_name("rollcall")
    done = subprocess.run(
        [command, "accounts", "list"], env=dict(environ), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 4
