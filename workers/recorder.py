"""The recorder: metrics messages become per-minute rollups in PostgreSQL. `python -m workers.recorder`."""

import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import structlog

from db import leases, metrics
from db.engine import DatabaseError, Engine, make_engine, transaction
from pipeline import log as logs
from pipeline import notify
from pipeline.messages import broker_errors, receive_metrics
from pipeline.settings import Settings, SettingsError, load_settings

log = structlog.get_logger("workers.recorder")

RETRY_S = 1.0
# One that is cut off is followed by another after so long.
LEASE_S = 10.0


def run(settings: Settings, engine: Engine, stop: threading.Event) -> None:
    """Record until `stop`, while no other recorder does. What could not be written is not acknowledged, and comes again.

    The lease only keeps others from doing the same work beside it: a message counts once, whoever records it.
    """
    holder = uuid4().hex
    kept = timedelta(days=settings.metrics_retention_days)

    def keep(found: Sequence[metrics.Counted]) -> bool:
        with transaction(engine) as conn:
            if not leases.take(conn, leases.RECORDER, holder, kept_s=LEASE_S):
                return False
            metrics.add(conn, found, oldest=datetime.now(UTC) - kept)
        return True

    away: tuple[type[Exception], ...] = (DatabaseError, *broker_errors(settings.broker))
    while not stop.is_set():
        notify.alive()
        try:
            if keep([]):
                log.info("recorder_records")
                receive_metrics(settings.broker, keep, stop)
        except away as exc:
            log.error("recorder_waits", error=type(exc).__name__)
        notify.alive()  # a broker that is away may have taken its time to say so
        stop.wait(RETRY_S)
    with suppress(DatabaseError), transaction(engine) as conn:
        leases.leave(conn, leases.RECORDER, holder)


def main() -> None:
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    logs.configure(settings, "recorder")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=1,
        application_name="rollcall recorder",
        statement_timeout_s=settings.db_write_timeout_s,
        idle_timeout_s=settings.db_idle_timeout_s,
    )
    run(settings, engine, stop)
    engine.dispose()


if __name__ == "__main__":
    main()
