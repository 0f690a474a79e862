"""The pipeline's processes with a meter: `python -m tests.performance.process worker|planner|noop`.

They are what the Procfile starts, with three differences: a function of each stage is counted, the planner ticks
more often, and BENCH_BATCH says how many accounts a call carries.
"""

import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from celery import Celery
from msgspec import structs
from redis import Redis

from db import claims, pauses, writes
from db.engine import make_engine
from deploy.profiling.calls import Profiler
from pipeline import lanes, log, plan, platforms
from pipeline.app import make_celery, run_command
from pipeline.messages import Purger
from pipeline.plan import Planner
from pipeline.settings import Settings, load_settings
from pipeline.slots import Slots
from tests.performance.meter import Meter
from workers import app, scrape, tasks
from workers.allowance import SharedAllowance

PLATFORM = "x"
NOOP = "noop"
# Its workers don't run here: those of X would throw away what they don't know, and be measured instead.
NOOP_PLATFORM = "flickr"
TICK_S = 0.05


def worker(meter: Meter) -> None:
    """Run a worker of X until it is told to stop."""
    reader = platforms.load()[PLATFORM]
    meter.stage("limit", SharedAllowance, "reserve")
    meter.stage("take", claims, "take")
    meter.stage("take", pauses, "standing")
    meter.stage("fetch", reader, "fetch_profiles")
    meter.stage("parse", reader, "parse_profiles")
    meter.stage("decide", scrape, "nexts_of", "outcomes")
    meter.stage("save", writes, "save")
    meter.stage("save", pauses, "unblock")
    meter.stage("purge", Purger, "purge")
    meter.stage("metric", scrape, "_count")
    meter.stage("commit and log", tasks, "run_job")
    sys.argv[1:] = [PLATFORM]
    app.main()


def planner(meter: Meter) -> None:
    """Plan so often that the workers always have something to do."""
    meter.stage("publish", plan, "publish_jobs")
    meter.stage("plan", Planner, "tick")
    settings = load_settings()
    log.configure(settings, "planner")
    stop = _stop()
    celery = make_celery(settings)
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=2)
    redis = Redis.from_url(settings.redis_url.get_secret_value())
    one = Planner(settings, engine, celery, Purger(celery, redis), Slots(redis))
    while not stop.is_set():
        one.tick(datetime.now(UTC))
        stop.wait(0 if one.is_behind else TICK_S)


def noop(meter: Meter) -> None:
    """Run Celery's own worker with a task that does nothing, and otherwise the pipeline's settings."""
    settings = load_settings()
    options = ["--pool=threads", f"--concurrency={settings.worker_concurrency}", f"--queues={noop_queue()}"]
    run_command(noop_app(settings), ["worker", *options, "--without-mingle", "--without-gossip"])


def noop_app(settings: Settings) -> Celery:
    celery = make_celery(settings)
    celery.task(_nothing, name=NOOP, ignore_result=True)
    return celery


def _nothing(job_id: str) -> None:
    """Stand for a job. (Celery takes no lambda.)"""


def noop_queue() -> str:
    return lanes.queue_name(NOOP_PLATFORM, "core")


def _stop() -> threading.Event:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def main() -> None:
    reader = platforms.load()[PLATFORM]
    batch = int(os.environ.get("BENCH_BATCH", reader.calls["profiles"].batch))
    reader.calls = {kind: structs.replace(call, batch=min(batch, call.batch)) for kind, call in reader.calls.items()}
    meter, profiler = Meter(), Profiler()
    run, file = sys.argv[1], os.environ.get("BENCH_PROFILE")
    if file:
        meter.watch_statements()
        profiler.start()
    meter.answer(sys.stdin, os.fdopen(int(os.environ["BENCH_ANSWERS"]), "w"))
    try:
        {"worker": worker, "planner": planner, "noop": noop}[run](meter)
    finally:
        if file:
            profiler.write(Path(file))


if __name__ == "__main__":
    main()
