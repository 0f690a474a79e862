"""Run processes of the Procfile by honcho, each started again when it dies: `python -m deploy.processes api beat`.

`honcho start` ends them all when one ends, and hands each a PORT of its own; here the settings say the ports.
"""

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.process import Process

PROCFILE = Path(__file__).resolve().parent.parent / "Procfile"
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
# A process that lived this long did start: the next wait begins from the first again.
GOOD_S = 60.0


class Kept(Process):  # type: ignore[misc]  # honcho has no types
    """A process that is started again, after a wait that doubles, until everything is to stop."""

    stopping: Event

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Hand on what the process says, as honcho's own does, once for each time that it is started."""
        self._events = events
        if ignore_signals:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_s = FIRST_WAIT_S
        while True:
            began = time.monotonic()
            code = self._run_once()
            if time.monotonic() - began > GOOD_S:
                wait_s = FIRST_WAIT_S
            if not self.stopping.is_set():
                self._send_message(f"ended with {code}; it is started again in {wait_s:g} s\n".encode())
            if self.stopping.wait(wait_s):
                self._send_message({"returncode": code}, type="stop")
                return
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def _run_once(self) -> int:
        self._child = self._child_ctor(self.cmd, env=self.env, cwd=self.cwd)
        self._send_message({"pid": self._child.pid}, type="start")
        for line in iter(self._child.stdout.readline, b""):
            self._send_message(line)
        self._child.stdout.close()
        return int(self._child.wait())


class Keeper(Manager):  # type: ignore[misc]
    """A manager whose processes end only when it is told to end them."""

    def __init__(self) -> None:
        super().__init__()
        self._process_ctor = Kept
        Kept.stopping = self._stopping = multiprocessing.Event()

    def terminate(self) -> None:
        self._stopping.set()
        super().terminate()


def main(names: list[str]) -> int:
    commands = parse_procfile(PROCFILE.read_text()).processes
    # The Procfile says `python`: the one that runs this.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    keeper = Keeper()
    for name in names:
        keeper.add_process(name, commands[name], env={**os.environ, "PATH": path}, cwd=str(PROCFILE.parent))
    keeper.loop()
    return keeper.returncode or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
