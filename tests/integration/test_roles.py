"""The API, workers, beat and the recorder, each under a role of its own, do all that they do, and nothing else."""

import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import func, select, text

from db import keys, migrate, partitions, roles
from db.engine import DatabaseError, Engine, reading, transaction
from db.models import metadata, scrape_state
from db.roles import Rights, Roles
from pipeline.accounts import import_list
from pipeline.cli import main
from tests import databases
from tests.databases import Owned, connected
from tests.serving import gunicorn
from tests.system import system

DENIED = "42501"
LIST = b"platform,handle,organization\nbluesky,goose.example,Geese\nbluesky,gander.example,Geese\nx,goose,Geese\n"


@pytest.fixture(scope="module")
def owned(postgres: str) -> Iterator[Owned]:
    with databases.owned(postgres) as made:
        yield made


def may(engine: Engine, statement: str) -> bool:
    """Tell whether the server lets a role do this; nothing is kept of it."""
    try:
        with engine.connect() as conn:
            conn.exec_driver_sql(statement)
            conn.rollback()
    except DatabaseError as exc:
        assert getattr(exc.orig, "pgcode", None) == DENIED, exc
        return False
    return True


API_MAY_NOT = (
    "DELETE FROM api_key",
    "DELETE FROM dim_account",
    "DELETE FROM scrape_job",
    "UPDATE fact_followers_snapshot SET followers = 0",
    "UPDATE fact_followers_snapshot_default SET followers = 0",
    "UPDATE account_latest SET followers = 0",
    "DELETE FROM fact_social_post",
    "DELETE FROM metric_minute",
    "UPDATE lease SET holder = 'me'",
    "UPDATE alembic_version SET version_num = '0001'",
)
WORKERS_MAY_NOT = (
    "SELECT FROM api_key",
    "UPDATE api_key SET scopes = '{admin}'",
    "SELECT FROM annotation",
    "SELECT FROM history_import",
    "INSERT INTO dim_account (platform, handle, url) VALUES ('x', 'y', 'z')",
    "DELETE FROM dim_account",
    "DELETE FROM fact_followers_snapshot",
    "DELETE FROM fact_social_post",
    "UPDATE alembic_version SET version_num = '0001'",
)
NEITHER_MAY = (
    "CREATE TABLE mine (n int)",
    "DROP TABLE annotation",
    "TRUNCATE scrape_job",
    "ALTER TABLE dim_account ADD COLUMN mine int",
    "CREATE TRIGGER mine AFTER INSERT ON dim_account EXECUTE FUNCTION day_total_of_changed_accounts()",
    "ALTER TABLE fact_followers_snapshot DETACH PARTITION fact_followers_snapshot_default",
    "CREATE ROLE mine",
    "COPY dim_account TO '/tmp/rollcall-mine'",
)


def test_what_a_role_has_no_business_with_is_refused(owned: Owned) -> None:
    for role, refused in ((owned.roles.api, API_MAY_NOT), (owned.roles.workers, WORKERS_MAY_NOT)):
        with connected(owned, role) as engine:
            assert [statement for statement in (*refused, *NEITHER_MAY) if may(engine, statement)] == []
    with connected(owned, owned.owner) as engine:  # they are refused for want of rights, not for their words
        assert [one for one in (*API_MAY_NOT, *WORKERS_MAY_NOT, *NEITHER_MAY[:5]) if not may(engine, one)] == []


def test_every_table_has_the_rights_that_are_declared_and_a_new_one_is_the_apis(owned: Owned) -> None:
    with connected(owned, owned.owner) as engine, reading(engine) as conn:
        assert roles.held(conn, owned.roles) == roles.wanted()
    rights = {one.table: one for one in roles.wanted()}
    assert rights.keys() == {*metadata.tables, "alembic_version"}
    assert (rights["annotation"].api, rights["annotation"].workers) == ("SELECT, INSERT, UPDATE, DELETE", "")
    assert roles._of("of_tomorrow", {}) == Rights("of_tomorrow", "SELECT, INSERT, UPDATE, DELETE", "")


def test_partitions_and_tables_that_come_later_can_be_read_by_the_api_and_not_by_workers(owned: Owned) -> None:
    with connected(owned, owned.owner) as engine, transaction(engine) as conn:
        (name,) = partitions.cover(conn, [date(2041, 5, 5)])
        conn.execute(text("CREATE TABLE of_tomorrow (n int)"))
    with connected(owned, owned.roles.api) as engine:
        assert may(engine, f"SELECT FROM {name}")
        assert may(engine, "SELECT FROM of_tomorrow")
        assert not may(engine, "DELETE FROM of_tomorrow")
    with connected(owned, owned.roles.workers) as engine:
        assert not may(engine, "SELECT FROM of_tomorrow")
        assert may(
            engine,
            "INSERT INTO fact_followers_snapshot (account_key, snapshot_date, captured_at, source, precision)"
            " VALUES (1, '2041-05-05', now(), 'live', 'exact')",
        )


def test_an_upgrade_keeps_rights_in_step_where_they_were_granted_once(owned: Owned) -> None:
    with connected(owned, owned.owner) as engine:
        with transaction(engine) as conn:
            conn.execute(text(f'REVOKE UPDATE ON scrape_job FROM "{owned.roles.api}"'))
            conn.execute(text(f'GRANT TRUNCATE ON scrape_job TO "{owned.roles.workers}"'))
        migrate.upgrade(owned.url(owned.owner), follow=owned.roles)
        with reading(engine) as conn:
            assert roles.held(conn, owned.roles) == roles.wanted()


def test_an_upgrade_grants_nothing_where_nobody_asked_for_it(owned: Owned, engine: Engine) -> None:
    migrate.upgrade(engine.url.render_as_string(hide_password=False), follow=owned.roles)
    with reading(engine) as conn:
        assert {one.api + one.workers for one in roles.held(conn, owned.roles)} == {""}


def test_roles_that_would_own_everything_or_are_missing_are_refused_with_how_to_mend_it(owned: Owned) -> None:
    faults = {
        Roles(owned.owner, owned.roles.workers): f"{owned.owner} may do everything",
        Roles(owned.roles.api, owned.roles.api): "need a role each",
        Roles("nobody's", owned.roles.workers): """CREATE ROLE "nobody's" LOGIN PASSWORD""",
    }
    with connected(owned, owned.owner) as engine:
        for wrong, said in faults.items():
            with transaction(engine) as conn, pytest.raises(roles.Unfit, match=said):
                roles.grant(conn, wrong)
        with reading(engine) as conn:
            assert roles.held(conn, owned.roles) == roles.wanted()


def test_the_commands_grant_and_a_refusal_is_a_line(owned: Owned, redis_url: str, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"REDIS_URL": redis_url, "DB_API_ROLE": owned.roles.api, "DB_WORKERS_ROLE": owned.roles.workers}

    def rollcall(role: str, *command: str, **more: str) -> Result:
        return CliRunner(env={**given, "DATABASE_URL": owned.url(role), **more}).invoke(main, command)

    granted = rollcall(owned.owner, "db", "roles", "--json")
    assert granted.exit_code == 0, granted.output
    assert {row["table"]: row["workers"] for row in json.loads(granted.stdout)}["api_key"] == ""
    nobody = rollcall(owned.owner, "db", "roles", DB_API_ROLE="nobody")
    assert nobody.exit_code == 2 and "CREATE ROLE" in nobody.stderr
    other = rollcall(owned.roles.workers, "db", "roles")
    assert other.exit_code == 2 and "only the tables' owner" in other.stderr
    for command in (("db", "partitions"), ("keys", "create", "--name", "me")):
        refused = rollcall(owned.roles.workers, *command)
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1), refused.stderr
        assert "of the tables' owner" in refused.stderr


def test_everything_works_under_the_roles(owned: Owned, redis_url: str, tmp_path: Path) -> None:
    """A list comes in, a worker reads it, the recorder counts, beat tidies; the API answers and changes."""
    api_url, workers_url = owned.url(owned.roles.api), owned.url(owned.roles.workers)
    with connected(owned, owned.roles.api) as as_api:  # as the page for imports does it
        assert import_list(as_api, LIST, now=datetime.now(UTC)).counts == {"imported": 3}
    with connected(owned, owned.owner) as as_owner, transaction(as_owner) as conn:
        token = keys.create(conn, name="tests", scopes=["admin"])
    with (
        system(workers_url, redis_url, tmp_path / "logs") as (processes, simulator),
        gunicorn(api_url, redis_url, tmp_path, SIMULATOR_URL=simulator.url, DB_PROFILE="true") as api,
        connected(owned, owned.roles.api) as as_api,
    ):
        for platform in ("bluesky", "x"):
            processes.worker(platform)
        processes.start("pipeline.beat")
        processes.start("workers.recorder")
        asked = partial(ask, api.port, token)
        processes.wait(lambda: unread(as_api) == 0, within_s=60, what="profiles and posts")

        job = asked("POST", "/api/refresh", {"accounts": ["x/goose", "bluesky/goose.example"]})["jobs"][0]["job_id"]
        processes.wait(
            lambda: asked("GET", f"/api/jobs/{job}")["state"] == "succeeded", within_s=60, what="the refresh"
        )
        moved = asked("PATCH", "/api/accounts/x/goose", {"org_name": "Ducks", "is_core_account": True})
        assert moved["org_name"] == "Ducks"
        for paused in (True, False):
            asked("PATCH", "/api/accounts/bluesky/gander.example", {"is_active": not paused})
        note = asked("POST", "/api/annotations", {"note": "A day", "from": "2026-03-01", "all": True})
        asked("DELETE", f"/api/annotations/{note['annotation_id']}")
        for path in READS:
            asked("GET", path)
        processes.wait(lambda: counted(asked("GET", "/api/performance")), within_s=30, what="metrics of both")
        said = processes.said() + (tmp_path / "api.log").read_text()
    assert "partitions_left" in said
    assert [word for word in ("permission denied", "must be owner", "Traceback", "_failed") if word in said] == []


READS = (
    *("/api/summary", "/api/totals", "/api/totals?group=day", "/api/accounts", "/api/grid", "/api/movers"),
    *("/api/history/x/goose", "/api/posts/bluesky/goose.example", "/api/accounts/x/goose", "/api/health/data"),
    *("/api/jobs", "/api/annotations", "/metrics", "/readyz", "/healthz", "/openapi.json", "/docs"),
    *("/", "/accounts", "/grid", "/compare", "/accounts/x/goose"),
    *(f"/api/export/{what}?format=csv" for what in ("summary", "grid", "accounts", "posts")),
)


def ask(port: int, token: str, method: str, path: str, body: object = None) -> Any:
    """Return a good answer of the API, from JSON where it is that."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        said = answer.read()
        return json.loads(said) if answer.headers.get_content_type() == "application/json" and said else said


def unread(engine: Engine) -> int:
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).where(scrape_state.c.last_success_at.is_(None))) or 0


def counted(performance: Any) -> bool:
    """Tell whether the recorder has counted requests and calls."""
    return bool(performance["since_start"]["endpoints"]) and bool(performance["since_start"]["scraping"])
