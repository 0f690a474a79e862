"""Composition root of a worker process: one platform, threads, its own three lanes."""

import os
import sys
from datetime import UTC, datetime

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from db.engine import make_engine
from pipeline import lanes, log, platforms, tracing
from pipeline.app import make_celery, run_command
from pipeline.messages import Purger, Refused, declare_lanes
from pipeline.outbox import Outbox
from pipeline.platforms import Platform
from pipeline.settings import Settings, SettingsError, load_settings
from workers.allowance import SharedAllowance
from workers.clients import make_clients
from workers.consumer import Consumer
from workers.events import Events
from workers.express import Express
from workers.leaving import Leaving
from workers.pauses import Pauses
from workers.scrape import Deps
from workers.tasks import register
from workers.watch import Watch


def make_deps(settings: Settings, platform: Platform, celery: Celery, redis: Redis) -> Deps:
    """Return what a worker of `platform` needs. Connections open on first use."""
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=_threads(settings),
        max_overflow=0,
        pool_timeout=settings.db_pool_timeout,
        pool_recycle=settings.db_pool_recycle,
        application_name=f"rollcall worker {platform.name}",
        statement_timeout_s=settings.db_write_timeout_s,
        idle_timeout_s=settings.db_idle_timeout_s,
    )
    clients = make_clients(settings, platform)
    return Deps(
        settings=settings,
        engine=engine,
        celery=celery,
        platform=platform,
        pauses=Pauses(engine, platform, list(clients), SharedAllowance(redis), patience_s=settings.job_lease_s),
        purger=Purger(celery, redis),
        outbox=Outbox(celery, engine, "worker"),
        clients=clients,
        now=_now,
    )


def _threads(settings: Settings) -> int:
    """Return a thread for every message that a worker may hold, so that slow calls never keep a person's from one.

    It holds at most `worker_concurrency` of each lane. (Of core and retry together, before RabbitMQ 4.)
    """
    return settings.worker_concurrency * len(lanes.LANES)


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    """Run the worker named on the command line until it is told to stop; then finish what is under way."""
    known = platforms.load()
    if len(sys.argv) != 2 or sys.argv[1] not in known:
        sys.exit(f"usage: python -m workers PLATFORM, one of {', '.join(known)}")
    platform = known[sys.argv[1]]
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    log.configure(settings, f"worker_{platform.name}")
    tracing.configure(settings, f"worker-{platform.name}")
    celery = make_celery(settings)
    # Short waits: the consumer asks on its event loop, and a Redis that doesn't answer must not stop that.
    redis = Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2)
    celery.conf.worker_consumer = Consumer
    celery.events_cls = Events
    Express.queue = lanes.queue(platform.name, lanes.EXPRESS)
    Express.prefetch = settings.worker_concurrency
    Leaving.within_s = Watch.call_s = settings.stop_s
    celery.steps["consumer"].update((Express, Leaving, Watch))
    deps = make_deps(settings, platform, celery, redis)
    register(celery, deps, SharedAllowance(redis))
    queues = ",".join(lanes.queue_name(platform.name, lane) for lane in lanes.PLANNED)
    options = ["--pool=threads", f"--concurrency={_threads(settings)}", f"--queues={queues}"]
    # A name of its own for each process: RabbitMQ gives the queue of a node's name to one of them only.
    options += [f"--hostname={platform.name}-{os.getpid()}@%h"]
    try:
        declare_lanes(celery, platform.name)
    except Refused as exc:
        sys.exit(str(exc))
    except (OperationalError, OSError):
        pass  # Celery says so, and waits for it
    deps.outbox.start()
    try:
        run_command(celery, ["worker", *options, "--without-mingle", "--without-gossip"])
    finally:
        deps.outbox.close()
        tracing.close()
