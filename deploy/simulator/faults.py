"""Misbehaviour on request: what the next answers of a platform suffer on their way."""

from collections import deque
from typing import Literal, NamedTuple

from deploy.simulator.site import Answer

FaultKind = Literal["latency", "status", "truncated", "html", "empty", "dropped"]

_PAGE = "<!DOCTYPE html><html><head><title>Maintenance</title></head><body>We'll be back soon.</body></html>"


class Fault(NamedTuple):
    """`value` is the seconds of `latency` (1) and the status of `status` (503) and `html` (200)."""

    kind: FaultKind
    value: float | None = None

    @property
    def latency_s(self) -> float:
        if self.kind != "latency":
            return 0.0
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
        return answer


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
