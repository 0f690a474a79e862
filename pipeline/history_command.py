"""`rollcall history …`: bring in the numbers of past days, and see who did."""

import sys
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import click
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from db import partitions, provenance
from db.engine import DatabaseError, reading
from db.provenance import Counts, Import, Underway
from pipeline.command import Fault, Misuse, as_json_option, opened, purge, user
from pipeline.history import Options, Step, import_file, try_file
from pipeline.history_file import FORMATS, STDIN, Format, NotAHistory
from pipeline.history_row import FIRST_DAY
from pipeline.settings import Settings
from pipeline.terminal import moment, note, show_json, show_table


@click.group("history")
def history_group() -> None:
    """The numbers of past days."""


@history_group.command("import")
@click.argument("file")
@click.option("--format", "as_format", type=click.Choice(FORMATS), help="What FILE is, where its name doesn't say.")
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where the rows go that aren't taken, with the reasons; else FILE.rejects.csv.",
)
@click.option("--overwrite", is_flag=True, help="Let readings of the platforms give way, too.")
@click.option("--by", "imported_by", help="Who imports, for the record; else your name on this machine.")
@click.option("--dry-run", is_flag=True, help="Judge every row, write nothing but the rejects.")
@as_json_option
def import_history(
    file: str,
    as_format: Format | None,
    rejects: Path | None,
    overwrite: bool,
    imported_by: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import the numbers of past days from a CSV, JSON lines or Parquet file (`-` reads standard input).

    A row has an account (or platform and handle, or url), a date, and followers, following, posts, engagement: digits
    only, empty where unknown. Days that a platform was asked on stay as they are, unless --overwrite; of a day given
    twice the last row counts. Interrupted, it goes on where it was when it is run again. Exits 1 when every row was
    rejected.
    """
    with opened() as (settings, engine):
        now = datetime.now(UTC)
        options = Options(
            rejects=_rejects(file, rejects),
            imported_by=imported_by or user(),
            oldest=_oldest(settings, now),
            format=as_format,
            overwrite=overwrite,
            partition_months=settings.partition_months,
        )
        work = (try_file if dry_run else import_file)(engine, file, options, now=now)
        last = _done(work, settings)
    counts = last.counts if last else Counts()
    if as_json:
        show_json(
            {
                "dry_run": dry_run,
                "import_id": last.of.import_id if last and last.of else None,
                "counts": counts,
                "unknown_columns": list(last.file.unknown_columns) if last else [],
                "rejects": str(options.rejects) if counts.rejected else None,
            }
        )
    for column in last.file.unknown_columns if last else ():
        note(f"The column {column!r} is not known and was left out.")
    note(_summed_up(counts, options, dry_run=dry_run))
    if counts.rows and counts.rejected == counts.rows:
        sys.exit(1)


@history_group.command("imports")
@as_json_option
def imports(as_json: bool) -> None:
    """List who imported what and when, newest first, and what became of the rows."""
    with opened() as (_, engine), reading(engine) as conn:
        found = provenance.listed(conn)
    if as_json:
        show_json([_flat(import_) for import_ in found])
        return
    show_table(
        ("import", "file", "by", "began", "ended", *Counts.__struct_fields__),
        (
            (
                import_.import_id,
                import_.given.file_name,
                import_.given.imported_by,
                moment(import_.started_at),
                moment(import_.finished_at) if import_.finished_at else "not yet",
                *(f"{count:,}" for count in structs.astuple(import_.counts)),
            )
            for import_ in found
        ),
    )


def _flat(import_: Import) -> dict[str, object]:
    flat = structs.asdict(import_)
    return {**flat, **structs.asdict(flat.pop("given")), **structs.asdict(flat.pop("counts"))}


def _rejects(file: str, given: Path | None) -> Path:
    path = given or Path("stdin.rejects.csv" if file == STDIN else f"{file}.rejects.csv")
    if path.exists() and Path(file).exists() and path.samefile(file):
        raise Misuse("--rejects names the file that is to be imported: give it another name.")
    return path


def _oldest(settings: Settings, now: datetime) -> date:
    """Return the oldest day that is taken: older ones would be taken out by the retention again."""
    if settings.retention_months is None:
        return FIRST_DAY
    return max(FIRST_DAY, partitions.oldest_kept(now.date(), settings.retention_months))


def _done(work: Generator[Step, None, None], settings: Settings) -> Step | None:
    """Do an import to its end, with a bar on a terminal; purge after every batch. Return the last step."""
    last = None
    try:
        with closing(work), _bar() as bar:
            shown = bar.add_task("Importing")
            for last in work:
                bar.update(shown, total=last.file.size_bytes, completed=last.file.read_bytes)
                if last.resumed_at and last.counts.rows == last.resumed_at:
                    bar.console.print(f"Goes on behind row {last.resumed_at:,}, where it was interrupted.")
                if last.tags:
                    purge(settings, last.tags)
    except KeyboardInterrupt:
        if last:
            note(f"Interrupted behind row {last.counts.rows:,}: import the file again, and it goes on.")
        raise
    except NotAHistory as exc:
        if last is None or not last.counts.rows:
            raise Misuse(str(exc)) from exc
        raise Fault(f"Behind row {last.counts.rows:,}, up to which all is kept: {exc}") from exc
    except Underway as exc:
        raise Fault(str(exc)) from exc
    except OSError as exc:  # a disk that is full names no file
        fault = Misuse if last is None else Fault
        raise fault(f"{exc.filename}: {exc.strerror}." if exc.filename else f"{exc.strerror}.") from exc
    except DatabaseError as exc:
        if not partitions.is_busy(exc):
            raise
        raise Fault("A long read or write keeps the snapshots locked: import the file again, it goes on.") from exc
    return last


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def _summed_up(counts: Counts, options: Options, *, dry_run: bool) -> str:
    rejected = f"{counts.rejected:,} rejected" + (f" ({options.rejects})" if counts.rejected else "")
    if dry_run:
        return f"{counts.rows:,} rows: {counts.unchanged:,} good, {rejected}. Nothing was imported."
    outranked = f"{counts.outranked:,} left as the platform said them"
    if counts.outranked:
        outranked += " (--overwrite replaces them)"
    return (
        f"{counts.rows:,} rows: {counts.inserted:,} new, {counts.updated:,} changed, {counts.unchanged:,} unchanged, "
        f"{outranked}, {rejected}."
    )
