"""What people ask for comes by a channel of its own, beside the one by which Celery fetches the other lanes.

A worker holds as many core messages as it makes calls at a time, each until its call is done (late acknowledgement).
By their channel a person's message would have to wait in the broker until then; by its own it arrives at once, and
the bucket of its task lets it go first.
"""

from typing import Any

from celery.bootsteps import StartStopStep
from celery.worker.consumer.tasks import Tasks
from celery.worker.control import inspect_command
from kombu import Queue
from kombu.common import ignore_errors


class Express(StartStopStep):  # type: ignore[misc]  # Celery has no types
    """The step of Celery's consumer that consumes the person's lane.

    `queue` and `prefetch` (messages held at a time, of this lane and of the others) are set by the composition root.
    """

    requires = (Tasks,)

    queue: Queue
    prefetch: int

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **options)
        c.express = None
        # Celery would hold a message for every thread, and so leave none to the person's lane.
        c.initial_prefetch_count = self.prefetch

    def start(self, c: Any) -> None:
        channel = c.connection.channel()
        channel.basic_qos(0, self.prefetch, False)
        c.express = c.app.amqp.TaskConsumer(channel, queues=[self.queue], on_decode_error=c.on_decode_error)
        c.express.on_message = c.create_task_handler()

    def register_with_event_loop(self, c: Any, hub: Any) -> None:
        # Not before the loop runs: timers of limits that are set earlier go with Celery's own when a connection breaks.
        hub.call_soon(self._consume, c, hub)

    def stop(self, c: Any) -> None:
        """Take no more messages. The channel stays, for those in hand to be acknowledged."""
        if c.express is not None:
            ignore_errors(c, c.express.cancel)

    def shutdown(self, c: Any) -> None:
        self.stop(c)
        c.express = None

    def _consume(self, c: Any, hub: Any) -> None:
        c.express.consume()
        transport = c.connection.transport
        if transport.driver_type == "amqp":
            # What came along with the broker's answer may be in a buffer already, where the loop doesn't see it.
            transport.on_readable(c.connection.connection, hub)


@inspect_command()  # type: ignore[untyped-decorator]
def active_queues(state: Any) -> list[dict[str, Any]]:
    """List the task queues a worker is currently consuming from."""
    # Celery's own command knows of one consumer only; Flower asks this.
    consumers = (state.consumer.express, state.consumer.task_consumer)
    return [dict(queue.as_dict(recurse=True)) for consumer in consumers if consumer for queue in consumer.queues]
