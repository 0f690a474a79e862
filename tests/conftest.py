"""Real servers for the tests: one PostgreSQL and one Redis per session, a fresh database per test.

The database of a test is a copy of a migrated template, which PostgreSQL makes in some hundredths of a second.
`TEST_DATABASE_URL` (a superuser's address) and `TEST_REDIS_URL` (which is flushed!) name other servers.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis
from psycopg2 import sql

from db import migrate
from db.engine import Engine, make_engine
from deploy.embedded import start_postgres, start_redis
from pipeline import platforms

TEMPLATE = "rollcall_template"
# A test's data may be lost with the machine; its waiting time may not.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the address of a server that has the migrated template."""
    given = os.environ.get("TEST_DATABASE_URL")
    # Not below pytest's own folder: another session of root's takes back what lets PostgreSQL's user in there.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-tests-"))
    server = None if given else start_postgres(folder / "postgres", FAST)
    url = given or server.url
    _admin(url, sql.SQL("DROP DATABASE IF EXISTS {}"), TEMPLATE)
    _admin(url, sql.SQL("CREATE DATABASE {}"), TEMPLATE)
    migrate.upgrade(_for_sqlalchemy(_named(url, TEMPLATE)))
    yield url
    if server:
        server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """Return the address of an empty, migrated database of this test's own."""
    name = f"test_{uuid.uuid4().hex}"
    _admin(postgres, sql.SQL("CREATE DATABASE {} TEMPLATE {}"), name, TEMPLATE)
    yield _for_sqlalchemy(_named(postgres, name))
    _admin(postgres, sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, application_name="tests")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("TEST_REDIS_URL")
    server = None if given else start_redis(tmp_path_factory.mktemp("redis"))
    yield given or server.url
    if server:
        server.stop()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """Return the address of an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def project() -> Path:
    """Return the folder of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def flickr_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take Flickr's reader away: it stands for a platform that another package brings without one."""
    monkeypatch.setattr(platforms.load()["flickr"], "calls", {})


def _admin(url: str, statement: sql.SQL, *names: str) -> None:
    connection = psycopg2.connect(_named(url, "postgres"))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement.format(*map(sql.Identifier, names)))
    finally:
        connection.close()


def _named(url: str, name: str) -> str:
    """Return `url` with another database's name."""
    head, _, query = url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)
