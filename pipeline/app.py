"""The Celery application, and its command line: `python -m pipeline.app flower` (or `inspect`, `control`, …)."""

import os
import sys
import warnings

from celery import Celery

from pipeline import lanes, log, platforms
from pipeline.settings import Settings, SettingsError, load_settings

# Emitted at every broker reconnect about a default that is set below on purpose.
warnings.filterwarnings("ignore", message=".*cancels all currently executed tasks with late acknowledgement.*")


def make_celery(settings: Settings) -> Celery:
    """Return the application that producers and workers share. It connects on first use."""
    celery = Celery("rollcall", set_as_current=False)
    celery.conf.update(
        broker_url=settings.broker,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(settings.broker),
        result_backend="disabled://",
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[queue for name in platforms.load() for queue in lanes.queues(name, settings.broker)],
        task_create_missing_queues=False,
        # Acknowledged when its work is committed: a message in hand when a worker dies comes again.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=settings.worker_concurrency,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        timezone="UTC",
    )
    return celery


def _transport_options(broker: str) -> dict[str, object]:
    if not broker.startswith(("redis", "rediss")):
        return {"confirm_publish": True}
    return {
        "queue_order_strategy": "pipeline.lanes:LaneCycle",
        "priority_steps": [0],
        "visibility_timeout": 600,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_keepalive": not broker.startswith("redis+socket"),
        "health_check_interval": 10,
    }


def main(argv: list[str]) -> None:
    """Run one of Celery's commands with the settings of the environment."""
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    log.configure(settings, argv[0] if argv else "celery")
    if argv[:1] == ["flower"]:
        argv = [*argv, *_flower_options(settings)]
    make_celery(settings).start(argv)


def _flower_options(settings: Settings) -> list[str]:
    if settings.flower_basic_auth is None:
        sys.exit("Flower stays closed without a password: set FLOWER_BASIC_AUTH=user:password.")
    # By the environment, where Flower looks too: a command line can be read by everyone on the machine.
    os.environ["FLOWER_BASIC_AUTH"] = settings.flower_basic_auth.get_secret_value()
    return [f"--address={settings.bind}", f"--port={settings.flower_port}"]


if __name__ == "__main__":
    main(sys.argv[1:])
