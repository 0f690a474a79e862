"""What machine something was measured on, and how busy it was with other things before."""

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

import psutil
from msgspec import Struct


class Facts(Struct, frozen=True):
    cpus: int
    processor: str
    memory_gib: float
    system: str
    python: str
    busy: float
    """Processes that wanted a core in the minute before (load average)."""

    @property
    def line(self) -> str:
        return (
            f"{self.cpus} × {self.processor}, {self.memory_gib:g} GiB, {self.system}, Python {self.python},"
            f" {self.busy:g} processes wanted a core in the minute before"
        )


def look() -> Facts:
    processor = platform.machine()
    with suppress(OSError):
        named = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        processor = named[1] if named else processor
    return Facts(
        cpus=os.cpu_count() or 1,
        processor=processor,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        busy=round(os.getloadavg()[0], 1),
    )
