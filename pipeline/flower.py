"""Flower, a look at the workers, behind a password: what `python -m pipeline.app flower` does before Flower starts."""

import os
from collections.abc import Sequence

from celery import Celery

from pipeline import platforms
from pipeline.messages import task_name
from pipeline.settings import Settings

# Flower's own 100,000 come to some 310 MB; what was longer ago is in the log and the database.
_MOST_TASKS = 10_000


class Closed(Exception):
    """Why Flower doesn't start, and what to set."""


def users(settings: Settings) -> Sequence[tuple[str, str]]:
    """Return who may look, and by which password: `user:password`, several with commas between, as Flower reads it.

    Raises Closed where nobody may, or where Flower would take something else for a password than what was meant.
    """
    if settings.flower_basic_auth is None:
        raise Closed("Flower stays closed without a password: set FLOWER_BASIC_AUTH=user:password.")
    given = settings.flower_basic_auth.get_secret_value()
    found = [(user, password) for user, _, password in (one.partition(":") for one in given.split(","))]
    if not all(user and password for user, password in found):
        raise Closed(
            "FLOWER_BASIC_AUTH isn't user:password, or several with commas between; no password has a comma."
        )
    if not given.isascii():
        raise Closed("FLOWER_BASIC_AUTH has a letter that isn't ASCII: Flower would let nobody in.")
    return found


def prepare(celery: Celery, settings: Settings) -> Sequence[str]:
    """Make Flower ready; return its options. Raises Closed where it must not start."""
    users(settings)
    # By the environment, where Flower looks too: a command line can be read by everyone on the machine.
    os.environ["FLOWER_BASIC_AUTH"] = settings.flower_basic_auth.get_secret_value()  # type: ignore[union-attr]
    _close_metrics()
    _name_tasks(celery)
    return [f"--address={settings.bind}", f"--port={settings.flower_port}", f"--max_tasks={_MOST_TASKS}"]


def _close_metrics() -> None:
    """Ask for the password there too: Flower shows its metrics, with the names of machines, to everyone."""
    # Here, since workers and commands do without Flower.
    from flower.views.monitor import Metrics  # type: ignore[import-untyped]
    from tornado.web import authenticated

    Metrics.get = authenticated(Metrics.get)


def _name_tasks(celery: Celery) -> None:
    """Say what the workers' tasks are called: Flower changes the rate of none that it doesn't know."""

    def elsewhere(job_id: str) -> None:
        raise NotImplementedError("only the workers of a platform do its jobs")

    for platform in platforms.load().values():
        for kind in platform.calls:
            celery.task(elsewhere, name=task_name(platform.name, kind))
