"""What a worker tells Flower, sent from the event loop: it never waits there for a broker that is away.

Celery would try again until the broker is back. A connection that was cut hangs, so the loop would stand still for as long
as that lasts, or until the process is replaced. Here a heartbeat that doesn't go out ends the connection, and the worker
makes another as soon as it can.

What happens to jobs is told a few times a second, together: a message for each of a job's three events, as soon as it
happens, was a sixth of a worker's CPU.
"""

from typing import Any

from celery.app import events
from celery.bootsteps import StartStopStep
from celery.events.dispatcher import EventDispatcher
from celery.worker.consumer.events import Events as EventsStep

# Nobody who looks at Flower sees the difference.
TELL_S = 0.5


class Dispatcher(EventDispatcher):  # type: ignore[misc]  # Celery has no types
    def _publish(self, event: Any, producer: Any, routing_key: str, retry: bool = False, **options: Any) -> None:
        """Send once. Other events than heartbeats are kept until there is a connection. (Its mutex is held.)"""
        self.buffer_while_offline = routing_key != "worker.heartbeat"
        super()._publish(event, producer, routing_key, retry=False, **options)


class Events(events.Events):  # type: ignore[misc]  # Celery has no types
    dispatcher_cls = "workers.events:Dispatcher"


class Telling(StartStopStep):  # type: ignore[misc]  # Celery has no types
    """The step of Celery's consumer that sends what `workers.consumer` leaves in the dispatcher's buffer."""

    requires = (EventsStep,)

    def start(self, c: Any) -> None:
        c.timer.call_repeatedly(TELL_S, self._tell, (c,))

    def shutdown(self, c: Any) -> None:
        self._tell(c)  # how the last jobs ended

    def _tell(self, c: Any) -> None:
        if c.event_dispatcher:
            c.event_dispatcher.flush()
