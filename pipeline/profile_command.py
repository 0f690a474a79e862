"""`rollcall db profile`: what the API's statements cost."""

import click
from redis import Redis

from db import profiler
from db.profiler import Figures
from pipeline import profiles
from pipeline.command import as_json_option
from pipeline.settings import load_settings
from pipeline.terminal import moment, note, show_json, show_table

_SHOWN = 20
_LONGEST_STATEMENT = 100


@click.command("profile")
@as_json_option
def profile_command(as_json: bool) -> None:
    """Show what the statements of the running API cost, those that took most time first, and what would make them faster.

    API processes count with DB_PROFILE=true. The numbers are those since each was started, a few seconds old at most.
    """
    settings = load_settings()
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        reports = profiles.kept(redis)
    figures = profiler.figures(reports)
    if as_json:
        show_json({"since": min((report.since for report in reports), default=None), "statements": figures})
        return
    if not reports:
        note("No process of the API counts: set DB_PROFILE=true and restart it.")
        return
    show_table(
        ("", "calls", "mean ms", "p95 ms", "total s", "rows", "slow", "failed", "statement"),
        (
            (
                one.fingerprint,
                f"{one.count:,}",
                f"{one.mean_ms:.2f}",
                f"{one.p95_ms:.2f}",
                f"{one.total_ms / 1000:.1f}",
                None if one.rows is None else f"{one.rows:,}",
                one.slow,
                one.failed,
                _short(one.statement),
            )
            for one in figures
        ),
        most=_SHOWN,
    )
    for one in figures:
        _advise(one)
    note(f"{len(reports)} processes, counting since {moment(min(report.since for report in reports))}.")


def _short(statement: str) -> str:
    return statement if len(statement) <= _LONGEST_STATEMENT else f"{statement[:_LONGEST_STATEMENT]}…"


def _advise(one: Figures) -> None:
    if one.slow and one.slowest is not None:
        note(f"{one.fingerprint}: up to {one.slowest.took_ms:,.0f} ms, in {one.slowest.where or 'no request'}.")
    if one.advice is not None:
        columns = ", ".join(one.advice.columns)
        note(
            f"{one.fingerprint}: reads {one.advice.rows:,} rows to keep about {one.advice.kept:,}:"
            f" an index on {one.advice.table} ({columns}) is missing."
        )
    if one.repetition is not None:
        note(f"{one.fingerprint}: sent {one.repetition.times} times by one request to {one.repetition.where}.")
