"""Run processes of the Procfile, each in its place again when it dies or hangs: `python -m deploy.processes api beat`.

Honcho reads the Procfile and writes the log. What it starts it also ends all together, and it doesn't look further
than whether a process is there; so they are kept here, as systemd keeps a unit with `Restart=on-failure`,
`WatchdogSec=` and `Type=notify`.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from honcho.environ import parse_procfile
from honcho.printer import Message, Printer

from pipeline.settings import SettingsError, load_settings

PROCFILE = Path(__file__).resolve().parent.parent / "Procfile"
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
# A process that lived this long did start: the next wait begins from the first again.
GOOD_S = 60.0
LOOK_S = 0.2
# As much silence as the time between two looks may count for. When there was more, nothing ran here: the machine slept.
LONGEST_LOOK_S = 1.0
# Beyond what a worker takes at most to stop by itself.
STOP_MARGIN_S = 2.0


class Kept:
    """A process that is started again, after a wait that doubles, until it leaves by itself or everything stops."""

    def __init__(self, command: str, *, notify: Path, watchdog_s: float, say: Callable[[bytes], None]) -> None:
        self._command = command
        self._watchdog_s = watchdog_s
        self._say = say
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        # None where it isn't watched.
        self._silent_s: float | None = None
        self._looked_at = time.monotonic()
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(notify))
        self._notified.setblocking(False)
        # The Procfile says `python`: the one that runs this.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        watched = {"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": str(round(watchdog_s * 1_000_000))}
        self._environ = {**os.environ, "PATH": path, **watched}
        self._thread = threading.Thread(target=self._keep)

    def start(self) -> None:
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Tell whether it runs, or is to be started again."""
        return self._thread.is_alive()

    def look(self) -> None:
        """Hear what the process says of itself; kill one that spoke of progress and fell silent, or left its own behind.

        One that never did is not watched: it hasn't finished its start, or sees to itself.
        """
        now = time.monotonic()
        if self._silent_s is not None:
            self._silent_s += min(now - self._looked_at, LONGEST_LOOK_S)
        self._looked_at = now
        with suppress(BlockingIOError):
            while True:
                if b"WATCHDOG=1" in self._notified.recv(4096).split(b"\n"):
                    self._silent_s = 0.0
        if self._silent_s is not None and self._silent_s > self._watchdog_s:
            self._say(f"made no progress for {self._watchdog_s:g} s: it is killed".encode())
            self._signal(signal.SIGKILL)
            self._silent_s = None
        # What a killed process had started goes with it: gunicorn's workers, say, take no new connection any more, but
        # serve those that they have until `graceful_timeout`, and a new gunicorn waits for them.
        child = self._child
        if child is not None and child.poll() is not None:
            self._signal(signal.SIGKILL)

    def end(self, how: signal.Signals) -> None:
        """Send this signal to the process and all that it started; it isn't started again."""
        self._stopping.set()
        self._signal(how)

    def close(self) -> None:
        self._thread.join()
        self._notified.close()

    def _signal(self, number: signal.Signals) -> None:
        with self._starting:
            if self._child is not None:
                with suppress(ProcessLookupError):
                    os.killpg(self._child.pid, number)

    def _keep(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            began = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            if code == 0:
                self._say(b"has left by itself: it stays down until the next start")
                return
            if time.monotonic() - began > GOOD_S:
                wait_s = FIRST_WAIT_S
            self._say(f"ended with {code}; it is started again in {wait_s:g} s".encode())
            self._stopping.wait(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def _run_once(self) -> int | None:
        with self._starting:  # one that is started as everything stops would hear no signal
            if self._stopping.is_set():
                return None
            self._silent_s = None
            self._child = child = subprocess.Popen(  # noqa: S602  # a line of our own Procfile
                f"exec {self._command}",  # no shell stays in between: signals, exit code and pid are the process's own
                shell=True,
                cwd=PROCFILE.parent,
                env=self._environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._say(f"started (pid {child.pid})".encode())
        assert child.stdout is not None
        with child.stdout as said:
            for line in said:  # until the last of its group is gone
                self._say(line)
        code = child.wait()
        with self._starting:
            self._child = None
        return code


class Keeper:
    """Watches over kept processes until it is asked to stop."""

    def __init__(self, kept: Sequence[Kept], *, stop_s: float) -> None:
        self._kept = kept
        self._stop_s = stop_s
        self._asked = 0

    def stop(self, *_: Any) -> None:
        """Let everything stop in order; asked again, at once. (A signal's handler.)"""
        self._asked += 1

    def run(self) -> None:
        for one in self._kept:
            one.start()
        while not self._asked:
            time.sleep(LOOK_S)
            for one in self._kept:
                one.look()
        ends_at = time.monotonic() + self._stop_s
        self._end(signal.SIGTERM)
        while any(one.runs for one in self._kept):
            if self._asked > 1 or time.monotonic() > ends_at:
                self._end(signal.SIGKILL)
            time.sleep(LOOK_S)
        for one in self._kept:
            one.close()

    def _end(self, how: signal.Signals) -> None:
        for one in self._kept:
            one.end(how)


def main(names: list[str]) -> int:
    commands = parse_procfile(PROCFILE.read_text()).processes
    if not names or not commands.keys() >= set(names):
        sys.exit(f"usage: python -m deploy.processes NAME…, of {', '.join(commands)}")
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    printer = Printer(sys.stdout, width=max(map(len, names)))
    printing = threading.Lock()

    def sayer(name: str) -> Callable[[bytes], None]:
        def say(text: bytes) -> None:
            with printing:
                printer.write(Message("line", text, datetime.now(), name, None))  # noqa: DTZ005  # the reader's clock

        return say

    with tempfile.TemporaryDirectory(prefix="rollcall-") as folder:
        kept = [
            Kept(commands[name], notify=Path(folder, name), watchdog_s=settings.watchdog_s, say=sayer(name))
            for name in names
        ]
        keeper = Keeper(kept, stop_s=settings.stop_s + STOP_MARGIN_S)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, keeper.stop)
        keeper.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
