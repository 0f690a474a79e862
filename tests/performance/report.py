"""What a benchmark found: lines with their spread and, where one is set, a bound that fails the run."""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import median, quantiles

import msgspec
from msgspec import Struct, structs
from rich.console import Console
from rich.table import Table

from tests.performance.facts import Facts

# Of what doesn't depend on the machine's speed.
RATIOS = ("", "times")
# A ratio is steady once its median, or where that is more its bound, is known to this part of it.
STEADY = 0.05


class Line(Struct, frozen=True):
    """One number with the least and the most of its rounds. `at_least` and `at_most` are bounds to be met.

    `value` is None where nothing was measured: the name says why. `within` is how far from it the median of ever more
    rounds would most likely be.
    """

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    rounds: int | None = None
    within: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Say whether the bound is met; None where there is none."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def is_ratio(self) -> bool:
        return self.unit in RATIOS

    @property
    def is_steady(self) -> bool | None:
        """Say whether more rounds would hardly change it; None of what is no ratio or wasn't repeated."""
        if self.value is None or self.within is None or not self.is_ratio:
            return None
        return self.within <= STEADY * max(abs(self.value), self.at_least or 0, self.at_most or 0)

    @property
    def repeated(self) -> str:
        """Say how many rounds it took, and if that wasn't enough."""
        if self.rounds is None:
            return ""
        return f"{self.rounds:,}" + (", not steady" if self.is_steady is False else "")

    @property
    def bound(self) -> str:
        said = [f"at least {self.at_least:g}"] if self.at_least is not None else []
        said += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        return ", ".join(said)


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

    @property
    def is_met(self) -> bool | None:
        """Say whether every bound is met; None where there is none."""
        met = [line.is_met for line in self.lines if line.is_met is not None]
        return all(met) if met else None

    @property
    def proof(self) -> str:
        """Say when its bounds were seen to be missed; nothing where there is none, or where one is missed just now."""
        if self.fails_when:
            return f"Seen to fail when {self.fails_when}."
        return "Never seen to fail." if self.is_met else ""


def middle(
    name: str,
    values: Sequence[float],
    unit: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Line:
    """Return the median of the rounds as a line, with their spread."""
    line = Line(name, median(values), unit, min(values), max(values), at_least, at_most, len(values))
    return structs.replace(line, within=_within(values)) if len(values) > 1 else line


def _within(values: Sequence[float]) -> float:
    """Return the half of a notch, as box plots have it: a median's interval of some 95 %.

    Source: McGill, Tukey, Larsen, Variations of Box Plots, 1978.
    """
    lower, _, upper = quantiles(values, n=4, method="inclusive")
    return 1.57 * (upper - lower) / sqrt(len(values))


def missed(chapters: Iterable[Chapter]) -> list[Line]:
    return [line for chapter in chapters for line in chapter.lines if line.is_met is False]


def show(chapter: Chapter, console: Console) -> None:
    table = Table(title=chapter.title, title_justify="left", title_style="bold")
    table.caption, table.caption_justify = chapter.proof or None, "left"
    table.add_column("")
    for heading in ("median", "least", "most"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    table.add_column("bound")
    table.add_column("rounds")
    words = {True: "met", False: "[red]MISSED[/red]", None: ""}
    for line in chapter.lines:
        numbers = (number(value) if value is not None else "" for value in (line.value, line.low, line.high))
        table.add_row(line.name, *numbers, line.unit, f"{line.bound} {words[line.is_met]}".strip(), line.repeated)
    console.print(table)
    if chapter.growth:
        console.print(_growth(chapter.growth))


def _growth(growth: Sequence[Growth]) -> Table:
    sizes = sizes_of(growth)
    table = Table("by size", title_justify="left")
    for size in sizes:
        table.add_column(f"{size:,.0f}", justify="right")
    table.add_column("unit")
    table.add_column("exponent", justify="right")
    for one in growth:
        at = dict(one.points)
        table.add_row(
            one.name, *(number(at[size]) if size in at else "" for size in sizes), one.unit, f"{one.exponent:.2f}"
        )
    return table


def sizes_of(growth: Sequence[Growth]) -> list[float]:
    """Return every size that something was measured at, smallest first."""
    return sorted({size for one in growth for size, _ in one.points})


def write_json(chapters: Sequence[Chapter], facts: Facts, file: Path, **about: object) -> None:
    """Write every line, with its verdict, and what machine it was measured on."""
    found: Mapping[str, object] = {
        **about,
        "machine": facts,
        "chapters": [
            structs.asdict(one)
            | {
                "lines": [
                    structs.asdict(line) | {"is_met": line.is_met, "is_steady": line.is_steady} for line in one.lines
                ]
            }
            for one in chapters
        ],
    }
    file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
