"""`rollcall export …`: accounts, newest numbers, history and posts as files for other programs."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from db import exports
from db.engine import Connection, reading, transaction
from db.exports import ExportedDay, ExportedPost, NoSuchTable, Wanted
from db.reads import AccountStanding, AccountSummary, Clock, Filters
from db.rows import Batches
from pipeline import formats, naming, platforms
from pipeline.command import Fault, Misuse, PlatformName, opened
from pipeline.formats import FORMATS, Format
from pipeline.settings import Settings
from pipeline.terminal import note

_STDOUT = "-"


@click.group("export")
def export_group() -> None:
    """Write accounts, numbers, history or posts into a file, whole, in flat memory."""


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorated(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


_output = _options(
    click.option("-o", "--output", default=_STDOUT, help="The file to write; standard output without."),
    click.option("--format", "as_format", type=click.Choice(FORMATS), help="Else as the file's name says, else csv."),
)
_which = _options(
    click.option("--platform", type=PlatformName(), help="Only this platform."),
    click.option("--org", help="Only this organisation."),
    click.option("--core/--not-core", default=None, help="Only core accounts; or only the others."),
)
_day = click.DateTime(["%Y-%m-%d"])
_when = _options(
    click.option("--account", "named", multiple=True, help="Only this account, as x/name; may be given again."),
    click.option("--from", "first", type=_day, help="Only this UTC day and later ones."),
    click.option("--to", "last", type=_day, help="Only this UTC day and earlier ones."),
)


@export_group.command("summary")
@_which
@_output
def summary(platform: str | None, org: str | None, core: bool | None, output: str, as_format: Format | None) -> None:
    """Every account with its newest reading."""
    filters = Filters(platform=platform, org=org, core=core)
    with opened() as (settings, engine), reading(engine) as conn:
        _write(output, as_format, "summary", AccountSummary, exports.summary(conn, filters, _clock(settings)))


@export_group.command("accounts")
@_which
@_output
def accounts(platform: str | None, org: str | None, core: bool | None, output: str, as_format: Format | None) -> None:
    """The account list, with how the readings go."""
    filters = Filters(platform=platform, org=org, core=core)
    with opened() as (settings, engine), reading(engine) as conn:
        _write(output, as_format, "accounts", AccountStanding, exports.accounts(conn, filters, _clock(settings)))


@export_group.command("history")
@_which
@_when
@click.option(
    "--table", "of_table", help="Of a table that the retention has taken out: see `rollcall db partitions`."
)
@_output
def history(of_table: str | None, output: str, as_format: Format | None, **which: Any) -> None:
    """The numbers of every account and day, as `rollcall history import` takes them."""
    with opened() as (_, engine), transaction(engine) as conn:
        try:
            days = exports.history(conn, _wanted(conn, **which), of_table=of_table)
        except NoSuchTable as exc:
            raise Misuse(f"{of_table!r} is no table that the retention has taken out: {_taken_out(exc)}.") from exc
        _write(output, as_format, "history", ExportedDay, days)


@export_group.command("posts")
@_which
@_when
@_output
def posts(output: str, as_format: Format | None, **which: Any) -> None:
    """The posts of every account; --from and --to are days of publication."""
    with opened() as (_, engine), transaction(engine) as conn:
        _write(output, as_format, "posts", ExportedPost, exports.posts(conn, _wanted(conn, **which)))


def _clock(settings: Settings) -> Clock:
    return Clock(datetime.now(UTC), settings.stale_after)


def _wanted(
    conn: Connection,
    *,
    platform: str | None,
    org: str | None,
    core: bool | None,
    named: Sequence[str],
    first: datetime | None,
    last: datetime | None,
) -> Wanted:
    if first and last and first > last:
        raise Misuse("--from is after --to: no day lies between them.")
    return Wanted(
        platform=platform,
        org=org,
        core=core,
        account_keys=naming.keys(conn, naming.of_arguments(named, platforms.load())) if named else None,
        first=first and first.date(),
        last=last and last.date(),
    )


def _taken_out(missing: NoSuchTable) -> str:
    return f"known are {', '.join(missing.known)}" if missing.known else "there is none"


def _write(output: str, as_format: Format | None, title: str, row_type: type, batches: Batches) -> None:
    """Write rows into a file that is there once it is whole, or to standard output as they come."""
    kind = as_format or formats.SUFFIXES.get(Path(output).suffix.lower(), "csv")
    to_terminal = output == _STDOUT and sys.stdout.isatty()
    if to_terminal and kind in ("parquet", "xlsx"):
        raise Misuse(f"{kind} is not for reading here: name a file by --output.")
    try:
        with _target(output) as file, _shown(batches, quiet=to_terminal) as counted:
            for piece in formats.encode(kind, title, formats.columns_of(row_type), counted):
                file.write(piece)
    except BrokenPipeError:
        raise  # who reads has enough, and click ends quietly
    except OSError as exc:
        raise Fault(f"{output}: {exc.strerror}.") from exc
    note(f"{counted.rows:,} rows.")


class _Counted:
    """Batches that say how many rows went by."""

    def __init__(self, batches: Batches, told: Callable[[int], None]) -> None:
        self.rows = 0
        self._batches = batches
        self._told = told

    def __iter__(self) -> Batches:
        for rows in self._batches:
            yield rows
            self.rows += len(rows)
            self._told(self.rows)


@contextmanager
def _shown(batches: Batches, *, quiet: bool) -> Iterator[_Counted]:
    """Show on a terminal how far it is, unless the rows themselves go there."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} rows"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bar:
        shown = bar.add_task("", total=None)
        yield _Counted(batches, lambda rows: bar.update(shown, completed=rows))


@contextmanager
def _target(output: str) -> Iterator[BinaryIO]:
    if output == _STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output).resolve()  # what a link leads to, so that it stays one
    if path.exists() and not path.is_file():  # a pipe, for one
        with path.open("wb") as file:
            yield file
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
