"""Real servers for the tests: one PostgreSQL, one Redis and one RabbitMQ per session, a fresh database per test.

`TEST_DATABASE_URL` (a superuser's address) and `TEST_REDIS_URL` (which is flushed!) name other servers.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kombu import pools

from db.engine import Engine, make_engine
from deploy.embedded import start_postgres, start_redis
from pipeline import platforms
from tests import databases, smtp
from tests.brokers import Broker, RedisBroker
from tests.rabbitmq import HOW_TO_GET_IT, RabbitMQ, rabbitmq_server
from tests.smtp import MailServer

# A test's data may be lost with the machine; its waiting time may not.
# Whether a table was vacuumed just now would decide what its next read counts: no test leaves that to chance.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the address of a server that has the migrated template."""
    given = os.environ.get("TEST_DATABASE_URL")
    # Not below pytest's own folder: another session of root's takes back what lets PostgreSQL's user in there.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-tests-"))
    server = None if given else start_postgres(folder / "postgres", FAST)
    url = given or server.url
    databases.make_template(url)
    yield url
    if server:
        server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """Return the address of an empty, migrated database of this test's own."""
    with databases.copied(postgres) as url:
        yield url


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


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """Return the session's RabbitMQ, started when the first test asks for it."""
    if rabbitmq_server() is None:
        pytest.skip(HOW_TO_GET_IT)
    node = RabbitMQ(tmp_path_factory.mktemp("rabbitmq") / "node")
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture
def rabbitmq(rabbitmq_node: RabbitMQ) -> RabbitMQ:
    """Return a RabbitMQ with no queue."""
    rabbitmq_node.clear()
    pools.reset()  # connections of earlier tests would not declare again what they declared before
    return rabbitmq_node


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest, redis_url: str) -> str:
    """Return the address of an empty broker (BROKER_URL): a test that asks for it runs on both."""
    if request.param == "redis":
        return redis_url
    node: RabbitMQ = request.getfixturevalue("rabbitmq")
    return node.url


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Return an empty broker that the test may stop and start again: it runs with each."""
    if request.param == "redis":
        own = RedisBroker(tmp_path / "broker")
        yield own
        own.stop()
        return
    node: RabbitMQ = request.getfixturevalue("rabbitmq")
    yield node
    node.start()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """Return a running mail server that keeps what it is given; its `environ` is the settings that lead there."""
    with smtp.serving() as server:
        yield server


@pytest.fixture
def project() -> Path:
    """Return the folder of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def flickr_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take Flickr's reader away: it stands for a platform that another package brings without one."""
    monkeypatch.setattr(platforms.load()["flickr"], "calls", {})
