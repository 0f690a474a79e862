"""A message that outlives its connection to Redis does no harm to whoever holds it."""

import pytest

from pipeline import lanes
from pipeline.app import make_celery
from tests.fakes import settings


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
