"""Connections by TLS, to each server, with a certificate that is checked; and the settings files that keep jobs."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis as redis_py
from kombu import Queue
from sqlalchemy import make_url

from api.cache import shared
from db.engine import DatabaseError, make_engine, reading
from deploy.embedded import redis_server as redis_program
from pipeline.app import make_celery
from pipeline.doctor.servers import broker
from pipeline.settings import Settings
from tests import fakes
from tests.nginx import make_certificate
from tests.rabbitmq import RabbitMQ
from tests.serving import wait_for
from tests.tls import tls_before
from tests.varnish import free_port


class Certificate(NamedTuple):
    file: Path
    key: Path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(*make_certificate(tmp_path_factory.mktemp("tls")))


@pytest.fixture
def known(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the certificate be one that this process knows, as one of the system's authorities."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))


@pytest.fixture
def redis_by_tls(redis_url: str, certificate: Certificate) -> Iterator[str]:
    with tls_before(urlsplit(redis_url).path, *certificate) as port:
        yield f"rediss://localhost:{port}/0"


def passes_messages(settings: Settings) -> bool:
    """Tell whether a message comes back from the broker."""
    queue = Queue("tls", routing_key="tls", durable=False, auto_delete=True)
    with make_celery(settings).connection_for_write() as connection, connection.SimpleQueue(queue) as messages:
        messages.put({"said": "goose"})
        message = messages.get(timeout=10)
        message.ack()
        return bool(message.payload == {"said": "goose"})


def test_redis_by_tls_carries_the_cache_and_the_messages(redis_by_tls: str, known: None) -> None:
    settings = fakes.settings("postgresql://nowhere/none", redis_by_tls)

    async def kept() -> object:
        client = shared.connect(redis_by_tls)
        await client.set("cached", "goose")
        try:
            return await client.get("cached")
        finally:
            await client.aclose()

    assert asyncio.run(kept()) == b"goose"
    with redis_py.Redis.from_url(redis_by_tls) as client:
        assert client.get("cached") == b"goose"
    assert passes_messages(settings)
    assert broker(settings).level == "ok"


def test_a_redis_whose_certificate_nobody_knows_is_refused(redis_by_tls: str) -> None:
    with (
        redis_py.Redis.from_url(redis_by_tls) as client,
        pytest.raises(redis_py.ConnectionError, match="certificate"),
    ):
        client.ping()
    found = broker(fakes.settings("postgresql://nowhere/none", redis_by_tls))
    assert found.level == "fail"


def test_rabbitmq_by_tls_passes_messages_and_its_certificate_counts(
    rabbitmq: RabbitMQ, redis_url: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = urlsplit(rabbitmq.url)
    with tls_before((str(address.hostname), int(address.port or 0)), *certificate) as port:
        url = f"amqps://guest:guest@localhost:{port}//"
        settings = fakes.settings("postgresql://nowhere/none", redis_url, BROKER_URL=url)
        assert broker(settings).level == "fail"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
        assert passes_messages(settings)


def test_postgresql_by_tls_checks_certificate_and_name(database_url: str, certificate: Certificate) -> None:
    plain = make_url(database_url)
    with psycopg2.connect(plain.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
        parameters = connection.info.dsn_parameters
    connection.close()
    host, port = parameters["host"], parameters.get("port", "5432")
    target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, int(port))

    def asked(name: str, root: Path) -> object:
        query = {"sslmode": "verify-full", "sslrootcert": str(root)}
        engine = make_engine(
            plain.set(host=name, port=tls_port, query=query).render_as_string(hide_password=False), pool_size=1
        )
        try:
            with reading(engine) as conn:
                return conn.exec_driver_sql("SELECT 1").scalar_one()
        finally:
            engine.dispose()

    other, _ = make_certificate(certificate.file.parent.parent / "tls-other")
    with tls_before(target, *certificate, asked=True) as tls_port:
        assert asked("localhost", certificate.file) == 1
        with pytest.raises(DatabaseError, match="certificate verify failed"):
            asked("localhost", other)


# What keeps jobs


def test_redis_takes_our_settings_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    port = free_port()
    ours = Path(__file__).resolve().parent.parent.parent / "deploy" / "redis.conf"
    command = [redis_program(), str(ours), "--port", str(port), "--dir", str(tmp_path), "--logfile", "redis.log"]

    def start() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(command, start_new_session=True)
        wait_for(lambda: process.poll() is None and _answers(port), "Redis")
        return process

    process = start()
    try:
        with redis_py.Redis(port=port) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("maxmemory") == {"maxmemory": str(1024**3)}
            client.rpush("queue", "job")
            client.config_set("appendfsync", "always")  # what a second may lose isn't what is asked here
            client.rpush("queue", "another")
        process.kill()
        process.wait()
        process = start()
        with redis_py.Redis(port=port) as client:
            assert client.lrange("queue", 0, -1) == [b"job", b"another"]
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with redis_py.Redis(port=port) as client:
            return bool(client.ping())
    except redis_py.ConnectionError:
        return False
