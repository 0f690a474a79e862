"""Thin Celery doors, one per platform and kind of call: Celery keeps one rate limit per task name."""

from collections.abc import Callable
from typing import Any

from celery import Celery

from pipeline import tracing, trail
from pipeline.messages import task_name
from pipeline.records import Kind
from workers.allowance import SharedAllowance, Slot, TaskAllowance
from workers.scrape import Deps, run_job
from workers.turn import Turn


def register(celery: Celery, deps: Deps, shared: SharedAllowance) -> None:
    """Give the application a task for every kind of call of its platform."""
    for kind in deps.platform.calls:
        allowance = _allowance(deps, kind, shared)
        celery.task(
            _door(deps, allowance),
            bind=True,
            name=allowance.task,
            rate_limit=allowance.rate,
            ignore_result=True,
            allowance=allowance,  # the consumer's bucket asks it
        )


def _allowance(deps: Deps, kind: Kind, shared: SharedAllowance) -> TaskAllowance:
    rate = deps.settings.rate(deps.platform, kind)
    requests = deps.platform.calls[kind].requests
    return TaskAllowance(
        shared,
        task=task_name(deps.platform.name, kind),
        platform=deps.platform,
        credentials=tuple(deps.clients),
        rate=rate.for_celery,
        space_s=requests * rate.interval_s,
        requests=requests,
    )


def _door(deps: Deps, allowance: TaskAllowance) -> Callable[[Any, str], None]:
    name = allowance.task.removeprefix("scrape.")

    def door(task: Any, job_id: str) -> None:
        with (
            trail.followed(task.request.__dict__),
            tracing.span(f"job {name}", "consumer", {"rollcall.job_id": job_id}),
        ):
            run_job(job_id, deps, Turn(allowance, task.request.get("slot", Slot())))

    return door
