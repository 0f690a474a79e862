"""The clock: `python -m pipeline.beat` plans every second and tidies up once a day.

It calls the planner in its own process instead of sending it as a task: a tick that waits in a queue behind the work
it should plan is late just when it is needed. Several may run on several machines.
"""

import signal
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta

import structlog
from kombu.exceptions import OperationalError
from redis import Redis

from db import claims, partitions
from db.engine import DatabaseError, Engine, make_engine, transaction
from db.writes import MixedSources
from pipeline import log as logs
from pipeline.app import make_celery
from pipeline.messages import Purger
from pipeline.plan import Planner
from pipeline.settings import Settings, SettingsError, load_settings

log = structlog.get_logger("pipeline.beat")

TICK_S = 1.0


def tidy(engine: Engine, today: date, keep_jobs_days: int) -> None:
    """Make the next partitions and drop jobs past their retention."""
    with transaction(engine) as conn:
        partitions.ensure(conn, today=today)
        claims.prune(conn, before=datetime.now(UTC) - timedelta(days=keep_jobs_days))


def run(settings: Settings, stop: threading.Event) -> None:
    """Tick until `stop`. A database or broker that is away costs ticks, nothing else."""
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=2, application_name="rollcall beat")
    celery = make_celery(settings)
    redis = Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=2)
    planner = Planner(settings, engine, celery, Purger(celery, redis))
    tidied: date | None = None
    while not stop.is_set():
        began = time.monotonic()
        now = datetime.now(UTC)
        try:
            if tidied != now.date():
                tidy(engine, now.date(), settings.job_retention_days)
                tidied = now.date()
            jobs = planner.tick(now)
            if jobs:
                log.info("planned", jobs=jobs, took_s=round(time.monotonic() - began, 3))
        except MixedSources as exc:
            sys.exit(str(exc))
        except (DatabaseError, OperationalError, OSError) as exc:
            log.error("tick_failed", error=str(exc).splitlines()[0])
        stop.wait(max(0.0, TICK_S - (time.monotonic() - began)))
    engine.dispose()


def main() -> None:
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    logs.configure(settings, "beat")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(settings, stop)


if __name__ == "__main__":
    main()
