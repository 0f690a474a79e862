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
from redis.backoff import NoBackoff
from redis.retry import Retry

from db import claims, metrics, partitions, totals
from db.engine import DatabaseError, Engine, make_engine, reading, transaction
from db.writes import MixedSources
from pipeline import cdn, cdn_purges, notify
from pipeline import log as logs
from pipeline.app import make_celery
from pipeline.messages import Purger
from pipeline.plan import Planner
from pipeline.settings import Settings, SettingsError, load_settings
from pipeline.slots import Slots

log = structlog.get_logger("pipeline.beat")

TICK_S = 1.0
TOTALS_S = 60.0


def tidy(engine: Engine, today: date, settings: Settings) -> None:
    """Drop jobs and metrics past their retention, make the next partitions and take out those past theirs.

    Partitions are left to their owner where this process's role isn't that.
    """
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        claims.prune(conn, before=now - timedelta(days=settings.job_retention_days))
    with transaction(engine) as conn:
        metrics.prune(conn, before=now - timedelta(days=settings.metrics_retention_days))
    with reading(engine) as conn:
        are_own = partitions.are_own(conn)
    if not are_own:  # least privilege: `rollcall db partitions` does it, by a timer, as their owner
        log.info("partitions_left", to="rollcall db partitions")
        return
    try:
        _tidy_partitions(engine, today, settings)
    except DatabaseError as exc:
        if not partitions.is_busy(exc):
            raise
        log.warning("partitions_busy", again="tomorrow")  # they are made a range ahead: nothing is lost


def _tidy_partitions(engine: Engine, today: date, settings: Settings) -> None:
    with transaction(engine) as conn:
        partitions.ensure(conn, today=today, months=settings.partition_months)
    if settings.retention_months is None:
        return
    with transaction(engine) as conn:
        retired = partitions.retire(
            conn, today=today, months=settings.retention_months, action=settings.retention_action
        )
    log.info("partitions_retired", tables=retired, action=settings.retention_action)


def add_up(engine: Engine, stop: threading.Event) -> None:
    """Add up the followers of the days that are over, until `stop`; beside the ticks, since a day may take seconds."""
    added = 0
    while not stop.wait(0 if added else TOTALS_S):
        try:
            added = totals.keep(engine, today=datetime.now(UTC).date())
        except DatabaseError as exc:
            added = 0
            log.error("totals_failed", error=str(exc).splitlines()[0])


def run(settings: Settings, stop: threading.Event) -> None:
    """Tick until `stop`. A database or broker that is away costs ticks, nothing else."""
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=2,
        application_name="rollcall beat",
        idle_timeout_s=settings.db_idle_timeout_s,  # no other: what it tidies may take any time
    )
    celery = make_celery(settings)
    # Without the waits between tries: a tick that Redis doesn't answer goes on without it.
    redis = Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=2, retry=Retry(NoBackoff(), 1))
    planner = Planner(settings, engine, celery, Purger(celery, redis), Slots(redis))
    threading.Thread(target=add_up, args=(engine, stop), daemon=True).start()
    tellers = cdn_purges.start(cdn.configured(settings), redis, stop)
    tidied: date | None = None
    while not stop.is_set():
        notify.alive()
        began = time.monotonic()
        now = datetime.now(UTC)
        try:
            if tidied != now.date():
                tidy(engine, now.date(), settings)
                tidied = now.date()
            planner.explain(now)
            jobs = planner.tick(now)
            if jobs:
                log.info("planned", jobs=jobs, took_s=round(time.monotonic() - began, 3))
        except MixedSources as exc:
            sys.exit(str(exc))
        except (DatabaseError, OperationalError, OSError) as exc:
            log.error("tick_failed", error=str(exc).splitlines()[0])
        if not planner.is_behind:
            stop.wait(max(0.0, TICK_S - (time.monotonic() - began)))
    for teller in tellers:
        teller.join(TICK_S)
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
