"""Wait for jobs that a person asked for, with a progress bar, until each has its result."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from db import overview
from db.engine import Engine, reading
from db.overview import AccountResult, JobProgress

LOOK_S = 0.2


def follow(engine: Engine, jobs: Mapping[int, str]) -> list[AccountResult]:
    """Return what came of each account, given its job; shows how far it is while standard error is a terminal."""
    console = Console(stderr=True)
    open_jobs, finished = set(jobs.values()), dict[str, JobProgress]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task("queued", total=len(jobs))
        while True:
            with reading(engine) as conn:
                looked = overview.jobs(conn, open_jobs)
            finished |= {job_id: job for job_id, job in looked.items() if job.is_finished}
            # A job that isn't in the list any more was removed with its accounts or its numbers.
            open_jobs = {job_id for job_id, job in looked.items() if not job.is_finished}
            done = sum(job_id not in open_jobs for job_id in jobs.values())
            bar.update(shown, completed=done, description=_described(looked, open_jobs))
            if not open_jobs:
                return [_result(account_key, finished.get(job_id)) for account_key, job_id in jobs.items()]
            time.sleep(LOOK_S)


def _described(looked: Mapping[str, JobProgress], open_jobs: set[str]) -> str:
    if any(looked[job_id].state == "running" for job_id in open_jobs):
        return "reading"
    return "queued: waits for a worker" if open_jobs else "done"


def _result(account_key: int, job: JobProgress | None) -> AccountResult:
    for result in job.results if job else ():
        if result.account_key == account_key:
            return result
    return AccountResult(account_key, "failed", (job and job.reason) or "its job ended without a result")
