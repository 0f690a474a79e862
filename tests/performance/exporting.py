"""What an export over HTTP costs the process that gives it: memory above idle, time to the first byte and to the last."""

import http.client
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tests.serving import Gunicorn, wait_for

_PIECE_BYTES = 1 << 20


class Cost(Struct, frozen=True, kw_only=True):
    """One export. `above_idle_bytes` is the most memory that its process held, less what it held before."""

    lines: int
    body_bytes: int
    first_byte_s: float
    took_s: float
    above_idle_bytes: int


def measure(server: Gunicorn, path: str, *, encoding: str = "identity") -> Cost:
    """Take a CSV or NDJSON export as fast as it comes from a server of one worker.

    Lines are counted where it isn't compressed.
    """
    (worker,) = server.workers
    server.get("/healthz")
    idle_bytes = resident_bytes(worker)
    forget_peak(worker)
    lines = body_bytes = 0
    began = time.perf_counter()
    first_byte_s = 0.0
    for piece in _pieces(server.port, path, encoding):
        first_byte_s = first_byte_s or time.perf_counter() - began
        body_bytes += len(piece)
        lines += piece.count(b"\n")
    return Cost(
        lines=lines,
        body_bytes=body_bytes,
        first_byte_s=first_byte_s,
        took_s=time.perf_counter() - began,
        above_idle_bytes=peak_bytes(worker) - idle_bytes,
    )


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds now."""
    return _memory(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has held since `forget_peak`."""
    return _memory(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let the peak of a process's memory count from now (Linux, see proc(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def settled_bytes(pid: int) -> int:
    """Return what a process holds once that has been the same for a moment."""
    seen = [0]

    def settled() -> bool:
        seen.append(resident_bytes(pid))
        time.sleep(0.1)
        return len(seen) > 5 and max(seen[-5:]) - min(seen[-5:]) < 1 << 20

    wait_for(settled, "memory to settle", 60)
    return seen[-1]


def _memory(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def _pieces(port: int, path: str, encoding: str) -> Iterator[bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("GET", path, headers={"Accept-Encoding": encoding})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        while piece := answer.read1(_PIECE_BYTES):
            yield piece
    finally:
        connection.close()
