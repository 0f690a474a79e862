"""A process to be profiled, which works, holds ever more, and has a child: it stands in for one of Rollcall's."""

import subprocess
import sys
import time
from pathlib import Path

from pipeline import notify

hoard: list[bytearray] = []


def put_by() -> None:
    hoard.append(bytearray(100_000))


def main(child_pid_file: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(child_pid_file).write_text(str(child.pid))
    notify.alive()
    while True:
        put_by()
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1])
