"""Tasks that do nothing, through Celery as Rollcall sets it up and through dramatiq, huey and rq, on the same Redis.

Each has two worker processes, with four threads where it has threads (rq has none). In turn, in a new order in each
round, each is given so many tasks: from the first publishing until its queue holds none that is waiting or not
acknowledged. CPU is the publisher's, the workers' and Redis's.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import psutil
from celery import Celery
from msgspec import Struct

from tests.performance import served
from tests.performance.machine import Machine, cpu_s, wait
from tests.performance.pipeline import WORKERS
from tests.performance.process import NOOP, noop_app, noop_queue
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds
from tests.performance.served import PeersMissing

CELERY = "Celery, as Rollcall sets it up"
MEBIBYTE = 1 << 20
# That many are counted, not only published, before anything is measured.
COUNTED = 50


class Size(Struct, frozen=True):
    """How many tasks are published at a time; fewer where each costs a fork."""

    tasks: int = 500
    forked: int = 50
    rounds: int = 5


class Queue(Struct, frozen=True):
    """One way to queue: `publish` returns the CPU that it took, `is_empty` says that nothing waits or is being done."""

    workers: Sequence[subprocess.Popen[str]]
    tasks: int
    publish: Callable[[int], float]
    is_empty: Callable[[], bool]

    @property
    def runs(self) -> bool:
        """Return True. Raises AssertionError where a worker has ended."""
        assert all(worker.poll() is None for worker in self.workers), "a worker has ended: see its log"
        return True

    @property
    def processes(self) -> list[psutil.Process]:
        roots = [psutil.Process(worker.pid) for worker in self.workers]
        return [process for root in roots for process in (root, *root.children(recursive=True))]

    @property
    def cpu_s(self) -> float:
        """Return the CPU of all workers, with that of children that have ended."""
        return sum(sum(process.cpu_times()[:4]) for process in self.processes)

    @property
    def rss_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self.processes)


class Done(Struct, frozen=True):
    """What so many tasks took."""

    per_s: float
    cpu_us: float


def run(one: Machine, size: Size, python: str | PeersMissing) -> Chapter:
    """Compare tasks per second and their CPU."""
    with noop_app(one.settings()) as celery:
        queues, missing = {CELERY: _celery(one, celery, size)}, []
        if isinstance(python, PeersMissing):
            missing.append(Line(f"dramatiq, huey and rq aren't measured: {python}", None))
        else:
            queues |= _peers(one, size, python)
        found = served.in_turn(
            Rounds(size.rounds, size.rounds), {name: partial(_measure, one, queue) for name, queue in queues.items()}
        )
    lines = [line for name in queues if name != CELERY for line in _ratios(name, found[CELERY], found[name])]
    for name, rounds in found.items():
        lines += [
            middle(f"{name}: tasks per second", [done.per_s for done in rounds], "1/s"),
            middle(f"{name}: CPU of a task", [done.cpu_us for done in rounds], "µs"),
            Line(f"{name}: memory of its workers", queues[name].rss_bytes / MEBIBYTE, "MiB"),
        ]
    return Chapter("Tasks that do nothing, beside other queues", [*lines, *missing])


def _measure(one: Machine, queue: Queue) -> Done:
    wait(queue.is_empty, "an empty queue")
    cpu_before, began = queue.cpu_s + cpu_s(one.redis_server.process), time.perf_counter()
    publishing_s = queue.publish(queue.tasks)
    wait(lambda: queue.runs and queue.is_empty(), f"the last of {queue.tasks} tasks", within_s=300, every_s=0.02)
    seconds = time.perf_counter() - began
    spent_s = publishing_s + queue.cpu_s + cpu_s(one.redis_server.process) - cpu_before
    return Done(queue.tasks / seconds, spent_s / queue.tasks * 1e6)


def _ratios(name: str, ours: Sequence[Done], theirs: Sequence[Done]) -> list[Line]:
    pairs = list(zip(ours, theirs, strict=True))
    return [
        middle(f"Celery / {name}: tasks per second", [mine.per_s / other.per_s for mine, other in pairs], "times"),
        middle(f"Celery / {name}: CPU of a task", [mine.cpu_us / other.cpu_us for mine, other in pairs], "times"),
    ]


def _celery(one: Machine, celery: Celery, size: Size) -> Queue:
    redis = one.redis

    def publish(number: int) -> float:
        spent = time.process_time()
        with celery.producer_pool.acquire(block=True) as producer, producer.batch():
            for each in range(number):
                celery.send_task(NOOP, args=[str(each)], queue=noop_queue(), producer=producer)
        return time.process_time() - spent

    workers = [one.metered("noop").process for _ in range(WORKERS)]
    return Queue(workers, size.tasks, publish, lambda: not (redis.llen(noop_queue()) or redis.hlen("unacked")))


def _peers(one: Machine, size: Size, python: str) -> dict[str, Queue]:
    """Start the workers and the publisher of each; return when each has done what it was given."""
    redis, threads = one.redis, str(one.settings().worker_concurrency)
    here = "tests.performance.peers"
    dramatiq = ("dramatiq", f"{here}.with_dramatiq", "--processes", str(WORKERS), "--threads", threads)
    huey = ("huey.bin.huey_consumer", f"{here}.with_huey.huey", "-w", threads, "-k", "thread", "-q")
    rq = ("rq.cli", "worker-pool", "--num-workers", str(WORKERS), "--logging-level", "WARNING")

    def rq_is_empty(queue: str) -> bool:
        return not (redis.llen(f"rq:queue:{queue}") or redis.zcard(f"rq:wip:{queue}"))

    # How its workers are started, how often, whether nothing waits, how many tasks it gets.
    ways = {
        "dramatiq": (dramatiq, 1, lambda: not redis.hlen("dramatiq:default.msgs"), size.tasks),
        "huey": (huey, WORKERS, lambda: not redis.llen("huey.redis.peer"), size.tasks),
        "rq, a fork per task": ((*rq, "forked"), 1, partial(rq_is_empty, "forked"), size.forked),
        "rq, SimpleWorker": (
            (*rq, "--worker-class", "rq.worker.SimpleWorker", "simple"),
            1,
            partial(rq_is_empty, "simple"),
            size.tasks,
        ),
    }
    queues = {}
    for name, (command, times, is_empty, tasks) in ways.items():
        library = name.partition(",")[0]
        environ = {"PEER_REDIS": one.redis_server.url, "PEER_QUEUE": command[-1]}
        if library == "rq":
            environ["RQ_REDIS_URL"] = one.redis_server.url
        workers = [one.start(*command, log=library, python=python, environ=environ) for _ in range(times)]
        publisher = _Publisher(one, python, library, environ)
        publisher.publish(COUNTED, counted=f"counted:{name}")
        wait(partial(_counted_all, one, f"counted:{name}"), f"{COUNTED} tasks of {name}")
        queues[name] = Queue(workers, tasks, publisher.publish, is_empty)
    return queues


def _counted_all(one: Machine, key: str) -> bool:
    return int(one.redis.get(key) or 0) == COUNTED


class _Publisher:
    """The process that publishes a peer's tasks."""

    def __init__(self, one: Machine, python: str, library: str, environ: Mapping[str, str]) -> None:
        self._process: subprocess.Popen[str] = one.start(
            f"{__package__}.peers.publish",
            f"with_{library}",
            log=f"{library}-publisher",
            python=python,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            environ=environ,
        )

    def publish(self, number: int, *, counted: str = "") -> float:
        """Publish so many, and return the CPU seconds that it took."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{number} {counted}\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        assert told, "a publisher has ended: see its log"
        return float(json.loads(told)["cpu_s"])
