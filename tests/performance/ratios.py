"""The ratios that were found when the baseline was written, with their noise: to be compared, and rewritten with a reason.

Only what has a bound is compared: that says which way is worse. What is no ratio depends on the machine, and what wasn't
repeated shows no noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.performance import baseline
from tests.performance.report import STEADY, Chapter, Line, number


class Was(Struct, frozen=True):
    """What the baseline says: the median of its rounds, the least and the most of them."""

    value: float
    low: float
    high: float

    @property
    def least(self) -> float:
        """Return the least that noise may make of it: no round was less, and two whole runs differ by as much as this."""
        return min(self.low, self.value * (1 - STEADY))

    @property
    def most(self) -> float:
        return max(self.high, self.value * (1 + STEADY))


class Compared(Struct, frozen=True):
    """A ratio beside the baseline's; `was` is None where that doesn't know it."""

    chapter: str
    line: Line
    was: Was | None

    @property
    def is_worse(self) -> bool:
        """Say whether it lies beyond the baseline's noise on the wrong side, its own uncertainty granted."""
        line = self.line
        return (line.at_most is not None and self._is_above) or (line.at_least is not None and self._is_below)

    @property
    def is_better(self) -> bool:
        return not self.is_worse and (self._is_above or self._is_below)

    @property
    def _is_above(self) -> bool:
        return self.was is not None and self._value - self._within > self.was.most

    @property
    def _is_below(self) -> bool:
        return self.was is not None and self._value + self._within < self.was.least

    @property
    def _value(self) -> float:
        return self.line.value or 0.0

    @property
    def _within(self) -> float:
        return self.line.within or 0.0

    def __str__(self) -> str:
        said = f"{self.chapter}: {self.line.name}: {number(self._value)}"
        if self.was is None:
            return f"{said}, isn't in the baseline"
        return f"{said}, was {number(self.was.value)} ({number(self.was.low)} to {number(self.was.high)})"


def knows(area: str, file: Path) -> bool:
    return area in _said(file)


def compare(area: str, chapters: Sequence[Chapter], file: Path) -> list[Compared]:
    """Return each ratio with a bound beside the baseline's."""
    known = _said(file).get(area, {})
    return [
        Compared(title, line, Was(**known[title][line.name]) if line.name in known.get(title, {}) else None)
        for title, line in _compared(chapters)
    ]


def gone(area: str, chapters: Sequence[Chapter], file: Path) -> list[str]:
    """Return what the baseline has and wasn't measured this time."""
    found = {(title, line.name) for title, line in _compared(chapters)}
    known = _said(file).get(area, {})
    return [f"{title}: {name}" for title in known for name in known[title] if (title, name) not in found]


def update(area: str, chapters: Sequence[Chapter], reason: str, *, today: date, file: Path) -> list[str]:
    """Write what is within its noise as it was and all else anew, and why; return a line for each change."""
    said = baseline.read(file)
    known = said.setdefault("ratios", {}).get(area, {})
    written: dict[str, dict[str, Any]] = {}
    changes: baseline.Changes = {}
    for one in compare(area, chapters, file):
        title, name = one.chapter, one.line.name
        is_same = one.was is not None and not one.is_worse and not one.is_better
        kept = known[title][name] if is_same else _written(one.line)
        written.setdefault(title, {})[name] = kept
        if not is_same:
            changes[f"{area}: {title}: {name}"] = (one.was and one.was.value, kept["value"])
    for title in known:
        for name in known[title]:
            if name not in written.get(title, {}):
                changes[f"{area}: {title}: {name}"] = (known[title][name]["value"], None)
    said["ratios"][area] = written
    return baseline.write(said, changes, reason, today=today, file=file)


def _compared(chapters: Sequence[Chapter]) -> Iterator[tuple[str, Line]]:
    for chapter in chapters:
        for line in chapter.lines:
            if line.is_ratio and line.is_met is not None and line.low is not None:
                yield chapter.title, line


def _written(line: Line) -> dict[str, float]:
    return {
        name: float(f"{value:.4g}") for name in Was.__struct_fields__ if (value := getattr(line, name)) is not None
    }


def _said(file: Path) -> Mapping[str, Any]:
    said: Mapping[str, Any] = baseline.read(file).get("ratios", {})
    return said
