"""Misbehaviour on request: what the next answers of a platform suffer on their way."""

import re
from collections import deque
from email.utils import formatdate
from math import ceil
from time import time
from typing import Literal, NamedTuple, Self, get_args

from deploy.simulator.site import Answer

FaultKind = Literal["latency", "status", "truncated", "html", "empty", "dropped", "retry_after", "retry_date"]
LARGEST_VALUE = 999
_KINDS: tuple[str, ...] = get_args(FaultKind)

_PAGE = "<!DOCTYPE html><html><head><title>Maintenance</title></head><body>We'll be back soon.</body></html>"


class Fault(NamedTuple):
    """`value` is the seconds of `latency`, `retry_after` and `retry_date` (1) and the status of `status` (503) and `html` (200)."""

    kind: FaultKind
    value: float | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a fault as a header says it: `dropped`, `status=502`. Raises ValueError for anything else."""
        match = re.fullmatch(r"(\w+)(?:=([0-9]{1,3}(?:\.[0-9]{1,6})?))?", text)
        if match is None or match[1] not in _KINDS:
            raise ValueError(f"no fault {text!r}: write a kind, or kind=value; known are {', '.join(_KINDS)}")
        return cls(match[1], float(match[2]) if match[2] else None)  # type: ignore[arg-type]  # one of the kinds

    @property
    def latency_s(self) -> float:
        return self._seconds if self.kind == "latency" else 0.0

    @property
    def _seconds(self) -> float:
        return 1.0 if self.value is None else self.value

    def spoil(self, answer: Answer) -> Answer:
        """Return what is sent instead of an answer. What happens on the wire is the server's part."""
        if self.kind == "status":
            status = int(self.value or 503)
            return Answer(status, {"error": "The service is not available.", "status": status})
        if self.kind == "html":
            return Answer(int(self.value or 200), _PAGE)
        if self.kind == "empty":
            return Answer(200, "")
        if self.kind in ("retry_after", "retry_date"):
            return Answer(429, {"error": "Too many requests", "status": 429}, {"Retry-After": self._retry_after()})
        return answer

    def _retry_after(self) -> str:
        """Return when to come back: in seconds to go, or as an HTTP date."""
        seconds = ceil(self._seconds)
        return str(seconds) if self.kind == "retry_after" else formatdate(time() + seconds, usegmt=True)


class Faults:
    """The faults that are still due, by platform, in the order they were asked for."""

    def __init__(self) -> None:
        self._due: dict[str, deque[tuple[Fault, int]]] = {}

    def order(self, platform: str, fault: Fault, count: int) -> None:
        self._due.setdefault(platform, deque()).append((fault, count))

    def next(self, platform: str) -> Fault | None:
        """Return the fault of this request and strike it off, None if none is due."""
        due = self._due.get(platform)
        if not due:
            return None
        fault, count = due.popleft()
        if count > 1:
            due.appendleft((fault, count - 1))
        return fault
