"""`rollcall jobs`: what is queued, running and done; ask again for what failed, and stop what hasn't begun."""

import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import get_args

import click
from msgspec import structs

from db import jobs, reads, tags
from db.engine import Connection, reading, transaction
from db.jobs import Listed, Which
from pipeline import platforms
from pipeline.asking import SHOWN, answer_in, ask
from pipeline.command import Misuse, PlatformName, as_json_option, opened, purge
from pipeline.estimate import Wanted
from pipeline.limits import duration
from pipeline.records import JobState, Lane
from pipeline.terminal import moment, note, show_json, show_table

_CANCELLED = "cancelled by `rollcall jobs cancel`"


class JobId(click.ParamType[str]):
    """A job's id, handed on as the database writes it."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(uuid.UUID(value))
        except ValueError:
            self.fail(f"{value[:80]!r} is not a job's id: `rollcall jobs` lists them.", param, ctx)


class _ListFirst(click.Group):
    """Takes no command for `list`, so that `rollcall jobs --state queued` lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("jobs", cls=_ListFirst)
def jobs_group() -> None:
    """What is queued, running and done. Without a command: the list."""


@jobs_group.command("list")
@click.option("--state", type=click.Choice(get_args(JobState)), help="Only jobs in this state.")
@click.option("--platform", type=PlatformName(), help="Only this platform.")
@click.option("--lane", type=click.Choice(get_args(Lane)), help="Only this lane.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@as_json_option
def list_jobs(state: JobState | None, platform: str | None, lane: Lane | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first; one that was given up shows its reason."""
    with opened() as (_, engine), reading(engine) as conn:
        found = jobs.listed(conn, Which(state=state, platform=platform, lane=lane), limit=limit)
    if as_json:
        show_json(found)
        return
    now = datetime.now(UTC)
    show_table(
        (
            "job",
            "platform",
            "call",
            "lane",
            "state",
            "accounts",
            "attempt",
            "age",
            "lease until",
            "asked by",
            "reason",
        ),
        (_cells(job, now) for job in found),
    )


def _cells(job: Listed, now: datetime) -> Sequence[object]:
    age = duration((now - job.created_at).total_seconds())
    lease = job.lease_until and moment(job.lease_until)
    return (
        *(job.job_id, job.platform, job.kind, job.lane, job.state, job.accounts, job.attempt),
        *(age, lease, job.requested_by, job.reason),
    )


@jobs_group.command("show")
@click.argument("job_id", type=JobId(), metavar="ID")
@as_json_option
def show_job(job_id: str, as_json: bool) -> None:
    """Show one job in full: what came of each of its accounts, and why."""
    with opened() as (_, engine), reading(engine) as conn:
        (job,) = _known(conn, [job_id])
        report = reads.job(conn, job_id)
    accounts = report.accounts if report else ()
    if as_json:
        show_json({**structs.asdict(job), "accounts": accounts})
        return
    said = structs.asdict(job) | {"accounts": None}
    show_table(
        ("", ""),
        (
            (name.replace("_", " "), moment(value) if isinstance(value, datetime) else value)
            for name, value in said.items()
            if value is not None
        ),
    )
    show_table(("account", "result", "reason"), ((one.account, one.result, one.reason) for one in accounts))


@jobs_group.command("retry")
@click.argument("job_ids", nargs=-1, type=JobId(), metavar="[ID]...")
@click.option("--failed", is_flag=True, help="Whatever failed in any job that is still in the list.")
@click.option("--platform", type=PlatformName(), help="With --failed: only this platform.")
@as_json_option
def retry_jobs(job_ids: tuple[str, ...], failed: bool, platform: str | None, as_json: bool) -> None:
    """Ask again, as a person does, for the accounts that finished jobs didn't read.

    Of a job that is named: every account without a good result, a cancelled job's too. With --failed: those whose
    result was `failed`. What was read since is not asked for again.

    Exit codes: 0 done; 1 a job that was named is still open, or an account of it can't be read; 2 wrong use, an
    unknown job, faulty settings.
    """
    _one_of(job_ids, failed, platform, "--failed")
    answer = answer_in(as_json)
    with opened() as (settings, engine):
        with reading(engine) as conn:
            still_open = [job for job in _known(conn, job_ids) if job.is_open]
        wanted = Wanted(settings, platforms.load())
        which = Which(job_ids=job_ids or None, platform=platform)
        with transaction(engine) as conn:
            answer.left_out(wanted.sort(jobs.unread(conn, which, result="failed" if failed else None)), wanted)
        answer.jobs(ask(settings, engine, wanted, requested_by="rollcall jobs retry"))
    for job in still_open:
        note(f"{job.job_id} is {job.state}: it can be retried once it has finished.")
    if still_open or (wanted.left_out and job_ids):
        sys.exit(1)


@jobs_group.command("cancel")
@click.argument("job_ids", nargs=-1, type=JobId(), metavar="[ID]...")
@click.option("--queued", is_flag=True, help="Every job that is queued.")
@click.option("--platform", type=PlatformName(), help="With --queued: only this platform.")
@as_json_option
def cancel_jobs(job_ids: tuple[str, ...], queued: bool, platform: str | None, as_json: bool) -> None:
    """End queued jobs before they run; a running one can't be cancelled.

    Their accounts stand as before: those that are due are planned again, those that a person asked for wait for their
    next day.

    Exit codes: 0 done; 1 a job that was named runs or has finished; 2 wrong use, an unknown job, faulty settings.
    """
    _one_of(job_ids, queued, platform, "--queued")
    which = Which(job_ids=job_ids or None, platform=platform)
    with opened() as (settings, engine):
        with reading(engine) as conn:
            _known(conn, job_ids)
        with transaction(engine) as conn:
            cancelled = jobs.cancel(conn, which, now=datetime.now(UTC), reason=_CANCELLED)
        with reading(engine) as conn:
            others = jobs.listed(conn, Which(job_ids=sorted(set(job_ids) - set(cancelled))))
        purge(settings, frozenset({tags.JOBS}))
    if as_json:
        show_json({"cancelled": cancelled, "not_cancelled": others})
    else:
        ended = ((job_id, "cancelled") for job_id in cancelled)
        left = (
            (job.job_id, f"can't be cancelled: it {'is' if job.is_open else 'has'} {job.state}") for job in others
        )
        show_table(("job", ""), chain(ended, left), most=SHOWN)
    note(f"{len(cancelled):,} cancelled.")
    if others:
        sys.exit(1)


def _known(conn: Connection, job_ids: Sequence[str]) -> list[Listed]:
    """Return these jobs. Raises Misuse that names those that aren't there."""
    found = jobs.listed(conn, Which(job_ids=job_ids))
    if unknown := sorted(set(job_ids) - {job.job_id for job in found}):
        raise Misuse(f"There is no job {', '.join(unknown)}: finished ones are kept for JOB_RETENTION_DAYS.")
    return found


def _one_of(job_ids: Sequence[str], everything: bool, platform: str | None, flag: str) -> None:
    if bool(job_ids) == everything:
        raise click.UsageError(f"Name jobs, or use {flag}.")
    if platform and not everything:
        raise click.UsageError(f"--platform goes with {flag}.")
