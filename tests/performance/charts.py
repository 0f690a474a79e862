"""Lines over time or size as SVG, in the colours of the page around them; each carries its numbers for whoever points at it."""

import math
from collections.abc import Iterator, Sequence
from html import escape

import msgspec
from msgspec import Struct

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 26, 26
# As many points as a picture can show.
_MOST_POINTS = 900
# So few that each can be seen.
_MOST_DOTS = 12
# Of two numbers below a picture.
_LEAST_APART = 40


# Over a longer time without a point, nothing is drawn: nobody looked.
GAP_S = 6.0


class Line(Struct, frozen=True):
    """One line: points from left to right, None where nothing is known. `colour` is one of the page's, from 1 to 8.

    One without a name isn't told of. `is_dashed`: reckoned, not measured; the points of others are shown where few.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int
    is_bar: bool = False
    is_dashed: bool = False


class Mark(Struct, frozen=True):
    """What happened meanwhile, from one moment to another; `text` is told to whoever points at it."""

    begin: float
    end: float
    text: str
    label: str = ""
    is_tinted: bool = True


class Chart(Struct, frozen=True):
    """Lines over the same x. `is_log`: in powers of ten, for what differs by more than a picture can show otherwise.

    `is_log_x`: so is x.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    is_log: bool = False
    is_log_x: bool = False
    is_time: bool = True
    x_unit: str = ""
    width: int = 940
    height: int = 240
    most: float | None = None
    has_names: bool = True


def draw(chart: Chart) -> str:
    """Return the figure: title, names of its lines, picture."""
    shown = [msgspec.structs.replace(line, points=_thinned(line.points, line.is_bar)) for line in chart.lines]
    xs = [x for line in shown for x, _ in line.points]
    ys = [y for line in shown for _, y in line.points if y is not None]
    if not xs or not ys:
        return f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption><p class="soft">Nothing was measured.</p></figure>'
    scale = _Scale(chart, min(xs), max(xs), ys)
    parts = [
        *_grid(chart, scale),
        *_marks(chart, scale),
        *(_path(line, scale, is_time=chart.is_time) for line in shown),
    ]
    names = (
        ""
        if not chart.has_names
        else "".join(f'<span><i class="s{line.colour}"></i>{escape(line.name)}</span>' for line in shown if line.name)
    )
    data = escape(
        msgspec.json.encode(
            {
                "unit": chart.unit,
                "time": chart.is_time,
                "x": [scale.x0, scale.x1],
                "left": _LEFT,
                "right": chart.width - _RIGHT,
                "xUnit": chart.x_unit,
                "logX": chart.is_log_x,
                "lines": [
                    {"name": line.name, "points": [(x, y) for x, y in line.points]} for line in shown if line.name
                ],
            }
        ).decode()
    )
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)} <span class="soft">{escape(chart.unit)}</span></figcaption>'
        f'<div class="names">{names}<output></output></div>'
        f'<svg viewBox="0 0 {chart.width} {chart.height}" role="img" aria-label="{escape(chart.title)}" data-chart="{data}">'
        f'{"".join(parts)}<line class="here" y1="{_TOP}" y2="{chart.height - _BOTTOM}" visibility="hidden"/></svg></figure>'
    )


class _Scale:
    def __init__(self, chart: Chart, x0: float, x1: float, ys: Sequence[float]) -> None:
        self.x0, self.x1 = x0, max(x1, x0 + 1e-9)
        self._chart = chart
        most = max(max(ys), chart.most or 0)
        if chart.is_log:
            least = min((y for y in ys if y > 0), default=0.1)
            self.y0, self.y1 = (
                math.floor(math.log10(least)),
                max(math.ceil(math.log10(max(most, least))), math.floor(math.log10(least)) + 1),
            )
            self.ticks = [float(f"1e{power}") for power in range(self.y0, self.y1 + 1)]
        else:
            step = _step(most or 1.0, 4)
            self.y0, self.y1 = 0, math.ceil((most or 1.0) / step) * step
            self.ticks = [number * step for number in range(round(self.y1 / step) + 1)]

    def x(self, value: float) -> float:
        room = self._chart.width - _LEFT - _RIGHT
        value = min(max(value, self.x0), self.x1)
        if self._chart.is_log_x:
            part = math.log(value / self.x0) / math.log(self.x1 / self.x0)
        else:
            part = (value - self.x0) / (self.x1 - self.x0)
        return round(_LEFT + part * room, 1)

    def y(self, value: float) -> float:
        room = self._chart.height - _TOP - _BOTTOM
        if self._chart.is_log:
            value = math.log10(max(value, 10.0**self.y0))
        return round(self._chart.height - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * room, 1)


def _step(most: float, parts: int) -> float:
    """Return a round number that divides up to `most` into about so many parts."""
    power = 10.0 ** math.floor(math.log10(most / parts))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power * parts >= most)


def _grid(chart: Chart, scale: _Scale) -> Iterator[str]:
    right, foot = chart.width - _RIGHT, chart.height - _BOTTOM
    for tick in scale.ticks:
        y = scale.y(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        yield f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_short(tick)}</text>'
    for at in _x_ticks(chart, scale):
        text = f"{int(at // 60)}:{int(at % 60):02}" if chart.is_time else _short(at)
        yield f'<text class="tick" x="{scale.x(at)}" y="{foot + 18}" text-anchor="middle">{text}</text>'


def _x_ticks(chart: Chart, scale: _Scale) -> Iterator[float]:
    if chart.is_log_x:
        # Where something was measured; what would lie on another's number is left out.
        last = -math.inf
        for at in sorted({x for line in chart.lines if not line.is_dashed for x, _ in line.points}):
            if scale.x(at) - last >= _LEAST_APART:
                last = scale.x(at)
                yield at
        return
    span = scale.x1 - scale.x0
    step = (
        next((s for s in (5, 10, 15, 30, 60, 120, 300, 600, 1200) if span / s <= 10), 3600)
        if chart.is_time
        else _step(span, 6)
    )
    at = math.ceil(scale.x0 / step) * step
    while at <= scale.x1:
        yield at
        at += step


def _marks(chart: Chart, scale: _Scale) -> Iterator[str]:
    foot = chart.height - _BOTTOM
    for mark in chart.marks:
        left, right = scale.x(mark.begin), scale.x(mark.end)
        label = f'<text class="mark" x="{(left + right) / 2}" y="{_TOP - 8}" text-anchor="middle">{escape(mark.label)}</text>'
        yield (
            f'<g class="blow"><title>{escape(mark.text)}</title>'
            f'<rect{"" if mark.is_tinted else " class=plain"} x="{left}" y="{_TOP}" width="{max(right - left, 1.5):.1f}" height="{foot - _TOP}"/>{label}</g>'
        )


def _path(line: Line, scale: _Scale, *, is_time: bool) -> str:
    if line.is_bar:
        foot = scale.y(10.0**scale.y0 if scale._chart.is_log else 0)
        bars = "".join(f"M{scale.x(x)} {foot}V{scale.y(y)}" for x, y in line.points if y)
        return f'<path class="line bar s{line.colour}" d="{bars}"/>'
    drawn, dots, pen, before = [], [], "M", 0.0
    for x, y in line.points:
        if y is None or (is_time and x - before > GAP_S):
            pen = "M"
        before = x
        if y is None:
            continue
        drawn.append(f"{pen}{scale.x(x)} {scale.y(y)}")
        dots.append(f'<circle class="dot s{line.colour}" cx="{scale.x(x)}" cy="{scale.y(y)}" r="3.5"/>')
        pen = "L"
    path = f'<path class="line{" dashed" if line.is_dashed else ""} s{line.colour}" d="{"".join(drawn)}"/>'
    return path if line.is_dashed or len(dots) > _MOST_DOTS else path + "".join(dots)


def _thinned(points: Sequence[tuple[float, float | None]], keeps_all: bool) -> Sequence[tuple[float, float | None]]:
    """Return as many points as can be told apart: of neighbours the highest, since that is what one looks for."""
    points = [(round(x, 2), None if y is None else float(f"{y:.4g}")) for x, y in points]
    if keeps_all or len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / _MOST_POINTS)
    parts = (points[n : n + size] for n in range(0, len(points), size))
    return [max(part, key=lambda point: -1.0 if point[1] is None else point[1]) for part in parts]


def _short(value: float) -> str:
    for size, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}"
