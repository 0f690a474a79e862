"""One log for the application, gunicorn and Celery: events with fields, as lines for people or JSON for machines."""

import logging
import sys

import structlog
from celery.signals import setup_logging

from pipeline.settings import Settings


def configure(settings: Settings, process: str) -> None:
    """Send everything that this process logs to standard output, `process` named on each line."""

    def name_process(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # Not a context variable: those of the main thread are not those of a pool's threads.
        return {**event, "process": process}

    shared: list[structlog.typing.Processor] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    json = settings.log_format == "json"
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        # Plain: the usual one shows each frame's variables, passwords among them, and takes most of a second for it.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    if not json:
        shared.remove(structlog.processors.format_exc_info)  # the console renderer prints tracebacks itself
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # With a receiver of this signal Celery leaves logging as it is.
    setup_logging.connect(_leave_alone, weak=False)
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # Celery says each received and finished task; a job's own closing line says it better.
    for chatty in ("celery.app.trace", "celery.worker.strategy", "celery.beat", "kombu", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _leave_alone(**_: object) -> None:
    """Celery's own idea of logging isn't wanted."""
