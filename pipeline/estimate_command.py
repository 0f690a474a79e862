"""`rollcall estimate`: what a day of the list takes, or of one that has grown."""

import click

from db import health
from db.engine import reading
from pipeline import platforms, scaling
from pipeline.command import Misuse, as_json_option, opened
from pipeline.scaling import Demand
from pipeline.terminal import note, show_json, show_table

DAILY = (
    "platform",
    "accounts",
    "calls a day",
    "of a limit",
    "sets of credentials",
    "first round",
    "profiles",
    "posts",
)


@click.command()
@click.option("--accounts", "total", type=click.IntRange(1), help="As if there were so many, mixed as the list is.")
@as_json_option
def estimate(total: int | None, as_json: bool) -> None:
    """Say what a day takes: calls and limits, credentials, processors, disk and money; posts are the most they can be."""
    with opened() as (settings, engine), reading(engine) as conn:
        listed = health.alike(conn, list(platforms.load()))
        if not listed:
            raise Misuse("No account is listed that isn't paused: `rollcall accounts import FILE` brings in a list.")
        wanted = scaling.grown(listed, total) if total else listed
        found = scaling.scale(wanted, settings, platforms.load())
    if as_json:
        show_json(found)
        return
    show_table(DAILY, map(cells, found.demands))
    note(
        f"{found.accounts:,} accounts, {found.calls:,} calls a day."
        f" Processors busy: {found.worker_cores:.2f} for workers, {found.postgres_cores:.2f} for PostgreSQL,"
        f" {found.other_cores:.2f} for the rest."
        f" Memory of PostgreSQL: {found.memory_gb:,.2f} GB. Disk: {found.disk_gb:,.2f} GB, and {found.disk_gb_a_year:,.2f} more each year."
        f" Money a day: ${found.profiles_usd:,.2f} for profiles, up to ${found.posts_usd:,.2f} for posts."
    )


def cells(one: Demand) -> tuple[str, ...]:
    """Return a platform's day as people read it."""
    return (
        one.platform,
        f"{one.accounts:,}",
        f"{one.calls:,}",
        f"{one.limit_used:.1%}",
        f"{one.credentials:,}",
        "–" if one.first_days < 0.1 else f"{one.first_days:,.1f} days",
        f"${one.profiles_usd:,.2f}",
        f"${one.posts_usd:,.2f}",
    )
