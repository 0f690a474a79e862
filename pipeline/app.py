"""The Celery application, and its command line: `python -m pipeline.app flower` (or `inspect`, `control`, …)."""

import sys
import warnings
from collections.abc import Sequence

from celery import Celery
from celery.bin.celery import celery as commands

from pipeline import flower, lanes, log, platforms, redis_channel
from pipeline.messages import HEARTBEAT_S
from pipeline.settings import Settings, SettingsError, load_settings

# Emitted at every broker reconnect about a default that is set below on purpose.
warnings.filterwarnings("ignore", message=".*cancels all currently executed tasks with late acknowledgement.*")

# Redis gives a message that nobody acknowledged out again after so long.
VISIBILITY_S = 600


def make_celery(settings: Settings) -> Celery:
    """Return the application that producers and workers share. It connects on first use."""
    redis_channel.install()
    celery = Celery("rollcall", set_as_current=False)
    celery.conf.update(
        broker_url=settings.broker,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # What RabbitMQ gave a machine that is gone goes to another after two of them.
        broker_heartbeat=HEARTBEAT_S,
        broker_transport_options=_transport_options(settings.broker),
        result_backend="disabled://",
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[lanes.queue(name, lane) for name in platforms.load() for lane in lanes.LANES],
        task_create_missing_queues=False,
        # Acknowledged when its work is committed: a message in hand when a worker dies comes again.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # It reckons by the number of threads, of which there are more than messages to hold.
        worker_enable_prefetch_count_reduction=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        timezone="UTC",
    )
    if settings.broker.startswith("amqp"):
        # Not of one connection alone: RabbitMQ keeps that of a machine that was cut off until it notices, and a worker
        # that is back before would be refused its own queue, and end.
        celery.conf.update(control_queue_exclusive=False, control_queue_durable=True)
    return celery


def run_command(celery: Celery, argv: Sequence[str]) -> None:
    """Run one of Celery's commands in this process. Raises SystemExit where it failed."""
    # Not `celery.start`, which ends with 0 also after an error: a supervisor would leave it at that.
    commands.params[0].default = celery
    # Said again, since its command line reads BROKER_URL from the environment, as it stands there (`unix://…`).
    code = commands.main(["--quiet", "--broker", celery.conf.broker_url, *argv], standalone_mode=False)
    if isinstance(code, int) and code:
        sys.exit(code)


def _transport_options(broker: str) -> dict[str, object]:
    if not broker.startswith(("redis", "rediss")):
        return {"confirm_publish": True}
    return {
        "queue_order_strategy": "pipeline.lanes:LaneCycle",
        "priority_steps": [0],
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        **redis_channel.line_options(broker),
    }


def main(argv: list[str]) -> None:
    """Run one of Celery's commands with the settings of the environment."""
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    log.configure(settings, argv[0] if argv else "celery")
    celery = make_celery(settings)
    if argv[:1] == ["flower"]:
        try:
            argv = [*argv, *flower.prepare(celery, settings)]
        except flower.Closed as exc:
            sys.exit(str(exc))
    run_command(celery, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
