"""Numbers as pictures and sentences. Pure: what isn't known is a gap in the picture and said in the sentence."""

from collections.abc import Sequence
from datetime import date
from itertools import groupby
from math import floor, log10

from msgspec import Struct

Values = Sequence[int | float | None]


class Sparkline(Struct, frozen=True):
    """A line for an SVG of `width` by `height`: a path for each run of known values, and where the last one lies."""

    width: int
    height: int
    paths: list[str]
    end: tuple[float, float] | None


def sparkline(values: Values, *, width: int = 120, height: int = 28, pad: float = 2.5) -> Sparkline | None:
    """Return the line, None when nothing is known. Days without a value are gaps, never joined."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    step = (width - 2 * pad) / max(1, len(values) - 1)

    def place(index: int, value: float) -> tuple[float, float]:
        # What doesn't change lies in the middle: at the foot it would look like nothing.
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(pad + index * step, 1), round(height - pad - share * (height - 2 * pad), 1)

    paths, end = [], None
    for is_known, run in groupby(enumerate(values), key=lambda item: item[1] is not None):
        if not is_known:
            continue
        points = [place(index, value) for index, value in run if value is not None]
        end = points[-1]
        # A single day is a dot: a line of no length with round ends.
        points = points * 2 if len(points) == 1 else points
        paths.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points))
    return Sparkline(width, height, paths, end)


def trend_sentence(subject: str, dates: Sequence[date], values: Values, *, unit: str = "followers") -> str:
    """Say what a chart shows: from when to when, the change, and how many days are missing."""
    known = [(day, value) for day, value in zip(dates, values, strict=True) if value is not None]
    if not known:
        return f"{subject}: no {unit} known on any of these days."
    (first_day, first), (last_day, last) = known[0], known[-1]
    if len(known) == 1:
        said = f"{subject}: {last:,} {unit} on {_day(last_day)}, the only day with a number"
    else:
        said = (
            f"{subject}: {first:,} {unit} on {_day(first_day)}, {last:,} on {_day(last_day)}, {_change(first, last)}"
        )
    missing = sum(value is None for value in values)
    if not missing:
        return f"{said}."
    return f"{said}; {missing} of {len(values)} days have no number and are left open."


def indexed(values: Values) -> list[float | None]:
    """Return the values in percent of the first known one; nothing can be told in percent of zero."""
    base = next((value for value in values if value is not None), 0)
    return [None if value is None or not base else round(100 * value / base, 2) for value in values]


def _change(first: float, last: float) -> str:
    if first == last:
        return "no change"
    word = "up" if last > first else "down"
    share = f" ({abs(last - first) / first:.1%})" if first else ""
    return f"{word} {abs(last - first):,}{share}"


def _day(day: date) -> str:
    return f"{day:%-d %b %Y}"


class Columns(Struct, frozen=True):
    """Stacked columns for an SVG of `width` by `height`.

    `parts` has a path of rectangles for each part, the lowest first; `open` is the one of columns of which nothing is
    known; `most` is what the full height stands for.
    """

    width: int
    height: int
    parts: list[str]
    open: str
    most: float


def columns(values: Sequence[Sequence[float] | None], *, width: int = 720, height: int = 140) -> Columns:
    """Return columns of as many parts each; None is one of which nothing is known, over the full height."""
    known = [parts for parts in values if parts is not None]
    most = ceiling(max((sum(parts) for parts in known), default=0))
    wide = width / max(1, len(values))
    drawn = [""] * max(map(len, known), default=0)
    unknown = ""
    for place, parts in enumerate(values):
        left = place * wide + wide * 0.1
        if parts is None:
            unknown += _box(place * wide, 0, wide, height)
            continue
        below = 0.0
        for number, part in enumerate(parts):
            top = height * (1 - (below + part) / most)
            drawn[number] += _box(left, top, wide * 0.8, height * part / most) if part else ""
            below += part
    return Columns(width, height, drawn, unknown, most)


class Lines(Struct, frozen=True):
    """Lines for an SVG of `width` by `height`, on one scale from 0 to `most`: of each the paths of its known runs."""

    width: int
    height: int
    lines: list[list[str]]
    most: float


def lines(series: Sequence[Values], *, width: int = 720, height: int = 140) -> Lines:
    """Return lines over the same steps; what isn't known is a gap, a single known step a short dash."""
    most = ceiling(max((value for values in series for value in values if value is not None), default=0))

    def of(values: Values) -> list[str]:
        step = width / max(1, len(values))
        paths = []
        for is_known, run in groupby(enumerate(values), key=lambda item: item[1] is not None):
            points = [(place, value) for place, value in run if value is not None]
            if is_known:
                # From the first step's begin to the last one's end, level where there is one only.
                ends = [(points[0][0] - 0.4, points[0][1]), *points, (points[-1][0] + 0.4, points[-1][1])]
                paths.append(
                    "M"
                    + "L".join(
                        f"{(place + 0.5) * step:.1f} {height * (1 - value / most):.1f}" for place, value in ends
                    )
                )
        return paths

    return Lines(width, height, [of(values) for values in series], most)


def ceiling(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, 50 … that isn't below a value; 1 for nothing."""
    if value <= 0:
        return 1
    size = 10.0 ** floor(log10(value))
    return next(step * size for step in (1, 2, 5, 10) if step * size >= value * (1 - 1e-9))


def _box(left: float, top: float, wide: float, high: float) -> str:
    return f"M{left:.1f} {top:.1f}h{wide:.1f}v{high:.1f}h-{wide:.1f}z"
