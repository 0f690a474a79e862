"""Rates and intervals as people write them: `300/15m`, `2/s`, `1000/d`; `6h`, `7d`."""

import re
from typing import Self

from msgspec import Struct

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_INTERVAL_S = 366 * 86_400


def parse_interval(text: str) -> int:
    """Read `30m`, `6h` or `7d`, up to a year, as seconds. Raises ValueError that says how to write it."""
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text.strip().lower())
    seconds = int(match[1]) * _SECONDS[match[2]] if match else None
    if seconds is None or seconds > _LONGEST_INTERVAL_S:
        raise ValueError(f"{text!r} is no interval: write it as 30m, 6h or 7d, up to a year")
    return seconds


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


class Rate(Struct, frozen=True):
    """So many calls per period (seconds)."""

    calls: int
    period_s: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `calls/[n]unit` with the units s, m, h and d. Raises ValueError that says how to write it."""
        match = re.fullmatch(r"([1-9]\d*)/(\d*)([smhd])", text.strip())
        if match is None or match[2] == "0":
            raise ValueError(f"{text!r} is not a rate: write it as 300/15m, 2/s or 1000/d")
        return cls(int(match[1]), int(match[2] or 1) * _SECONDS[match[3]])

    @property
    def interval_s(self) -> float:
        """Return the seconds between two calls that use the rate evenly."""
        return self.period_s / self.calls

    @property
    def for_celery(self) -> str:
        """Return the rate in Celery's spelling, which knows only one second, minute or hour."""
        return f"{3600 / self.interval_s:.6f}".rstrip("0").rstrip(".") + "/h"
