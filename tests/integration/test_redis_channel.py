"""A message that outlives its connection to Redis does no harm to whoever holds it, and nobody waits for a dead line."""

import socket
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from pipeline import lanes, redis_channel
from pipeline.app import make_celery
from pipeline.messages import publish_jobs
from pipeline.records import Job
from tests.brokers import RedisBroker
from tests.fakes import settings
from workers.events import Events


def test_a_message_whose_connection_is_gone_is_refused_in_the_way_that_celery_expects(redis_url: str) -> None:
    celery = make_celery(settings("postgresql://nowhere/rollcall", redis_url))
    with celery.connection_for_read() as connection:
        channel = connection.default_channel
        queue = lanes.queue("bluesky", "core")(channel)
        connection.Producer().publish({}, routing_key=queue.name, declare=[queue])
        message = queue.get()
        # What kombu leaves behind when Redis goes away while a channel waits for its next message.
        channel._disconnect_pools()
        channel.connection.client = None

        with pytest.raises(connection.connection_errors):
            message.ack()
        channel.connection.client = connection


def test_all_commands_of_a_channel_go_by_one_client_until_its_connections_are_gone(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    make = redis_channel.Channel._create_client

    def create(channel: redis_channel.Channel, asynchronous: bool = False) -> Any:
        client = make(channel, asynchronous)
        if not asynchronous:  # those wait for messages, and have a connection of their own
            made.append(client)
        return client

    monkeypatch.setattr(redis_channel.Channel, "_create_client", create)
    celery = make_celery(settings("postgresql://nowhere/rollcall", redis_url))
    with celery.connection_for_read() as connection:
        channel = connection.default_channel
        queue = lanes.queue("bluesky", "core")(channel)
        for _ in range(3):
            connection.Producer().publish({}, routing_key=queue.name, declare=[queue])
            queue.get().ack()
        assert len(made) == 1

        channel._disconnect_pools()
        connection.Producer().publish({}, routing_key=queue.name)

        assert queue.get() is not None
        assert len(made) == 2


def test_a_redis_that_does_not_answer_any_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_channel, "_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, as a line that is cut takes bytes
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        celery = make_celery(settings("postgresql://nowhere/rollcall", url))

        with pytest.raises(OperationalError):
            publish_jobs(celery, [Job(job_id="1", platform="x", kind="profiles", lane="core")])


def test_a_workers_heartbeat_that_does_not_go_out_ends_its_connection(tmp_path: Path) -> None:
    broker = RedisBroker(tmp_path / "broker")
    celery = make_celery(settings("postgresql://nowhere/rollcall", broker.url))
    celery.events_cls = Events
    with celery.connection_for_write() as connection, celery.events.Dispatcher(connection) as events:
        events.send("worker-online", retry=True)
        broker.stop()

        events.send("task-started")
        with pytest.raises(connection.connection_errors):
            events.send("worker-heartbeat", retry=True)

        broker.start()
        events.flush()
    broker.stop()
