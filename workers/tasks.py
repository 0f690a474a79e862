"""Thin Celery doors, one per platform and kind of call: Celery keeps one rate limit per task name."""

from collections.abc import Callable
from typing import Any

from celery import Celery

from pipeline.messages import task_name
from workers.scrape import Deps, run_job


def register(celery: Celery, deps: Deps) -> None:
    """Give the application a task for every kind of call of its platform."""
    for kind, call in deps.platform.calls.items():
        celery.task(
            _door(deps),
            bind=True,
            name=task_name(deps.platform.name, kind),
            rate_limit=deps.settings.rate(deps.platform, kind).for_celery,
            ignore_result=True,
            # The consumer's bucket reads these.
            platform=deps.platform,
            call=call,
            credentials=tuple(deps.clients),
        )


def _door(deps: Deps) -> Callable[[Any, str], None]:
    # Where the rate limit was switched off there is no bucket, and so no slot with a credential.
    first = next(iter(deps.clients))

    def door(task: Any, job_id: str) -> None:
        run_job(job_id, deps, credential=task.request.get("credential", first))

    return door
