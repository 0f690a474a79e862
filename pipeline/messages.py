"""What processes tell each other besides jobs: metrics (a queue) and purges (a fanout), and the doors for jobs.

Everything here is sent after a commit, never before: before it, a reader would cache the old row again.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, TypeVar

import msgspec
import structlog
from amqp.exceptions import IrrecoverableConnectionError  # type: ignore[import-untyped]
from celery import Celery
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import BatchPublishError, OperationalError
from redis import Redis, RedisError

from db.metrics import Counted
from db.tags import EVERYTHING, is_aggregate
from pipeline import lanes, notify, redis_channel, tracing, trail
from pipeline.cdn_queue import TELL_CDNS
from pipeline.records import Job, Kind

log = structlog.get_logger()
T = TypeVar("T")


class _Purge(msgspec.Struct, frozen=True):
    """What the fanout says: tags, and their sequence in Redis."""

    tags: tuple[str, ...]
    seq: int | None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Counted)
_purge_decoder = msgspec.json.Decoder(_Purge)

METRICS = Queue("rollcall.metrics", Exchange(""))
PURGES = Exchange("rollcall.purge", type="fanout", durable=False)
SEQUENCE_KEY = "rollcall:cache:seq"
TAG_KEY = "rollcall:cache:tag:"
RECENT_KEY = "rollcall:cache:recent:"
# Longer than any answer is kept (15 minutes): a tag forgotten earlier would revive what it had purged.
TAG_KEPT_S = 86_400
RECONNECT_S = 0.5
# Beyond so many tags that Redis has missed, it is told that everything changed.
_MOST_NOT_RAISED = 10_000
# Without a sign of life a connection is dead: one that was cut says nothing by itself.
HEARTBEAT_S = 20
# How every message is published: once more over a new connection where the old one broke, and never waiting long for
# a broker that takes nothing (RabbitMQ short of memory leaves its publishers without an answer).
_SURELY: Mapping[str, Any] = {
    "retry": True,
    "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2},
    "confirm_timeout": 5,
}
# Jobs sent at a time: what a batch takes of memory, however many there are.
_CHUNK = 1000
# Messages that the recorder has in hand at most, and writes together.
_AT_A_TIME = 1000
# How soon Redis gives out again what a recorder that was killed had in hand. A batch is written in less; one that takes
# longer comes twice, and counts once.
_RETURNED_S = 20

# The time of the first purge seeds the sequence, so that a flushed Redis never counts again from below the stamps
# of answers that processes still hold.
# Of aggregates' tags the last seconds' purges are kept with their times ("sequence:milliseconds"), those of a tenth of
# a second as one: by them a cache knows how long a commit has been missing from an answer.
RAISE = f"""{TELL_CDNS}
local seq = redis.call('INCR', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if seq == 1 then seq = redis.call('INCRBY', KEYS[1], time[1] * 1000) end
for i = 5, #ARGV do
  local tag = ARGV[i]
  redis.call('SET', ARGV[2] .. tag, seq, 'EX', ARGV[1])
  if i < 5 + tonumber(ARGV[4]) then
    local recent = ARGV[3] .. tag
    local since = tonumber(string.match(redis.call('LINDEX', recent, -1) or '0:0', ':(%d+)'))
    if now - since < 100 then redis.call('LSET', recent, -1, seq .. ':' .. since)
    else redis.call('RPUSH', recent, seq .. ':' .. now) end
    -- The oldest one kept is older than any answer may be that doesn't show it.
    local second = redis.call('LINDEX', recent, 1)
    while second and now - tonumber(string.match(second, ':(%d+)')) > 5000 do
      redis.call('LPOP', recent)
      second = redis.call('LINDEX', recent, 1)
    end
    redis.call('EXPIRE', recent, ARGV[1])
  end
end
tell_cdns(seq, 5)
return seq
"""


class Refused(OperationalError):  # type: ignore[misc]  # kombu has no types
    """The broker doesn't do what it is asked: a password is wrong, or a queue of that name was declared otherwise."""

    def __str__(self) -> str:
        return f"the broker refuses: {super().__str__()}"


def broker_errors(url: str) -> tuple[type[Exception], ...]:
    """Return what a broker that is away or refuses raises: each transport has errors of its own, and few are OSErrors."""
    connection = Connection(url)
    return (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)


@contextmanager
def _refusals(connection: Connection) -> Iterator[None]:
    """Raise Refused for what a broker says that refuses: kombu hands it on as it comes."""
    try:
        yield
    except (IrrecoverableConnectionError, *connection.channel_errors) as exc:
        raise Refused(str(exc)) from exc


@contextmanager
def _producer(celery: Celery) -> Iterator[Producer]:
    with celery.producer_pool.acquire(block=True) as producer, _refusals(producer.connection):
        yield producer


def task_name(platform: str, kind: Kind) -> str:
    """Return the Celery task of one platform and kind of call: Celery keeps one bucket per name."""
    return f"scrape.{platform}.{kind}"


def declare_lanes(celery: Celery, platform: str) -> None:
    """Make sure of a platform's queues. Raises OperationalError when the broker can't be reached or refuses one."""
    with celery.connection_for_write() as connection, _refusals(connection):
        connection.ensure_connection(max_retries=1)
        try:
            for lane in lanes.LANES:
                lanes.queue(platform, lane)(connection.default_channel).declare()
        except connection.recoverable_connection_errors as exc:  # kombu hands on what each transport raises
            raise OperationalError(str(exc)) from exc


def publish_jobs(celery: Celery, jobs: Iterable[Job]) -> None:
    """Send the jobs' ids to their lanes, however many, by one connection. Their rows must have been committed.

    Raises OperationalError when the broker can't be reached or refuses; some of the jobs may have been sent by then.
    """
    waiting = iter(jobs)
    while chunk := tuple(islice(waiting, _CHUNK)):
        with (
            tracing.span("publish jobs", "producer", {"messaging.batch.message_count": len(chunk)}),
            _producer(celery) as producer,
        ):
            _send_surely(celery, producer, chunk)


def _send_surely(celery: Celery, producer: Producer, jobs: Sequence[Job]) -> None:
    for is_last in (False, True):
        try:
            with producer.batch(max_size=_CHUNK):
                _send(celery, producer, jobs)
            return
        except BatchPublishError as exc:
            # On Redis, where a connection broke since it was last used. What was sent all the same comes twice, and
            # the second message finds nothing to do.
            if is_last:
                raise OperationalError(str(exc)) from exc


def _send(celery: Celery, producer: Producer, jobs: Sequence[Job]) -> None:
    carried = trail.headers()
    for job in jobs:
        celery.send_task(
            task_name(job.platform, job.kind),
            args=[job.job_id],
            task_id=job.job_id,
            headers=carried,
            producer=producer,
            **_SURELY,
            **lanes.route(job.platform, job.lane),
        )


def publish_counted(celery: Celery, counted: Counted) -> None:
    """Send what a process counted. Raises OperationalError when the broker can't be reached or refuses."""
    with _producer(celery) as producer:
        producer.publish(
            _encoder.encode(counted).decode(),
            content_type="application/json",
            content_encoding="utf-8",
            routing_key=METRICS.name,
            declare=[METRICS],
            **_SURELY,
        )


class Purger:
    """Makes what shows a tag invalid: first in Redis (the truth of both cache levels), then told to every process."""

    def __init__(self, celery: Celery, redis: Redis) -> None:
        self._celery = celery
        self._raise = redis.register_script(RAISE)
        self._not_raised: frozenset[str] = frozenset()

    def purge(self, tags: Iterable[str]) -> None:
        """Raise the tags' sequence and publish it.

        While Redis is gone the processes are told all the same, where the broker is another server; what Redis has
        missed it hears with the next purge. What it never hears of ends by its age.
        """
        names = frozenset(tags)
        if not names:
            return
        seq = self._raised(names)
        try:
            with _producer(self._celery) as producer:
                producer.publish(
                    {"tags": sorted(names), "seq": seq},
                    headers=trail.headers(),
                    exchange=PURGES,
                    routing_key="",
                    serializer="json",
                    declare=[PURGES],
                    **_SURELY,
                )
        except (OperationalError, OSError) as exc:
            log.warning("purge_lost", tags=len(names), error=type(exc).__name__)

    def _raised(self, names: frozenset[str]) -> int | None:
        """Return the sequence in Redis; None where Redis is gone."""
        names |= self._not_raised
        try:
            seq = int(self._raise(keys=[SEQUENCE_KEY], args=raise_arguments(names)))
        except (RedisError, OSError) as exc:
            self._not_raised = names if len(names) <= _MOST_NOT_RAISED else frozenset({EVERYTHING})
            log.warning("purge_not_raised", tags=len(names), error=type(exc).__name__)
            return None
        self._not_raised = frozenset()
        return seq


def raise_arguments(names: Iterable[str]) -> list[str | int]:
    """Return the arguments of RAISE, whose one key is SEQUENCE_KEY: aggregates come first."""
    ordered = sorted(names, key=lambda tag: (not is_aggregate(tag), tag))
    return [TAG_KEPT_S, TAG_KEY, RECENT_KEY, sum(map(is_aggregate, ordered)), *ordered]


def listen_purges(
    url: str,
    on_purge: Callable[[Sequence[str], int | None], None],
    on_connect: Callable[[], None],
    on_disconnect: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Hear purges until `stop`. What was missed while disconnected is lost: `on_connect` must forget everything."""

    def heard(message: Any) -> None:
        message.ack()
        try:
            purge = _read(message, _purge_decoder)
        except _FOREIGN as exc:
            log.error("purge_refused", why=_where(exc))
            return
        with trail.followed(message.headers):
            on_purge(purge.tags, purge.seq)
            log.debug("purge_heard", tags=purge.tags)

    redis_channel.install()
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
    options = redis_channel.line_options(url)
    with Connection(url, heartbeat=HEARTBEAT_S, transport_options=options) as connection:
        # A queue of this process's own that goes when it does.
        queue = Queue("", PURGES, exclusive=True, auto_delete=True, durable=False)
        with Consumer(connection, [queue], on_message=heard):

            def drain() -> None:
                while not stop.is_set():
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=1)
                    connection.heartbeat_check()

            yield drain


def receive_metrics(url: str, take: Callable[[Sequence[Counted]], bool], stop: threading.Event) -> None:
    """Hand over what processes counted, about once a second, acknowledged when `take` has returned; until `stop`.

    `take` is called with nothing, too, and says whether to go on; where it doesn't, its messages are left to another.
    Raises one of `broker_errors` when the broker goes away; what was not acknowledged comes again.
    """
    waiting: list[tuple[Counted, Any]] = []

    def heard(message: Any) -> None:
        try:
            waiting.append((_read(message, _decoder), message))
        except _FOREIGN as exc:  # of another version, or nobody's
            log.error("metric_refused", why=_where(exc))
            message.reject()

    redis_channel.install()
    options = _recorders_options(url)
    with (
        Connection(url, heartbeat=HEARTBEAT_S, transport_options=options) as connection,
        connection.channel() as channel,
    ):
        channel.basic_qos(0, _AT_A_TIME, False)
        with Consumer(channel, [METRICS], on_message=heard):
            while not stop.is_set():
                notify.alive()
                _collect(connection, waiting, seconds=1.0)
                connection.heartbeat_check()
                if not take([counted for counted, _ in waiting]):
                    return
                _acknowledge(channel, [message for _, message in waiting])
                waiting.clear()


_FOREIGN = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)


def _read(message: Any, decoder: "msgspec.json.Decoder[T]") -> T:
    """Return what a message says. Raises one of _FOREIGN."""
    if (b"\\u0000" if isinstance(message.body, bytes) else "\\u0000") in message.body:
        raise ValueError("a character that PostgreSQL refuses, and the recorder would try again for ever")
    return decoder.decode(message.body)


def _where(exc: Exception) -> str:
    """Say what is wrong with a message, and where, without its words: they may be anybody's."""
    _, _, path = str(exc).partition(" - at ")
    return f"{type(exc).__name__} at {path}" if path else type(exc).__name__


def _acknowledge(channel: Any, messages: Sequence[Any]) -> None:
    """Acknowledge in one step what this channel delivered: one by one would take as long as receiving it."""
    if isinstance(channel, redis_channel.Channel):
        channel.qos.ack_all(message.delivery_tag for message in messages)
    elif messages:
        messages[-1].ack(multiple=True)


def _recorders_options(url: str) -> Mapping[str, Any]:
    """Return how the recorder consumes. On Redis, what one that was killed had in hand comes back soon.

    Under names of its own: there is one such time for all that is kept under one name, and jobs need a longer one.
    """
    if not url.startswith(("redis", "rediss")):
        return {}
    mine = {f"unacked_{part}key": f"rollcall.metrics.unacked_{part}key" for part in ("", "index_", "mutex_")}
    times = {"visibility_timeout": _RETURNED_S, "unacked_restore_limit": _AT_A_TIME}
    return {**mine, **times, **redis_channel.line_options(url)}


def _collect(connection: Connection, waiting: Sequence[object], *, seconds: float) -> None:
    """Let the connection deliver what comes within this time, until as many wait as are delivered at a time."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and len(waiting) < _AT_A_TIME:
        try:
            connection.drain_events(timeout=left)
        except TimeoutError:
            return
