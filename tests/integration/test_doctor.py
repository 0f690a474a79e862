"""`rollcall doctor` where everything runs as it should, and with each thing broken once."""

import json
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis as redis_py
from click.testing import CliRunner
from pytest_httpserver import HTTPServer

from db import overview, partitions, pauses
from db.engine import reading, transaction
from db.pauses import Pause
from deploy.embedded import start_redis
from pipeline.accounts import import_list
from pipeline.cli import main
from pipeline.doctor import processes
from tests import databases
from tests.databases import Owned, connected
from tests.serving import Gunicorn, gunicorn
from tests.system import System, system

LIST = b"platform,handle\nx,goose\nx,gander\nbluesky,duck.example\n"
PASSWORD = "rollcall:0123456789abcdef"


class Running:
    """Everything that Rollcall needs, as in production, and the environment of its processes."""

    def __init__(self, owned: Owned, redis_url: str, processes: System, api: Gunicorn) -> None:
        self.owned, self.redis_url, self.processes, self.api = owned, redis_url, processes, api
        self.environ: Mapping[str, str] = {
            "DATABASE_URL": owned.url(owned.owner),
            "REDIS_URL": redis_url,
            "SIMULATOR_URL": processes.environ["SIMULATOR_URL"],
            "PORT": str(api.port),
            "FLOWER_BASIC_AUTH": PASSWORD,
            "BROKER_URL": "",
            "X_BEARER_TOKEN": "",
        }


@pytest.fixture(scope="module")
def running(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("doctor")
    redis = start_redis(folder / "redis")
    try:
        with databases.owned(postgres) as owned:
            api_url, workers_url = owned.url(owned.roles.api), owned.url(owned.roles.workers)
            with (
                connected(owned, owned.owner) as engine,
                system(workers_url, redis.url, folder / "logs") as (processes, simulator),
                gunicorn(api_url, redis.url, folder, workers=1, SIMULATOR_URL=simulator.url) as api,
            ):
                assert import_list(engine, LIST, now=datetime.now(UTC)).counts == {"imported": 3}
                yield Running(owned, redis.url, processes, api)
    finally:
        redis.stop()


Found = Mapping[str, Sequence[str]]


@pytest.fixture
def examined(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Found]]:
    """Return a function that runs the doctor: exit code, and level, words and mending of each thing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "ANSWER_S", 0.2)  # most tests have no worker to wait for

    def examine(**more: str) -> tuple[int, Found]:
        result = CliRunner(env={**running.environ, **more}).invoke(main, ["doctor", "--json"])
        assert isinstance(result.exception, SystemExit | None), result.exception
        found = json.loads(result.stdout)
        for one in found:  # whoever reads it knows what to do
            assert one["said"] and bool(one["mend"]) == (one["level"] != "ok"), one
        # Of what is said twice, what is worse.
        by_level = sorted(found, key=lambda one: ("ok", "warn", "fail").index(one["level"]))
        return result.exit_code, {one["what"]: (one["level"], one["said"], one["mend"] or "") for one in by_level}

    return examine


def test_all_is_well_where_all_runs_and_what_stops_is_named(
    running: Running, examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ANSWER_S", 2.0)
    workers = [running.processes.worker(platform) for platform in ("x", "bluesky")]
    beat = running.processes.start("pipeline.beat")
    recorder = running.processes.start("workers.recorder")
    notifier = running.processes.start("pipeline.notifier")

    def levels() -> Mapping[str, str]:
        return {what: level for what, (level, *_) in examined()[1].items()}

    def all_well() -> bool:
        machine = ("disk", "disk of exports", "open files")  # whatever the machine of the test has
        return {level for what, level in levels().items() if what not in machine} == {"ok"}

    running.processes.wait(all_well, within_s=60, what="a clean bill of health")
    _, found = examined()
    assert found.keys() >= {"database", "schema", "role", "partitions", "clock", "redis", "redis keeps", "api"}
    assert {what for what in found if what.startswith("worker_")} == {"worker_x", "worker_bluesky"}

    for process, what, level in (
        (workers[0], "worker_x", "fail"),
        (beat, "beat", "fail"),
        (recorder, "recorder", "warn"),
        (notifier, "notifier", "warn"),
        (running.api.process, "api", "fail"),
    ):
        process.terminate()
        process.wait(60)
        running.processes.wait(
            lambda what=what, level=level: levels()[what] == level, within_s=30, what=f"{what} to be missed"
        )
    code, found = examined()
    assert code == 1
    assert {what: found[what][2] for what in ("worker_x", "beat", "recorder", "notifier")} == {
        "worker_x": "start it: `rollcall-worker@x.service`",
        "beat": "start it: `rollcall-beat.service`",
        "recorder": "start it: `rollcall-recorder.service`",
        "notifier": "start it: `rollcall-notifier.service`",
    }
    assert found["worker_bluesky"][0] == "ok"


# The servers


def test_a_database_that_is_away_is_told_and_all_else_is_looked_at(examined) -> None:
    code, found = examined(DATABASE_URL="postgresql://rollcall:s3cret@127.0.0.1:1/rollcall")
    assert (code, found["database"][0]) == (1, "fail")
    assert "DATABASE_URL" in found["database"][2] and "s3cret" not in str(found)
    assert found["redis"][0] == "ok"


@contextmanager
def database(server: str, options: str) -> Iterator[str]:
    """Yield the address of an empty database that was made so."""
    databases._admin(server, f"CREATE DATABASE {{}} {options}", "empty_one")
    try:
        yield databases._named(server, "empty_one")
    finally:
        databases._admin(server, "DROP DATABASE {} WITH (FORCE)", "empty_one")


def test_a_database_without_a_schema_or_in_a_poor_encoding_is_told(postgres: str, examined) -> None:
    with database(postgres, "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0") as url:
        code, found = examined(DATABASE_URL=url)
    assert code == 1
    assert (found["schema"][0], found["schema"][2]) == ("fail", "run `rollcall db upgrade`")
    assert found["database speaks"][0] == "fail" and "UTF8" in found["database speaks"][2]


def test_a_time_zone_that_the_address_sets_is_told(running: Running, examined) -> None:
    url = running.environ["DATABASE_URL"]
    _, found = examined(DATABASE_URL=f"{url}{'&' if '?' in url else '?'}options=-c%20timezone%3DEurope/Berlin")
    assert found["database speaks"][:2] == ("fail", "the time of Europe/Berlin, so days begin elsewhere")


def test_each_role_is_told_what_it_may_and_what_it_lacks(running: Running, postgres: str, examined) -> None:
    owned = running.owned
    assert examined(DATABASE_URL=owned.url(owned.roles.api))[1]["role"][0] == "ok"
    assert examined(DATABASE_URL=owned.url(owned.roles.workers))[1]["role"][0] == "ok"
    superuser = databases._named(postgres, owned.name)
    assert examined(DATABASE_URL=superuser)[1]["role"][0] == "warn"
    with connected(owned, owned.owner) as engine, transaction(engine) as conn:
        conn.exec_driver_sql(f"REVOKE DELETE ON lease FROM {owned.roles.workers}")
    try:
        code, found = examined(DATABASE_URL=owned.url(owned.roles.workers))
    finally:
        with connected(owned, owned.owner) as engine, transaction(engine) as conn:
            conn.exec_driver_sql(f"GRANT DELETE ON lease TO {owned.roles.workers}")
    assert (code, found["role"][0]) == (1, "fail")
    assert "DELETE on lease" in found["role"][1] and "rollcall db roles" in found["role"][2]


def test_a_role_that_was_granted_nothing_is_told_so(running: Running, postgres: str, examined) -> None:
    databases._admin(postgres, "CREATE ROLE {} LOGIN PASSWORD 'tests'", "rollcall_nobody")
    try:
        code, found = examined(DATABASE_URL=running.owned.url("rollcall_nobody"))
    finally:
        databases._admin(postgres, "DROP ROLE {}", "rollcall_nobody")
    assert (code, found["schema"][0]) == (1, "fail")
    assert "rollcall db roles" in found["schema"][2]


def test_partitions_that_nobody_made_are_told(running: Running, examined) -> None:
    with connected(running.owned, running.owned.owner) as engine:
        with reading(engine) as conn:
            newest = max(partition.name for partition in partitions.listed(conn))
        with transaction(engine) as conn:
            conn.exec_driver_sql(f"ALTER TABLE fact_followers_snapshot DETACH PARTITION {newest}")
        try:
            _, found = examined()
        finally:
            with transaction(engine) as conn:
                conn.exec_driver_sql(f"DROP TABLE {newest}")
                partitions.ensure(conn, today=datetime.now(UTC).date())
    assert found["partitions"][0] == "warn" and "rollcall db partitions" in found["partitions"][2]
    assert examined()[1]["partitions"][0] == "ok"


@pytest.mark.parametrize(("skew_s", "level"), [(5, "warn"), (-300, "fail")])
def test_clocks_that_differ_are_told(examined, monkeypatch: pytest.MonkeyPatch, skew_s: int, level: str) -> None:
    monkeypatch.setattr(overview, "clock", lambda _: datetime.now(UTC) + timedelta(seconds=skew_s))
    _, found = examined()
    assert found["clock"][0] == level and "NTP" in found["clock"][2]


def test_a_redis_that_is_away_or_forgets_is_told(running: Running, examined) -> None:
    code, found = examined(REDIS_URL="redis://:s3cret@127.0.0.1:1/0")
    assert (code, found["redis"][0], found["broker"][0]) == (1, "fail", "fail")
    assert "REDIS_URL" in found["redis"][2] and "s3cret" not in str(found)
    with redis_py.Redis.from_url(running.redis_url) as redis:
        for name, wrong, right in (("appendonly", "no", "yes"), ("maxmemory-policy", "allkeys-lru", "noeviction")):
            redis.config_set(name, wrong)
            try:
                assert examined()[1]["redis keeps"][0] == "warn", name
            finally:
                redis.config_set(name, right)
    assert examined()[1]["redis keeps"][0] == "ok"


def test_a_broker_that_is_away_is_told_by_the_name_of_its_setting(examined) -> None:
    code, found = examined(BROKER_URL="redis://127.0.0.1:1/0")
    assert (code, found["redis"][0], found["broker"][0]) == (1, "ok", "fail")
    assert "BROKER_URL" in found["broker"][2]


def test_a_job_that_outlasts_its_message_or_its_lease_is_told(examined) -> None:
    assert examined(JOB_LEASE_S="580")[1]["visibility timeout"][0] == "warn"
    assert examined(JOB_LEASE_S="560")[1]["visibility timeout"][0] == "ok"
    for name in ("HTTP_DEADLINE_S", "PLAN_AHEAD_S"):
        _, found = examined(**{name: "60", "JOB_LEASE_S": "60"})
        assert found["settings"] == (
            "warn",
            f"jobs may be given out twice: JOB_LEASE_S=60 is not longer than {name}=60",
            f"raise JOB_LEASE_S above {name}, or lower that",
        )
        assert examined(**{name: "60", "JOB_LEASE_S": "61"})[1]["settings"][0] == "ok"


# The platforms


def test_missing_and_refused_credentials_are_told(running: Running, examined) -> None:
    live = {"SIMULATOR_URL": ""}
    _, found = examined(**live)
    assert found["x"] == ("warn", "2 accounts waiting for a credential", "set X_BEARER_TOKEN")
    assert "worker_x" not in found  # it would have nothing to do
    assert examined(**live, X_BEARER_TOKEN="t")[1]["x"][0] == "ok"
    refused = Pause("x", "2", datetime.now(UTC) + timedelta(hours=1), "401: the token has expired", "blocked")
    with connected(running.owned, running.owned.owner) as engine:
        with transaction(engine) as conn:
            pauses.add(conn, refused)
        try:
            _, found = examined()
        finally:
            with transaction(engine) as conn:
                pauses.unblock(conn, "x", "2")
    assert found["x"][:2] == ("warn", "refuses credential 2: 401: the token has expired")
    assert "renew X_BEARER_TOKEN_2" in found["x"][2]


def test_an_address_that_is_none_is_told(examined) -> None:
    code, found = examined(SIMULATOR_URL="", BLUESKY_BASE_URL="pond")
    assert code == 1
    assert found["bluesky"] == (
        "fail",
        "BLUESKY_BASE_URL is not an address",
        "write BLUESKY_BASE_URL as https://host",
    )


# This machine


def test_secrets_that_everybody_may_read_are_told(running: Running, examined, tmp_path: Path) -> None:
    token = tmp_path / "x"
    token.write_text("t")
    token.chmod(0o640)
    given = {"X_BEARER_TOKEN": "", "X_BEARER_TOKEN_FILE": str(token)}
    assert examined(**given)[1]["secrets"][0] == "ok"
    token.chmod(0o644)
    code, found = examined(**given)
    assert (code, found["secrets"][0], found["secrets"][2]) == (1, "fail", f"chmod o= {token}")
    token.chmod(0o600)
    (tmp_path / ".env").write_text("LOG_LEVEL=info\n")
    (tmp_path / ".env").chmod(0o604)
    assert examined(**given)[1]["secrets"][2] == "chmod o= .env"


@pytest.mark.parametrize(("free", "level"), [(10**9, "warn"), (10**8, "fail")])
def test_a_disk_that_is_nearly_full_is_told(examined, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - free, free))
    _, found = examined()
    assert (found["disk"][0], found["disk of exports"][0]) == (level, level)


def test_a_folder_for_exports_that_is_not_there_is_told(examined, tmp_path: Path) -> None:
    code, found = examined(EXPORT_FOLDER=str(tmp_path / "none"))
    assert (code, found["disk of exports"][0]) == (1, "fail")


def test_too_few_open_files_are_told(examined) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        assert examined()[1]["open files"][0] == "warn"
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        assert examined()[1]["open files"][0] == "ok"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_flower_without_a_good_password_is_told(examined) -> None:
    for auth, level in (("", "warn"), ("flower", "fail"), ("flower:flower", "warn"), (PASSWORD, "ok")):
        assert examined(FLOWER_BASIC_AUTH=auth)[1]["flower"][0] == level, auth


def test_something_else_at_the_apis_port_is_told(examined, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/readyz").respond_with_data("hello", status=404)
    code, found = examined(PORT=str(httpserver.port))
    assert (code, found["api"][0]) == (1, "fail")
    assert "PORT" in found["api"][2]


def test_an_api_that_lacks_a_part_is_told(examined, httpserver: HTTPServer) -> None:
    parts = {"database": "ok", "cache": "down", "broker": "ok", "purge_listener": "down"}
    httpserver.expect_request("/readyz").respond_with_json({"status": "ready", **parts})
    assert examined(PORT=str(httpserver.port))[1]["api"][0] == "warn"
    httpserver.clear()
    httpserver.expect_request("/readyz").respond_with_json({"status": "not ready", **parts}, status=503)
    _, found = examined(PORT=str(httpserver.port))
    assert found["api"][0] == "fail" and "cache, purge_listener" in found["api"][1]


def test_static_files_that_a_browser_cannot_use_are_told(examined, httpserver: HTTPServer) -> None:
    cdn = httpserver.url_for("")
    assert examined(STATIC_URL="http://127.0.0.1:1")[1]["static files"][0] == "fail"
    httpserver.expect_request("/static/doctor/app.css").respond_with_data("", status=404)
    assert examined(STATIC_URL=cdn)[1]["static files"][0] == "fail"
    httpserver.clear()
    httpserver.expect_request("/static/doctor/app.css").respond_with_data("a{}")
    assert "CORS" in examined(STATIC_URL=cdn)[1]["static files"][1]
    httpserver.clear()
    httpserver.expect_request("/static/doctor/app.css").respond_with_data(
        "a{}", headers={"Access-Control-Allow-Origin": "*"}
    )
    assert examined(STATIC_URL=cdn)[1]["static files"][0] == "ok"
    assert "static files" not in examined()[1]
