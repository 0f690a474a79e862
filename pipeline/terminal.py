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


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows, or nothing when there are none; into a pipe one line each, without a heading, nothing shortened."""
    console = Console()
    if not console.is_terminal:
        for row in rows:
            click.echo("\t".join(map(_cell, row)))
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))  # Text: an organisation's [brackets] are no markup
    if table.rows:
        console.print(table)


def show_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def note(text: str) -> None:
    """Say something beside the result."""
    click.echo(text, err=True)


def duration(seconds: float) -> str:
    """Write a time as people do: `under 1 s`, `3 min 20 s`, `2 d 5 h`."""
    if seconds < 1:
        return "under 1 s"
    parts = []
    left = round(seconds)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def moment(at: datetime | None) -> str:
    """Write a time to the minute, in UTC."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split())
