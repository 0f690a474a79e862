"""What a process holds at the end that it didn't at the beginning: memray notes every allocation in between."""

import gc
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from deploy.profiling.places import is_ours, short

MOST = 10


class Held(Struct, frozen=True):
    """Memory of one line, and the line of ours that led there."""

    size_bytes: int
    blocks: int
    line: str
    ours: str | None


class Tracked:
    """This process's memory from `begin` to `end`, native libraries' included; blocks given back meanwhile don't count."""

    def __init__(self) -> None:
        self._tracker: Any = None

    def begin(self, file: Path) -> None:
        import memray  # an extra, and only a profiled process bears it

        self._tracker = memray.Tracker(
            destination=memray.FileDestination(file),
            file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS,  # flat, however long it takes
            trace_python_allocators=True,
        )
        self._tracker.__enter__()

    def end(self) -> None:
        gc.collect()  # what only waits for the collector isn't held
        self._tracker.__exit__(None, None, None)


def held(file: Path) -> tuple[int, list[Held]]:
    """Return how many bytes are held, and the lines that hold most of them."""
    import memray

    by_line: defaultdict[tuple[str, str | None], list[int]] = defaultdict(lambda: [0, 0])
    with memray.FileReader(file) as reader:
        for record in reader.get_leaked_allocation_records(merge_threads=True):
            counted = by_line[_places(record.stack_trace())]
            counted[0] += record.size
            counted[1] += record.n_allocations
    total = sum(size for size, _ in by_line.values())
    most = sorted(by_line.items(), key=lambda one: one[1][0], reverse=True)[:MOST]
    return total, [
        Held(size_bytes=size, blocks=blocks, line=line, ours=ours) for (line, ours), (size, blocks) in most
    ]


def _places(stack: Sequence[tuple[str, str, int]]) -> tuple[str, str | None]:
    """Return the line that allocated, and the nearest of ours that led there if it is another."""
    if not stack:
        return "outside Python", None
    lines = [f"{short(file)}:{number} {function}" for function, file, number in stack]
    ours = next((line for line, (_, file, _) in zip(lines, stack, strict=True) if is_ours(file)), None)
    return lines[0], None if ours == lines[0] else ours


def draw(file: Path, into: Path) -> None:
    """Draw what is held as a flame graph, a page that needs no other."""
    options = ("--leaks", "--no-web", "--force", "--output", str(into), str(file))
    command = [sys.executable, "-m", "memray", "flamegraph", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
