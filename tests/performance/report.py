"""What a benchmark found: lines with their spread and, where the issue sets one, a bound that fails the run."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from msgspec import Struct, structs
from rich.console import Console
from rich.table import Table


class Line(Struct, frozen=True):
    """One number with the least and the most of its rounds. `at_least` and `at_most` are bounds to be met.

    `value` is None where nothing was measured: the name says why.
    """

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Say whether the bound is met; None where there is none."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


class Growth(Struct, frozen=True):
    """What something costs by the size of what is there; `exponent` is that of the power law fitted: 0 is flat, 1 in proportion."""

    name: str
    unit: str
    points: Sequence[tuple[float, float]]
    exponent: float


class Chapter(Struct, frozen=True):
    """What belongs together. `fails_when` says by which change for the worse a bound of it was seen to be missed."""

    title: str
    lines: Sequence[Line]
    fails_when: str = ""
    growth: Sequence[Growth] = ()


def middle(
    name: str,
    values: Sequence[float],
    unit: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Line:
    """Return the median of the rounds as a line, with their spread."""
    return Line(name, median(values), unit, min(values), max(values), at_least, at_most)


def missed(chapters: Iterable[Chapter]) -> list[Line]:
    return [line for chapter in chapters for line in chapter.lines if line.is_met is False]


def show(chapter: Chapter, console: Console) -> None:
    table = Table(title=chapter.title, title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("median", "least", "most"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    table.add_column("bound")
    for line in chapter.lines:
        numbers = (_number(value) if value is not None else "" for value in (line.value, line.low, line.high))
        table.add_row(line.name, *numbers, line.unit, _bound(line))
    console.print(table)


def write_json(chapters: Sequence[Chapter], file: Path) -> None:
    """Write every line, with its verdict, and what machine it was measured on."""
    found: Mapping[str, object] = {
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "chapters": [
            {"title": one.title, "lines": [structs.asdict(line) | {"is_met": line.is_met} for line in one.lines]}
            for one in chapters
        ],
    }
    file.write_text(json.dumps(found, indent=1) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bound(line: Line) -> str:
    said = [f"≥ {line.at_least:g}"] if line.at_least is not None else []
    said += [f"≤ {line.at_most:g}"] if line.at_most is not None else []
    return " ".join([*said, {True: "met", False: "[red]MISSED[/red]", None: ""}[line.is_met]])
