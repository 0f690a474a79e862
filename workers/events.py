"""What a worker tells Flower, sent from the event loop: it never waits there for a broker that is away.

Celery would try again until the broker is back. A connection that was cut hangs, so the loop would stand still for as long
as that lasts, or until the process is replaced. Here a heartbeat that doesn't go out ends the connection, and the worker
makes another as soon as it can.
"""

from typing import Any

from celery.app import events
from celery.events.dispatcher import EventDispatcher


class Dispatcher(EventDispatcher):  # type: ignore[misc]  # Celery has no types
    def _publish(self, event: Any, producer: Any, routing_key: str, retry: bool = False, **options: Any) -> None:
        """Send once. Other events than heartbeats are kept until there is a connection. (Its mutex is held.)"""
        self.buffer_while_offline = routing_key != "worker.heartbeat"
        super()._publish(event, producer, routing_key, retry=False, **options)


class Events(events.Events):  # type: ignore[misc]  # Celery has no types
    dispatcher_cls = "workers.events:Dispatcher"
