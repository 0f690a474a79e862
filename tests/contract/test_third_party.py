"""A platform that another package brings, and what each of our own consists of: one file, fixtures, two lines."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import select

from db.engine import Engine, reading
from db.models import account_latest, dim_account
from pipeline.lanes import LANES
from tests.contract.playback import CALLS, load
from tests.system import System

SETUP = """\
[metadata]
name = rollcall-harbour
version = 1.0
[options]
py_modules = harbour
[options.entry_points]
rollcall.platforms =
    harbour = harbour:Harbour
"""
MODULE = '''\
"""Harbour: how many follow a boat."""

from workers.node import Node
from workers.platforms.base import Base
from pipeline.platforms import Call, NotOffered, UrlRule
from pipeline.records import Profile


class Harbour(Base):
    name = "harbour"
    title = "Harbour"
    base_url = "https://api.harbour.example"
    not_offered = NotOffered(following="boats follow nobody", posts="boats don't write", engagement="boats don't write")
    calls = {"profiles": Call(limit="5/s", batch=10)}
    needs = ("HARBOUR_KEY",)
    handle_pattern = r"[a-z]+"
    urls = (UrlRule(r"harbour\\.example/boats/(?P<handle>[a-z]+)"),)

    def profile_url(self, handle, host):
        return f"https://harbour.example/boats/{handle}"

    def headers(self, http):
        return {"Authorization": f"Bearer {http.credential('HARBOUR_KEY')}"}

    def fetch_profiles(self, accounts, http):
        return http.get("/boats", [("name", account.handle) for account in accounts])

    def parse_profiles(self, page, accounts):
        boats = {boat.need_text("name"): boat for boat in Node(self.name, page.body).need_nodes("boats")}
        return self.one_by_one(accounts, lambda account: read(account, boats[account.handle]))


def read(account, boat):
    return Profile(
        account_key=account.account_key,
        external_id=boat.need_text("id"),
        handle=account.handle,
        followers=boat.need_count("followers"),
    )
'''
GOOSE = "https://www.harbour.example/boats/goose"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the package was installed.

    It is built as any installer builds it, and unpacked, which is all that installing it means. Not by pip, which an
    environment made by uv doesn't have.
    """
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "setup.cfg").write_text(SETUP)
    (source / "harbour.py").write_text(MODULE)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    with ZipFile(wheel) as packed:
        packed.extractall(target)
    return target


class Beside:
    """Rollcall's commands and workers, with the package beside them."""

    def __init__(self, running: System, project: Path) -> None:
        self.running = running
        self._project = project

    def python(self, code: str, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self._project,
            env={**self.running.environ, **environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def rollcall(self, *arguments: str, stdin: str = "", **environ: str) -> str:
        done = self.python("from pipeline.cli import main; main()", *arguments, stdin=stdin, **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def beside(
    database_url: str, redis_url: str, tmp_path: Path, installed: Path, project: Path, httpserver: HTTPServer
) -> Iterator[Beside]:
    environ = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PYTHONPATH": str(installed),
        "HARBOUR_BASE_URL": httpserver.url_for("").rstrip("/"),
        "HARBOUR_KEY": "",
    }
    (tmp_path / "logs").mkdir()
    running = System(environ, tmp_path / "logs")
    try:
        yield Beside(running, project)
    finally:
        running.stop()


def test_a_package_beside_rollcall_brings_a_platform_with_its_settings(beside: Beside) -> None:
    (harbour,) = [one for one in json.loads(beside.rollcall("platforms", "--json")) if one["platform"] == "harbour"]
    assert harbour["needs"] == {"HARBOUR_KEY": False}

    wrong = beside.python(
        "from pipeline.settings import load_settings; load_settings()", RATE_LIMIT_HARBOUR_PROFILES="often"
    )
    assert "RATE_LIMIT_HARBOUR_PROFILES: 'often' is not a rate" in wrong.stderr


def test_it_has_its_three_lanes(beside: Beside) -> None:
    code = (
        "from pipeline.app import make_celery\n"
        "from pipeline.settings import load_settings\n"
        "print(*(queue.name for queue in make_celery(load_settings()).conf.task_queues))"
    )
    queues = beside.python(code).stdout.split()
    assert [name for name in queues if name.startswith("harbour.")] == [f"harbour.{lane}" for lane in LANES]


def test_its_worker_reads_an_imported_account_into_the_database(
    beside: Beside, engine: Engine, httpserver: HTTPServer
) -> None:
    boats = {"boats": [{"id": 7, "name": "goose", "followers": 1204}]}
    wanted = httpserver.expect_request("/boats", query_string="name=goose", headers={"Authorization": "Bearer river"})
    wanted.respond_with_json(boats)
    beside.rollcall("accounts", "import", "-", stdin=f"url\n{GOOSE}\n")
    beside.running.worker("harbour", HARBOUR_KEY="river")

    beside.rollcall("enqueue", "harbour/goose", "--wait", HARBOUR_KEY="river")

    with reading(engine) as conn:
        columns = (
            dim_account.c.platform,
            dim_account.c.handle,
            dim_account.c.external_id,
            account_latest.c.followers,
        )
        (row,) = conn.execute(
            select(*columns).join(account_latest, account_latest.c.account_key == dim_account.c.account_key)
        ).all()
    assert tuple(row) == ("harbour", "goose", "7", 1204)


# What a platform of our own consists of


def registered(project: Path) -> dict[str, str]:
    """Return the entry points of our platforms."""
    setup = ConfigParser()
    setup.read(project / "setup.cfg")
    lines = setup["options.entry_points"]["rollcall.platforms"].strip().splitlines()
    return dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines)


def test_every_platform_has_its_file_its_line_in_the_procfile_and_its_recorded_answers(project: Path) -> None:
    procfile = (project / "Procfile").read_text().splitlines()
    recorded = {(one.platform, one.kind) for one in load()}
    for name, entry in registered(project).items():
        assert entry.startswith(f"workers.platforms.{name}:")
        assert any(re.fullmatch(rf"worker_{name}: .*\bpython -m workers {name}", line) for line in procfile)
        assert {(platform, kind) for platform, kind in CALLS if platform == name} <= recorded


def test_the_procfile_starts_workers_of_registered_platforms_only(project: Path) -> None:
    started = re.findall(r"^worker_(\w+):", (project / "Procfile").read_text(), re.MULTILINE)
    assert sorted(started) == sorted(registered(project))
