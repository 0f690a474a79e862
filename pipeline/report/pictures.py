"""Followers by day as a PNG: mail clients show no SVG, and load nothing from elsewhere unasked.

Drawn by Pillow, which brings all that it needs, a font too (matplotlib would bring numpy, Cairo a library of the system):
four times as large as it is shown and then halved, so that lines are smooth, and sharp on dense screens.
Only what sends a report imports this module. The picture has a light ground of its own, and so is read on dark pages too.
"""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from io import BytesIO
from itertools import groupby
from math import floor, log10

from msgspec import Struct
from PIL import Image, ImageDraw, ImageFont

_SCALE = 4
_KEPT = 2
_GROUND, _LINE, _GRID, _TEXT = "#ffffff", "#1f5fbf", "#dfe4eb", "#4a5565"
_TEXT_PX = 12


class Size(Struct, frozen=True):
    """How large a picture is shown, in CSS pixels, and whether with axes."""

    width: int
    height: int
    has_axes: bool = True


LARGE = Size(568, 190)
SMALL = Size(110, 30, has_axes=False)


class _Frame(Struct, frozen=True):
    """Where values lie in the picture, in its pixels."""

    left: float
    top: float
    right: float
    bottom: float
    days: int
    low: float
    high: float

    def place(self, day: int, value: float) -> tuple[float, float]:
        across = day / (self.days - 1) if self.days > 1 else 0.5
        up = (value - self.low) / (self.high - self.low)
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def trend(first: date, values: Sequence[int | None], size: Size) -> bytes | None:
    """Draw a line over the days from `first` on; days without a value are left open. None where there is no value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    image = Image.new("RGB", (size.width * _SCALE, size.height * _SCALE), _GROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(_TEXT_PX * _SCALE)
    marks = list(_marks(min(known), max(known))) if size.has_axes else []
    labels = [f"{mark:,}" for mark in marks]
    pad = 4 * _SCALE
    left = max((draw.textlength(label, font) for label in labels), default=0) + (3 * pad if size.has_axes else pad)
    low, high = min([*known, *marks]), max([*known, *marks])
    frame = _Frame(
        left=left,
        top=(3 if size.has_axes else 1) * pad,
        right=image.width - (3 if size.has_axes else 1) * pad,
        bottom=image.height - (7 if size.has_axes else 1) * pad,
        days=len(values),
        # What doesn't change lies in the middle: at the foot it would look like nothing.
        low=low if low < high else low - 1,
        high=high if low < high else high + 1,
    )
    for mark, label in zip(marks, labels, strict=True):
        _, y = frame.place(0, mark)
        draw.line((frame.left, y, frame.right, y), fill=_GRID, width=_SCALE)
        draw.text((frame.left - pad, y), label, fill=_TEXT, font=font, anchor="rm")
    for run in _runs(values):
        points = [frame.place(day, value) for day, value in run]
        draw.line(points, fill=_LINE, width=2 * _SCALE, joint="curve")
        if len(points) == 1:
            _dot(draw, points[0], 1.5 * _SCALE)
    last = max(day for day, value in enumerate(values) if value is not None)
    _dot(draw, frame.place(last, known[-1]), (3 if size.has_axes else 2) * _SCALE)
    if size.has_axes:
        below = frame.bottom + pad
        draw.text((frame.left, below), _day(first), fill=_TEXT, font=font, anchor="lt")
        draw.text((frame.right, below), _day(first + timedelta(len(values) - 1)), fill=_TEXT, font=font, anchor="rt")
    shown = image.resize((size.width * _KEPT, size.height * _KEPT), Image.Resampling.LANCZOS)
    file = BytesIO()
    shown.quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def _runs(values: Sequence[int | None]) -> Iterator[list[tuple[int, int]]]:
    """Yield the days in a row that have a value, each with it."""
    for is_known, run in groupby(enumerate(values), key=lambda item: item[1] is not None):
        if is_known:
            yield [(day, value) for day, value in run if value is not None]


def _marks(low: int, high: int) -> Iterator[int]:
    """Yield round numbers from at or below the lowest value to at or above the highest, some three to six."""
    if low == high:
        yield low
        return
    rough = (high - low) / 3
    unit = 10 ** floor(log10(rough)) if rough >= 1 else 1
    step = int(max(1, next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)))
    mark = low // step * step
    while mark < high:
        yield mark
        mark += step
    yield mark


def _dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float) -> None:
    x, y = at
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_LINE)


def _day(day: date) -> str:
    return f"{day:%-d %b %Y}"
