"""A line's median, least and most beside its bound, as a small picture for its row."""

from collections.abc import Sequence
from html import escape

from msgspec import Struct

from tests.performance.report import Chapter, Line, number

_WIDTH, _HEIGHT, _MIDDLE = 240, 22, 11
# So that what lies beyond a bound can be seen.
_ROOM = 1.15
# What is beyond a bound is hatched; every picture of a page refers to this.
DEFINED = (
    '<svg width="0" height="0" class="defined"><defs><pattern id="beyond" width="6" height="6" patternTransform="rotate(45)" '
    'patternUnits="userSpaceOnUse"><line y2="6" class="hatch"/></pattern></defs></svg>'
)


class _Scale(Struct, frozen=True):
    first: float
    last: float

    def x(self, value: float) -> float:
        return round(4 + (value - self.first) / (self.last - self.first) * (_WIDTH - 8), 1)


def draw(line: Line, chapter: Chapter) -> str:
    """Return the picture: a scale of its own for what has a bound, one for all of a unit for the rest."""
    if line.value is None:
        return ""
    alike = [line]
    if line.is_met is None:
        alike = [one for one in chapter.lines if one.unit == line.unit and one.is_met is None]
    scale = _scale(alike)
    zero = scale.x(0)
    parts = [f'<line class="axis" x1="{zero}" x2="{_WIDTH}" y1="{_MIDDLE}" y2="{_MIDDLE}"/>']
    if line.at_most is not None:
        parts.append(_beyond(scale.x(line.at_most), _WIDTH))
    if line.at_least is not None:
        parts.append(_beyond(zero, scale.x(line.at_least)))
    if line.low is not None and line.high is not None:
        left, right = scale.x(line.low), scale.x(line.high)
        parts.append(
            f'<rect class="reach" x="{left}" y="{_MIDDLE - 4}" width="{max(right - left, 1):.1f}" height="8" rx="2"/>'
        )
    parts += [
        f'<line class="edge" x1="{scale.x(bound)}" x2="{scale.x(bound)}" y1="1" y2="{_HEIGHT - 1}"/>'
        for bound in (line.at_least, line.at_most)
        if bound is not None
    ]
    parts.append(_median(scale.x(line.value), line.is_met))
    said = escape(_said(line))
    return f'<svg class="spread" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}"><title>{said}</title>{"".join(parts)}</svg>'


def _scale(lines: Sequence[Line]) -> _Scale:
    shown = [
        value
        for line in lines
        for value in (line.value, line.low, line.high, line.at_least, line.at_most)
        if value is not None
    ]
    return _Scale(min(0, *shown), _ROOM * max(shown) if max(shown) > 0 else 1.0)


def _beyond(left: float, right: float) -> str:
    return f'<rect fill="url(#beyond)" x="{left}" y="2" width="{max(right - left, 0):.1f}" height="{_HEIGHT - 4}"/>'


def _median(x: float, is_met: bool | None) -> str:
    """Return a dot where the bound is met or none, else a cross: it shows without its colour, too."""
    if is_met is False:
        return f'<path class="cross" d="M{x - 5} {_MIDDLE - 5}l10 10m0 -10l-10 10"/>'
    return f'<circle class="{"met" if is_met else "free"}" cx="{x}" cy="{_MIDDLE}" r="5"/>'


def _said(line: Line) -> str:
    said = [f"median {number(line.value)} {line.unit}".strip()] if line.value is not None else []
    if line.low is not None and line.high is not None:
        said.append(f"{number(line.low)} to {number(line.high)}")
    if line.bound:
        said.append(f"{line.bound}: {'met' if line.is_met else 'missed'}")
    return ", ".join(said)
