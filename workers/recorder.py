"""The recorder: metrics messages become per-minute rollups in PostgreSQL. `python -m workers.recorder`."""

import signal
import sys
import threading
from collections.abc import Sequence

import structlog

from db import metrics
from db.engine import DatabaseError, Engine, make_engine, transaction
from pipeline import log as logs
from pipeline.messages import broker_errors, receive_metrics
from pipeline.settings import Settings, SettingsError, load_settings

log = structlog.get_logger("workers.recorder")

RETRY_S = 1.0


def run(settings: Settings, engine: Engine, stop: threading.Event) -> None:
    """Record until `stop`. Messages that could not be written are not acknowledged and come again."""

    def keep(found: Sequence[metrics.Metric]) -> None:
        with transaction(engine) as conn:
            metrics.add(conn, found)

    away: tuple[type[Exception], ...] = (DatabaseError, *broker_errors(settings.broker))
    while not stop.is_set():
        try:
            receive_metrics(settings.broker, keep, stop)
        except away as exc:
            log.error("recorder_waits", error=type(exc).__name__)
            stop.wait(RETRY_S)


def main() -> None:
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    logs.configure(settings, "recorder")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=1, application_name="rollcall recorder")
    run(settings, engine, stop)
    engine.dispose()


if __name__ == "__main__":
    main()
