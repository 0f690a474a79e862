"""Rates as people write them: `300/15m`, `2/s`, `1000/d`."""

import re
from typing import Self

from msgspec import Struct

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


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
