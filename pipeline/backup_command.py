"""`rollcall db backup` and `rollcall db restore`: the whole database as one file, and back."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from db import backup as backups
from db.backup import Restored
from pipeline.command import Fault, Misuse, as_json_option, opened, purge_all
from pipeline.terminal import note, show_json

# Often enough to see that it goes on, seldom enough for a log.
_EVERY_S = 2.0


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@as_json_option
def backup(file: Path, as_json: bool) -> None:
    """Write the whole database into FILE, in place of an older backup.

    It is of one moment; readers and workers go on meanwhile. FILE is there once it is whole and has been read through.
    """
    if not file.absolute().parent.is_dir():
        raise Misuse(f"There is no folder {file.parent}.")
    with opened() as (settings, _), _said():
        made = backups.backup(settings.database_url.get_secret_value(), file, started=_progress())
    if as_json:
        show_json({"file": str(file), "size_bytes": made.size_bytes, "revision": made.revision})
    note(f"{file}: {made.size_bytes / 1e6:,.1f} MB, whole, revision {made.revision}.")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--into", metavar="NAME", help="An empty database of the same server instead; made where it's missing.")
@click.option("--replace", is_flag=True, help="Take the place of the database; it stays under another name.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@as_json_option
def restore(file: Path, into: str | None, replace: bool, yes: bool, as_json: bool) -> None:
    """Fill the empty database from the backup FILE, bring it to the newest revision, and check it.

    Whole or not at all. Exits 1 where nothing was restored, or where `rollcall db check` finds differences.
    """
    if replace and into is not None:
        raise Misuse("--into and --replace exclude each other.")
    with opened() as (settings, engine), _said():
        url = settings.database_url.get_secret_value()
        if replace and not yes:
            click.confirm(
                f"Replace the database {engine.url.database} and end all its sessions?", abort=True, err=True
            )
        months, started = settings.partition_months, _progress()
        if replace:
            restored = backups.replace(url, file, partition_months=months, started=started)
        elif into is not None:
            restored = backups.restore_into(url, into, file, partition_months=months, started=started)
        else:
            restored = backups.restore(url, file, partition_months=months, started=started)
        _report(restored, as_json=as_json)
        if into is None:
            engine.dispose()  # its session was ended with the former database
            purge_all(settings, engine)
    if restored.differences:
        sys.exit(1)


def _report(restored: Restored, *, as_json: bool) -> None:
    if as_json:
        show_json(restored)
    note(f"Restored from revision {restored.revision}, and of the newest now.")
    if restored.replaced is not None:
        note(f"The former database is called {restored.replaced}: drop it once all is well.")
    if restored.differences:
        note(f"{len(restored.differences)} differences, as in the backup: `rollcall db check` shows them.")
    else:
        note("All is as the snapshots say.")


@contextmanager
def _said() -> Iterator[None]:
    """Say in a line why there is no backup, and what to do."""
    try:
        yield
    except backups.NotEmpty as exc:
        raise Fault(f"{exc} --replace puts the backup in its place, --into NAME restores beside it.") from exc
    except (backups.BackupError, OSError) as exc:
        raise Fault(str(exc)) from exc


def _progress() -> Callable[[str], None]:
    """Return what says, now and then, which table it is at."""
    said_at = time.monotonic()

    def started(table: str) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _EVERY_S:
            note(f"at {table} …")
            said_at = time.monotonic()

    return started
