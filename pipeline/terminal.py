"""How the command line speaks: tables on a terminal, tab-separated lines into a pipe, JSON when asked for.

What is asked for goes to standard output, everything said beside it to standard error.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.lines import as_line


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, most: int | None = None) -> int:
    """Print rows, or nothing when there are none; into a pipe one line each, without a heading, nothing shortened.

    A pipe gets each row as it comes. A terminal gets no more than `most`, and how many there are beside them. Returns
    how many there were.
    """
    console = Console()
    count = 0
    if not console.is_terminal:
        for row in rows:
            click.echo("\t".join(map(_cell, row)))
            count += 1
        return count
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        count += 1
        if most is None or count <= most:
            table.add_row(*(Text(_cell(value)) for value in row))  # Text: an organisation's [brackets] are no markup
    if table.rows:
        console.print(table)
    if count > len(table.rows):
        note(f"And {count - len(table.rows):,} more: into a pipe or a file all of them go.")
    return count


def show_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


class JsonObject:
    """One JSON object, mostly of lists, written item by item, so that it may be longer than memory."""

    def __init__(self) -> None:
        self._before = "{\n"

    def show(self, name: str, value: object) -> None:
        click.echo(f'{self._before}  "{name}": {msgspec.json.encode(value).decode()}', nl=False)
        self._before = ",\n"

    def show_list(self, name: str, items: Iterable[object]) -> None:
        """Write a list, each item on a line of its own as soon as it is there."""
        click.echo(f'{self._before}  "{name}": [', nl=False)
        before = "\n"
        for item in items:
            click.echo(f"{before}    {msgspec.json.encode(item).decode()}", nl=False)
            before = ",\n"
        click.echo("]" if before == "\n" else "\n  ]", nl=False)
        self._before = ",\n"

    def end(self) -> None:
        """Close the object. Not called when something breaks off, so that half an answer doesn't look whole."""
        click.echo("\n}")


def note(text: str) -> None:
    """Say something beside the result."""
    click.echo(text, err=True)


def moment(at: datetime | None) -> str:
    """Write a time to the minute, in UTC."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return as_line(str(value))
