"""`rollcall annotations …`: what people have to say about days, shown beside the numbers."""

from datetime import UTC, date, datetime

import click

from db import annotations, overview, tags
from db.annotations import BadNote, Subject
from db.engine import Connection, reading, transaction
from pipeline import addresses, naming, platforms
from pipeline.command import Misuse, as_json_option, opened, purge, user
from pipeline.terminal import note as say
from pipeline.terminal import show_json, show_table

_day = click.DateTime(["%Y-%m-%d"])


@click.group("annotations")
def annotations_group() -> None:
    """Notes on days: campaigns, outages, changes of counting."""


@annotations_group.command()
@click.argument("note")
@click.option("--from", "first", type=_day, required=True, help="The UTC day, or the first one.")
@click.option("--to", "last", type=_day, help="The last day; else the note is on one day.")
@click.option("--account", help="About this account, as x/name.")
@click.option("--org", help="About every account of this organisation.")
@click.option("--all", "everything", is_flag=True, help="About every account.")
@click.option("--by", "created_by", help="Who says so, for the record; else your name on this machine.")
def add(
    note: str,
    first: datetime,
    last: datetime | None,
    account: str | None,
    org: str | None,
    everything: bool,
    created_by: str | None,
) -> None:
    """Note something on a day, or on days in a row, and print the note's id."""
    if sum((account is not None, org is not None, everything)) != 1:
        raise click.UsageError("Say whom it is about: --account, --org or --all.")
    with opened() as (settings, engine):
        with transaction(engine) as conn:
            subject = _subject(conn, account, org)
            try:
                annotation_id = annotations.add(
                    conn,
                    subject,
                    note,
                    first=first.date(),
                    last=(last or first).date(),
                    created_by=created_by or user(),
                    now=datetime.now(UTC),
                )
            except BadNote as exc:
                raise Misuse(f"Not noted: {exc}.") from exc
        purge(settings, tags.of_annotation(subject.account_key))
    click.echo(annotation_id)


@annotations_group.command("list")
@as_json_option
def list_annotations(as_json: bool) -> None:
    """List the notes, those on the newest days first."""
    with opened() as (_, engine), reading(engine) as conn:
        found = annotations.listed(conn)
    if as_json:
        show_json(found)
        return
    show_table(
        ("id", "days", "about", "note", "by"),
        ((a.annotation_id, _days(a.from_date, a.to_date), a.about or "all", a.note, a.created_by) for a in found),
    )


@annotations_group.command()
@click.argument("annotation_id", type=click.IntRange(1, 2**63 - 1), metavar="ID")
def remove(annotation_id: int) -> None:
    """Remove a note."""
    with opened() as (settings, engine):
        with transaction(engine) as conn:
            subject = annotations.remove(conn, annotation_id)
        if subject is None:
            raise Misuse(f"There is no note {annotation_id}: `rollcall annotations list` shows them.")
        purge(settings, tags.of_annotation(subject.account_key))
    say(f"Note {annotation_id} is removed.")


def _subject(conn: Connection, account: str | None, org: str | None) -> Subject:
    if account is not None:
        (key,) = naming.keys(conn, naming.of_arguments([account], platforms.load()))
        return Subject(account_key=key)
    if org is not None and org not in (known := overview.organisations(conn)):
        raise Misuse(f"No account is of the organisation {org!r}.{addresses.meant(org, known)}")
    return Subject(org_name=org)


def _days(first: date, last: date) -> str:
    return f"{first}" if first == last else f"{first} to {last}"
