"""Composition root of a worker process: one platform, threads, its own three lanes."""

import sys
from datetime import UTC, datetime

from celery import Celery
from redis import Redis

from db.engine import make_engine
from pipeline import lanes, log, platforms
from pipeline.app import make_celery
from pipeline.messages import Purger
from pipeline.platforms import Platform
from pipeline.settings import Settings, SettingsError, load_settings
from workers.allowance import SharedAllowance
from workers.clients import make_clients
from workers.consumer import Consumer
from workers.pauses import Pauses
from workers.scrape import Deps
from workers.tasks import register


def make_deps(settings: Settings, platform: Platform, celery: Celery, redis: Redis) -> Deps:
    """Return what a worker of `platform` needs. Connections open on first use."""
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.worker_concurrency,
        max_overflow=0,
        pool_timeout=settings.db_pool_timeout,
        pool_recycle=settings.db_pool_recycle,
        application_name=f"rollcall worker {platform.name}",
    )
    clients = make_clients(settings, platform)
    return Deps(
        settings=settings,
        engine=engine,
        celery=celery,
        platform=platform,
        pauses=Pauses(engine, platform, list(clients), SharedAllowance(redis)),
        purger=Purger(celery, redis),
        clients=clients,
        now=_now,
    )


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
    celery = make_celery(settings)
    # Short waits: the consumer asks on its event loop, and a Redis that doesn't answer must not stop that.
    redis = Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2)
    Consumer.allowance = SharedAllowance(redis)
    celery.conf.worker_consumer = Consumer
    register(celery, make_deps(settings, platform, celery, redis))
    queues = ",".join(queue.name for queue in lanes.queues(platform.name, settings.broker))
    options = ["--pool=threads", f"--queues={queues}", f"--hostname={platform.name}@%h"]
    celery.worker_main(["--quiet", "worker", *options, "--without-mingle", "--without-gossip"])
