"""`rollcall db …`: the schema, the partitions, the indexes, and whether the kept numbers are what the facts say."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from db import check, indexes, migrate, partitions, recut, roles
from db.engine import DatabaseError, Engine, reading, transaction
from pipeline.backup_command import backup, restore
from pipeline.command import Fault, Misuse, as_json_option, opened, purge_all
from pipeline.profile_command import profile_command
from pipeline.settings import Settings
from pipeline.terminal import note, show_json, show_table


class _Database(click.Group):
    """The commands. A table that a long read or write keeps is said in a line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DatabaseError as exc:
            if not partitions.is_busy(exc):
                raise
            raise Fault(
                "A long read or write keeps a table locked; nothing is lost: try again when it ended."
            ) from exc


@click.group("db", cls=_Database)
def db_group() -> None:
    """The database."""


db_group.add_command(backup)
db_group.add_command(restore)
db_group.add_command(profile_command)


@db_group.command()
def upgrade() -> None:
    """Bring the schema to the newest revision."""
    with opened() as (settings, _):
        try:
            migrate.upgrade(
                settings.database_url.get_secret_value(),
                partition_months=settings.partition_months,
                follow=_roles(settings),
            )
        except migrate.Newer as exc:
            raise Fault(str(exc)) from exc
    note("The schema is the newest.")


@db_group.command("roles")
@as_json_option
def roles_command(as_json: bool) -> None:
    """Let the API and the workers do what they do and no more, by roles of their own. Run it as the tables' owner.

    The roles are those of DB_API_ROLE and DB_WORKERS_ROLE, which a superuser makes. `rollcall db upgrade` then keeps
    their rights in step with the schema.
    """
    with opened() as (settings, engine), transaction(engine) as conn:
        try:
            roles.grant(conn, _roles(settings))
        except roles.Unfit as exc:
            raise Misuse(f"Nothing was granted: {exc}.") from exc
        found = roles.held(conn, _roles(settings))
    if as_json:
        show_json(found)
    else:
        show_table(
            ("table", settings.db_api_role, settings.db_workers_role), ((r.table, r.api, r.workers) for r in found)
        )


@db_group.command("partitions")
@click.option("--recut", "is_recut", is_flag=True, help="Cut all into the width of PARTITION_MONTHS.")
@as_json_option
def partitions_command(is_recut: bool, as_json: bool) -> None:
    """Make the next partitions, take out those past RETENTION_MONTHS, and list all.

    --recut cuts those that have another width than PARTITION_MONTHS anew, a calendar year at a time, and needs room
    for the rows of one year more. Readers and workers go on while a year is copied; its last moment keeps both waiting.
    """
    with opened() as (settings, engine):
        made, retired = _tend(settings, engine)
        if is_recut:
            try:
                recut.recut(engine, months=settings.partition_months, done=lambda year: note(f"{year} is cut."))
            except (recut.Underway, recut.Changed) as exc:
                raise Fault(str(exc)) from exc
        with reading(engine) as conn:
            listed, detached = partitions.listed(conn), partitions.detached(conn)
    if as_json:
        show_json({"made": made, "retired": retired, "partitions": listed, "detached": detached})
        return
    show_table(
        ("partition", "from", "to", "rows (about)", "MB"),
        ((p.name, p.first, p.after - timedelta(days=1), f"{p.rows:,}", _mb(p.size_bytes)) for p in listed),
    )
    show_table(
        ("taken out", "rows (about)", "MB"),
        ((table.name, f"{table.rows:,}", _mb(table.size_bytes)) for table in detached),
    )
    note(f"{len(made)} made, {len(retired)} taken out.")


def _roles(settings: Settings) -> roles.Roles:
    return roles.Roles(api=settings.db_api_role, workers=settings.db_workers_role)


def _tend(settings: Settings, engine: Engine) -> tuple[list[str], list[str]]:
    """Make the partitions that are missing and take out those past their time; return the names of both."""
    today = datetime.now(UTC).date()
    with transaction(engine) as conn:
        made = partitions.ensure(conn, today=today, months=settings.partition_months)
    if settings.retention_months is None:
        return made, []
    with transaction(engine) as conn:
        retired = partitions.retire(
            conn, today=today, months=settings.retention_months, action=settings.retention_action
        )
    if retired:
        purge_all(settings, engine)
    return made, retired


@db_group.command("indexes")
@click.option("--create", is_flag=True, help="Make those that are missing or invalid; writers go on meanwhile.")
@as_json_option
def indexes_command(create: bool, as_json: bool) -> None:
    """Say how the indexes stand that the reads need. Exits 1 while one is missing or invalid."""
    with opened() as (_, engine):
        if create:
            indexes.create_missing(engine, started=lambda name: note(f"Making {name} …"))
        with reading(engine) as conn:
            found = indexes.standing(conn)
    if as_json:
        show_json(found)
    else:
        show_table(
            ("index", "table", "state", "MB"),
            ((i.name, i.table, i.state, None if i.size_bytes is None else _mb(i.size_bytes)) for i in found),
        )
    if any(index.state in ("missing", "invalid") for index in found):
        note("`rollcall db indexes --create` makes what is missing.")
        sys.exit(1)


@db_group.command("check")
@click.option("--repair", is_flag=True, help="Mend what differs; workers wait meanwhile.")
@as_json_option
def check_command(repair: bool, as_json: bool) -> None:
    """Compare the newest numbers and the counts of days with the snapshots. Exits 1 when they differ, unless mended."""
    with opened() as (settings, engine):
        with transaction(engine) as conn:
            if repair:
                found = check.repair(conn)
            else:
                check.one_moment(conn)
                found = list(check.differences(conn))
        if repair and found:
            purge_all(settings, engine)
    if as_json:
        show_json({"differences": found, "repaired": repair})
    else:
        show_table(("what", "where", "stored", "true"), ((d.what, d.where, d.stored, d.true) for d in found))
    if not found:
        note("All is as the snapshots say.")
    elif repair:
        note(f"{len(found)} differences, mended.")
    else:
        note(f"{len(found)} differences: `rollcall db check --repair` mends them.")
        sys.exit(1)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f}"
