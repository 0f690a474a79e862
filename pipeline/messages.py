"""What processes tell each other besides jobs: metrics (a queue) and purges (a fanout), and the doors for jobs.

Everything here is sent after a commit, never before: before it, a reader would cache the old row again.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog
from celery import Celery
from kombu import Connection, Consumer, Exchange, Queue
from kombu.exceptions import BatchPublishError, OperationalError
from redis import Redis, RedisError

from db.metrics import Metric
from pipeline import lanes
from pipeline.records import Job, Kind

log = structlog.get_logger()

METRICS = Queue("rollcall.metrics", Exchange(""))
PURGES = Exchange("rollcall.purge", type="fanout", durable=False)
SEQUENCE_KEY = "rollcall:cache:seq"
TAG_KEY = "rollcall:cache:tag:"
# Longer than any answer is kept (15 minutes): a tag forgotten earlier would revive what it had purged.
TAG_KEPT_S = 86_400
RECONNECT_S = 0.5

# The time of the first purge seeds the sequence, so that a flushed Redis never counts again from below the stamps
# of answers that processes still hold.
_RAISE = """
local seq = redis.call('INCR', KEYS[1])
if seq == 1 then
  seq = redis.call('INCRBY', KEYS[1], tonumber(redis.call('TIME')[1]) * 1000)
end
for i = 2, #KEYS do redis.call('SET', KEYS[i], seq, 'EX', ARGV[1]) end
return seq
"""


def broker_errors(url: str) -> tuple[type[Exception], ...]:
    """Return what a broker that is away raises: each transport has errors of its own, and few are OSErrors."""
    return (*Connection(url).connection_errors, OperationalError, OSError)


def task_name(platform: str, kind: Kind) -> str:
    """Return the Celery task of one platform and kind of call: Celery keeps one bucket per name."""
    return f"scrape.{platform}.{kind}"


def publish_jobs(celery: Celery, jobs: Sequence[Job]) -> None:
    """Send the jobs' ids to their lanes in one batch. Their rows must have been committed.

    Raises OperationalError when the broker can't be reached; some of the jobs may have been sent by then.
    """
    if not jobs:
        return
    broker = celery.conf.broker_url
    try:
        with celery.producer_pool.acquire(block=True) as producer, producer.batch():
            for job in jobs:
                celery.send_task(
                    task_name(job.platform, job.kind),
                    args=[job.job_id],
                    task_id=job.job_id,
                    producer=producer,
                    **lanes.route(job.platform, job.lane, broker),
                )
    except BatchPublishError as exc:  # a connection that broke since it was last used: kombu names it otherwise
        raise OperationalError(str(exc)) from exc


def publish_metric(celery: Celery, metric: Metric) -> None:
    with celery.producer_pool.acquire(block=True) as producer:
        producer.publish(
            msgspec.to_builtins(metric), routing_key=METRICS.name, serializer="json", declare=[METRICS], retry=True
        )


class Purger:
    """Makes what shows a tag invalid: first in Redis (the truth of both cache levels), then told to every process."""

    def __init__(self, celery: Celery, redis: Redis) -> None:
        self._celery = celery
        self._raise = redis.register_script(_RAISE)

    def purge(self, tags: Iterable[str]) -> None:
        """Raise the tags' sequence and publish it. Not raised when Redis is gone: entries then end by their age."""
        names = sorted(tags)
        if not names:
            return
        try:
            seq = int(self._raise(keys=[SEQUENCE_KEY, *(TAG_KEY + tag for tag in names)], args=[TAG_KEPT_S]))
            with self._celery.producer_pool.acquire(block=True) as producer:
                producer.publish(
                    {"tags": names, "seq": seq}, exchange=PURGES, routing_key="", serializer="json", declare=[PURGES]
                )
        except (RedisError, OperationalError, OSError) as exc:
            log.warning("purge_lost", tags=len(names), error=type(exc).__name__)


def listen_purges(
    url: str,
    on_purge: Callable[[Sequence[str], int], None],
    on_connect: Callable[[], None],
    on_disconnect: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Hear purges until `stop`. What was missed while disconnected is lost: `on_connect` must forget everything."""

    def heard(body: Mapping[str, Any], message: Any) -> None:
        message.ack()
        on_purge(body["tags"], body["seq"])

    while not stop.is_set():
        try:
            with _drained(url, heard, stop) as drain:
                on_connect()
                drain()
        except broker_errors(url) as exc:
            log.warning("purge_listener_down", error=type(exc).__name__)
        finally:
            on_disconnect()
        stop.wait(RECONNECT_S)


@contextmanager
def _drained(url: str, heard: Callable[..., None], stop: threading.Event) -> Iterator[Callable[[], None]]:
    with Connection(url, transport_options={"socket_keepalive": True, "health_check_interval": 10}) as connection:
        # A queue of this process's own that goes when it does.
        queue = Queue("", PURGES, exclusive=True, auto_delete=True, durable=False)
        with Consumer(connection, [queue], callbacks=[heard], accept=["json"]):

            def drain() -> None:
                while not stop.is_set():
                    try:
                        connection.drain_events(timeout=1)
                    except TimeoutError:
                        connection.heartbeat_check()

            yield drain


def receive_metrics(url: str, take: Callable[[Sequence[Metric]], None], stop: threading.Event) -> None:
    """Hand over metrics in batches of about a second, acknowledged when `take` has returned; until `stop`.

    Raises one of `broker_errors` when the broker goes away; what was not acknowledged comes again.
    """
    waiting: list[tuple[Metric, Any]] = []

    def heard(body: object, message: Any) -> None:
        try:
            waiting.append((msgspec.convert(body, Metric), message))
        except msgspec.ValidationError as exc:
            log.error("metric_refused", error=str(exc))
            message.reject()

    with Connection(url) as connection, connection.channel() as channel:
        channel.basic_qos(0, 1000, False)
        with Consumer(channel, [METRICS], callbacks=[heard], accept=["json"]):
            while not stop.is_set():
                _collect(connection, seconds=1.0)
                if waiting:
                    take([metric for metric, _ in waiting])
                    for _, message in waiting:
                        message.ack()
                    waiting.clear()


def _collect(connection: Connection, *, seconds: float) -> None:
    """Let the connection deliver what comes within this time."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            connection.drain_events(timeout=left)
        except TimeoutError:
            return
