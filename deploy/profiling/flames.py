"""Where a process spends its time: py-spy looks a hundred times a second who holds the interpreter, and draws a flame graph.

A thread that waits, for an answer or for its turn, isn't in it. (By the state that the system gives, threads that py-spy
itself has just stopped look busy: of an idle process most samples were those.) Nor is work that needs no interpreter.
"""

import re
import shutil
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from bisect import bisect_right
from collections import Counter, defaultdict
from pathlib import Path

from msgspec import Struct

from pipeline.command import Fault

MOST = 10
LOOK_S = 0.2
# How long the last samples and the picture may take.
DRAW_S = 60.0
_FG = "{http://github.com/jonhoo/inferno}"
_TITLE = re.compile(r"(?P<function>.*?) \((?:(?P<where>.*)\) \()?(?P<samples>[\d,]+) samples?, [\d.]+%\)", re.DOTALL)
_REFUSED = (
    "The system doesn't let py-spy look into process {pid}: start the process by `rollcall profile` instead of --pid,"
    " run this as root or as the process's user (and with --cap-add SYS_PTRACE in a container), or see"
    " /proc/sys/kernel/yama/ptrace_scope."
)


class Seen(Struct, frozen=True):
    """One function: in how many samples it was what ran, as a number and as a share of all."""

    samples: int
    share: float
    function: str
    where: str


def py_spy() -> str:
    """Return where py-spy is. Raises Fault."""
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise Fault("py-spy isn't installed: `pip install 'rollcall[profiling]'`.")
    return found


def record(pid: int, file: Path, *, seconds: float, stop: threading.Event) -> None:
    """Sample a process and all its children into an SVG, until `stop` if that comes first. Raises Fault."""
    command = [py_spy(), "record", "--gil", "--subprocesses", "--function", "--output", str(file)]
    spy = subprocess.Popen(
        [*command, "--duration", str(max(1, round(seconds))), "--pid", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C comes to us, and once to it from here
    )
    try:
        said = _heard(spy, stop)
    finally:
        if spy.poll() is None:
            spy.kill()
            spy.wait()
    if not file.exists() or not file.stat().st_size:
        raise Fault(_why(said, pid))


def _heard(spy: "subprocess.Popen[str]", stop: threading.Event) -> str:
    """Wait for py-spy, telling it to stop if we are; return what it said."""
    while True:
        try:
            return spy.communicate(timeout=LOOK_S)[1]
        except subprocess.TimeoutExpired:
            if stop.is_set():
                break
    spy.send_signal(signal.SIGINT)
    try:
        return spy.communicate(timeout=DRAW_S)[1]
    except subprocess.TimeoutExpired:
        return "Error: it didn't stop"


def _why(said: str, pid: int) -> str:
    if re.search("permi(t|ssion)", said, re.IGNORECASE):
        return _REFUSED.format(pid=pid)
    if "No stack counts" in said:
        return f"Nothing ran in process {pid} meanwhile: give it something to do, or more --seconds."
    errors = [line for line in said.splitlines() if line.strip()]
    return f"py-spy can't profile process {pid}: {errors[-1] if errors else 'it said nothing'}"


def own(file: Path) -> list[Seen]:
    """Return the functions that ran themselves in most samples, by a flame graph of py-spy's.

    A frame's samples less those of the frames that lie on it. Source: the attributes by which the picture's own script
    zooms (inferno).
    """
    by_row: defaultdict[float, list[tuple[int, int, str]]] = defaultdict(list)
    for group in ET.parse(file).iter("{http://www.w3.org/2000/svg}g"):  # noqa: S314  # py-spy has just written it
        title, rect = (group.find(f"{{http://www.w3.org/2000/svg}}{name}") for name in ("title", "rect"))
        if title is not None and rect is not None:
            x, width = int(rect.get(f"{_FG}x", 0)), int(rect.get(f"{_FG}w", 0))
            by_row[float(rect.get("y", 0))].append((x, width, title.text or ""))
    rows = [sorted(by_row[y]) for y in sorted(by_row)]
    counted: Counter[tuple[str, str]] = Counter()
    for row, above in zip(rows, [*rows[1:], []], strict=True):
        lefts = [x for x, _, _ in row]
        owned = [width for _, width, _ in row]
        for x, width, _ in above:
            owned[bisect_right(lefts, x) - 1] -= width
        for samples, (_, _, text) in zip(owned, row, strict=True):
            found = _TITLE.fullmatch(text)
            if found and samples > 0:
                counted[found["function"], found["where"] or ""] += samples
    total = sum(width for _, width, _ in rows[0]) if rows else 0
    return [
        Seen(samples=samples, share=samples / total, function=function, where=where)
        for (function, where), samples in counted.most_common(MOST)
    ]
