"""`rollcall …`: what people do with Rollcall from a terminal or a script.

Exit codes: 0 done, 1 something failed, 2 wrong use, unknown account or faulty settings.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import entry_points
from io import BufferedReader
from typing import get_args

import click

from db import claims, health, keys, overview, pauses, reads, tags, writes
from db.engine import Connection, reading, transaction
from db.keyset import Order, Window
from db.standing import Status
from pipeline import accounts, doctor, platforms, terms
from pipeline.account_file import NotAList
from pipeline.annotations_command import annotations_group
from pipeline.asking import enqueue
from pipeline.command import Misuse, PlatformName, Rollcall, as_json_option, opened, purge
from pipeline.db_command import db_group
from pipeline.drain import drain
from pipeline.export_command import export_group
from pipeline.history_command import history_group
from pipeline.jobs_command import jobs_group
from pipeline.limits import duration
from pipeline.report_command import report_group
from pipeline.settings import Settings
from pipeline.terminal import moment, note, show_json, show_table

COMMANDS = "rollcall.commands"
"""The entry points of commands that stand in other packages: those above this one aren't imported here."""
_PAGE = 1000


@click.group(cls=Rollcall, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Rollcall keeps count of every social account an organisation runs."""


@main.group("accounts")
def accounts_group() -> None:
    """The list of accounts."""


@accounts_group.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Say what would happen, write nothing.")
@as_json_option
def import_accounts(file: BufferedReader, dry_run: bool, as_json: bool) -> None:
    """Import a CSV or JSON list (`-` reads standard input).

    A row has a url, or a platform and a handle; also organization, is_core, owner_team, account_type, is_active.
    Importing again changes nothing. Exits 1 when every row was rejected; --json lists all rows.
    """
    with opened() as (settings, engine):
        try:
            report = accounts.import_list(engine, file.read(), now=datetime.now(UTC), dry_run=dry_run)
        except NotAList as exc:
            raise Misuse(str(exc)) from exc
        if not dry_run:
            purge(settings, report.tags)
    if as_json:
        show_json(
            {
                "dry_run": dry_run,
                "counts": report.counts,
                "unknown_columns": report.unknown_columns,
                "rows": report.rows,
            }
        )
    else:
        worth_a_look = [row for row in report.rows if row.reason or row.changes]
        show_table(("row", "verdict", "account", "why"), (_verdict_cells(row) for row in worth_a_look))
    for column in report.unknown_columns:
        note(f"The column {column!r} is not known and was left out.")
    counts = ", ".join(f"{n} {verdict}" for verdict, n in report.counts.most_common()) or "no rows"
    note(f"Would be: {counts}. Nothing was written." if dry_run else f"{counts}.".capitalize())
    if report.rows and report.counts["rejected"] == len(report.rows):
        sys.exit(1)


@accounts_group.command("list")
@click.option("--platform", type=PlatformName(), help="Only this platform.")
@click.option("--org", help="Only this organisation.")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only accounts that stand so.")
@click.option("--q", "text", help="Only where handle, name or organisation contains this.")
@as_json_option
def list_accounts(platform: str | None, org: str | None, status: str | None, text: str | None, as_json: bool) -> None:
    """List accounts and how they stand."""
    filters = reads.Filters(platform=platform, org=org, status=status, text=text)
    with opened() as (settings, engine), reading(engine) as conn:
        rows = list(_standings(conn, filters, settings))
    if as_json:
        show_json(rows)
        return
    show_table(
        ("account", "organisation", "core", "status", "reason", "last read"),
        (
            (f"{r.platform}/{r.handle}", r.org_name, r.is_core_account, r.status, r.reason, moment(r.last_success_at))
            for r in rows
        ),
    )


main.add_command(enqueue)
main.add_command(drain)
main.add_command(jobs_group)
main.add_command(history_group)
main.add_command(export_group)
main.add_command(annotations_group)
main.add_command(report_group)
for _entry in entry_points(group=COMMANDS):
    main.add_command(_entry.load())


@main.command()
@as_json_option
def status(as_json: bool) -> None:
    """Say how the accounts stand, and what waits."""
    now = datetime.now(UTC)
    with opened() as (settings, engine), reading(engine) as conn:
        groups = overview.groups(conn, now=now, stale_after=settings.stale_after)
        last_read_at, source = overview.last_reading(conn), writes.source_of(conn)
        backlog = [(platform, kind, jobs) for (platform, kind), jobs in sorted(claims.backlog(conn).items())]
        standing = sorted(pauses.standing(conn, now))
    if as_json:
        show_json(
            {
                "accounts": sum(group.accounts for group in groups),
                "groups": groups,
                "last_read_at": last_read_at,
                "source": source,
                "backlog": [{"platform": p, "kind": k, "jobs": n} for p, k, n in backlog],
                "pauses": standing,
            }
        )
        return
    show_table(
        ("status", "platform", "accounts", "reason"), ((g.status, g.platform, g.accounts, g.reason) for g in groups)
    )
    note(
        f"{sum(g.accounts for g in groups)} accounts; last read {moment(last_read_at)}; numbers: {source or 'none yet'}."
    )
    show_table(("platform", "call", "jobs queued"), backlog)
    show_table(
        ("platform", "credential", "pauses until", "reason"),
        ((pause.platform, pause.credential, moment(pause.until), pause.reason) for pause in standing),
    )


@main.command("platforms")
@as_json_option
def platforms_command(as_json: bool) -> None:
    """Say what each platform wants and gives: credentials, numbers, limits, and what a day of the list takes."""
    with opened() as (settings, engine), reading(engine) as conn:
        found = [
            terms.terms(platform, health.alike(conn, [name]), settings) for name, platform in platforms.load().items()
        ]
    if as_json:
        show_json(found)
        return
    show_table(
        ("platform", "reading", "credentials"),
        ((t.platform, t.why_not or "ready", _credentials(t)) for t in found),
    )
    show_table(
        ("platform", "call", "limit", "accounts a call", "accounts", "calls a day", "costs a day"),
        (
            (t.platform, c.kind, _limit(c, t), c.batch, c.accounts, c.calls_a_day, f"${c.usd_a_day:.2f}")
            for t in found
            for c in t.calls
        ),
    )
    show_table(
        ("platform", "not offered", "why"),
        ((t.platform, name, reason) for t in found for name, reason in t.not_offered.items()),
    )


@main.command("doctor")
@as_json_option
def doctor_command(as_json: bool) -> None:
    """Look at everything Rollcall needs, and say how to mend what is wrong. Exits 1 on a failure."""
    with opened() as (settings, engine):
        findings = list(doctor.examine(settings, engine, platforms.load()))
    if as_json:
        show_json(findings)
    else:
        show_table(("", "what", "says", "to mend it"), ((f.level, f.what, f.said, f.mend) for f in findings))
    if any(finding.level == "fail" for finding in findings):
        sys.exit(1)


@main.group()
def demo() -> None:
    """The simulated numbers."""


@demo.command()
@click.option("--yes", is_flag=True, help="Don't ask.")
def clear(yes: bool) -> None:
    """Remove every simulated number, so that live ones can come in. The account list stays."""
    with opened() as (settings, engine):
        if not yes:
            click.confirm("Remove all simulated numbers?", abort=True, err=True)
        resolving = [platform.name for platform in platforms.load().values() if "resolve" in platform.calls]
        with transaction(engine) as conn:
            removed = writes.clear_simulated(conn, resolving=resolving)
            listed = overview.keys_by_platform(conn)
        purge(settings, frozenset().union(*(tags.of_job(platform, keys) for platform, keys in listed.items())))
    show_table(("what", "removed"), removed.items())
    note("Removed." if removed else "The database holds no simulated numbers.")


@main.group("keys")
def keys_group() -> None:
    """Keys for the API."""


@keys_group.command()
@click.option("--name", required=True, help="Whose key it is.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(get_args(keys.Scope)),
    help="What it may do beside reading: refresh, or admin, which is everything.",
)
def create(name: str, scopes: tuple[keys.Scope, ...]) -> None:
    """Make a key and print it: it is shown this once. Without a scope it may only read."""
    with opened() as (_, engine), transaction(engine) as conn:
        try:
            token = keys.create(conn, name=name, scopes=scopes)
        except keys.BadName as exc:
            raise Misuse(f"No key was made: {exc}.") from exc
    click.echo(token)
    note("Keep it now: it can't be shown again.")


@keys_group.command("list")
@as_json_option
def list_keys(as_json: bool) -> None:
    """List the keys, without their secrets."""
    with opened() as (_, engine), reading(engine) as conn:
        found = keys.list_keys(conn)
    if as_json:
        show_json(found)
        return
    show_table(
        ("key", "name", "scopes", "made", "revoked"),
        (
            (
                k.key_id,
                k.name,
                " ".join(sorted(k.scopes)),
                moment(k.created_at),
                k.revoked_at and moment(k.revoked_at),
            )
            for k in found
        ),
    )


@keys_group.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Make a key worthless from now on."""
    with opened() as (settings, engine):
        with transaction(engine) as conn:
            is_revoked = keys.revoke(conn, key_id)
        if not is_revoked:
            raise Misuse(f"No key {key_id!r} is in use: `rollcall keys list` shows them.")
        purge(settings, frozenset({tags.key(key_id)}))
    note(f"Key {key_id} is revoked.")


main.add_command(db_group)


def _credentials(found: terms.Terms) -> str:
    """Name a platform's credentials, with whether they are set."""
    needed = [f"{name} {'set' if is_set else 'missing'}" for name, is_set in found.needs.items()]
    alone = [f"or {name} {'set' if is_set else 'missing'}" for name, is_set in found.instead.items()]
    helping = [f"{name} {'set' if is_set else 'not set'} (optional)" for name, is_set in found.uses.items()]
    return ", ".join([*needed, *alone, *helping]) or "none needed"


def _limit(call: terms.CallTerms, found: terms.Terms) -> str:
    quota = f", {found.quota_a_day:,} a day for all calls" if found.quota_a_day else ""
    return f"{call.limit.calls:,} per {duration(call.limit.period_s)}{quota}"


def _verdict_cells(row: accounts.Verdict) -> tuple[object, ...]:
    changes = [f"{field}: {change.before} → {change.after}" for field, change in row.changes.items()]
    return row.row, row.verdict, row.account, "; ".join([*([row.reason] if row.reason else []), *changes])


def _standings(conn: Connection, filters: reads.Filters, settings: Settings) -> Iterator[reads.AccountStanding]:
    clock = reads.Clock(datetime.now(UTC), settings.stale_after)
    after = None
    while True:
        part = reads.standings(conn, filters, Order(), Window(limit=_PAGE, after=after), clock)
        yield from part.rows
        after = part.after
        if after is None:
            return
