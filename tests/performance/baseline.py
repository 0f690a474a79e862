"""What things cost when the baseline was written: to be compared, and rewritten with a reason."""

import json
import platform
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.performance.counting import Count, Counts

FILE = Path(__file__).with_name("baseline.json")
# The part of a value by which another may differ, by its unit; of what isn't named nothing may.
TOLERANCES = {"rows": 0.05, "bytes": 0.02, "calls": 0.03, "bytes of memory": 0.1, "bytes on disk": 0.05}
# Each value before and after, by its name; None where there was or is none.
Changes = dict[str, tuple[float | None, float | None]]


class Found(Struct, frozen=True):
    """A count beside what the baseline says; `was` is None where it says nothing."""

    name: str
    value: float
    unit: str
    was: float | None
    tolerance: float = 0.0

    @property
    def most(self) -> float:
        """Return the most that it may be."""
        return (self.was or 0.0) * (1 + self.tolerance)

    @property
    def is_worse(self) -> bool:
        return self.was is None or self.value > self.most

    @property
    def is_better(self) -> bool:
        return self.was is not None and self.value < self.was * (1 - self.tolerance)

    def __str__(self) -> str:
        was = "isn't in the baseline" if self.was is None else f"was {self.was:g}"
        return f"{self.name}: {self.value:g} {self.unit}, {was}"


def compare(area: str, counts: Counts, file: Path = FILE) -> list[Found]:
    """Return each count of an area beside the baseline's, those left out that follow another Python's ways."""
    said = read(file)
    known = said["counts"].get(area, {})
    same_python = said["python"] == _python()
    return [
        Found(
            name, one.value, one.unit, known[name]["value"] if name in known else None, _tolerance(known, name, one)
        )
        for name, one in counts.items()
        if same_python or not one.follows_python
    ]


def gone(area: str, counts: Counts, file: Path = FILE) -> list[str]:
    """Return what the baseline has and nobody counts any more."""
    return [name for name in read(file)["counts"].get(area, {}) if name not in counts]


def update(areas: Mapping[str, Counts], reason: str, *, today: date, file: Path = FILE) -> list[str]:
    """Write what is within its tolerance as it was and all else anew, and why; return a line for each change."""
    said = read(file)
    changes: Changes = {}
    for area, counts in areas.items():
        known = said["counts"].get(area, {})
        written = {}
        for name, one in counts.items():
            was, tolerance = known.get(name, {}).get("value"), _tolerance(known, name, one)
            found = Found(name, one.value, one.unit, was, tolerance)
            value = one.value if found.is_worse or found.is_better else was
            written[name] = {"value": value, "unit": one.unit, "tolerance": tolerance}
            if value != was:
                changes[f"{area}: {name}"] = (was, value)
        changes |= {f"{area}: {name}": (known[name]["value"], None) for name in known if name not in counts}
        said["counts"][area] = written
    if changes:
        said["python"] = _python()
    return write(said, changes, reason, today=today, file=file)


def _tolerance(known: Mapping[str, Any], name: str, one: Count) -> float:
    """Return what the file says, or what a new count of this unit gets."""
    return float(known[name]["tolerance"] if name in known else TOLERANCES.get(one.unit, 0.0))


def write(said: dict[str, Any], changes: Changes, reason: str, *, today: date, file: Path = FILE) -> list[str]:
    """Write the file, with the reason and what changed in its history, if anything did; return a line for each change."""
    if changes:
        # Where all is new, that says nothing.
        told = changes if any(was is not None for was, _ in changes.values()) else {}
        said["history"] = said.pop("history")  # it stands last
        said["history"].append({"date": today.isoformat(), "reason": reason, "changes": told})
        file.write_text(_written(said))
    return [f"{name}: {was} → {now}" for name, (was, now) in changes.items()]


def read(file: Path = FILE) -> dict[str, Any]:
    """Return all that the file says."""
    if not file.exists():
        return {"python": _python(), "counts": {}, "history": []}
    said: dict[str, Any] = json.loads(file.read_text())
    return said


def _written(said: Mapping[str, Any]) -> str:
    """Return the file: a line for each count and for each change, so that a diff shows what changed."""
    text = json.dumps(said, indent=2, ensure_ascii=False)
    innermost = re.compile(r"\{\n[^{}\[\]]*\}|\[\n[^{}\[\]]*\]")
    return innermost.sub(lambda found: " ".join(found[0].split()), text) + "\n"


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
