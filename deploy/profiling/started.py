"""A process that is started to be profiled, as the Procfile starts it, and ended as it is ended there."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from msgspec import Struct

from api.__main__ import GUNICORN
from deploy.processes import STOP_MARGIN_S
from deploy.profiling import inside
from pipeline.command import Fault, Misuse
from pipeline.settings import Settings

# Modules as in the Procfile, but for `python -m api`, which becomes gunicorn: what profiles it would be gone then.
MODULES = {"api": GUNICORN, "worker": ("workers",), "planner": ("pipeline.beat",)}
# What stands in the command line of each.
MARKS = {"api": ("api", GUNICORN[-1]), "worker": ("workers",), "planner": ("pipeline.beat",)}
_STDERR = 2
START_S = 300.0
LOOK_S = 0.2
# How long a process may take to write its profile.
WRITE_S = 120.0


class Stopped(Exception):
    """Somebody asked to stop before there was anything to profile."""


class Told(Struct):
    """A process that is there to be profiled from within."""

    pid: int
    parent: int
    connection: Connection
    is_begun: bool = False


class Started:
    """The process, and those that come of it as far as they speak."""

    def __init__(self, name: str, arguments: Sequence[str], how: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._is_begun = False
        self._is_ready = False
        self._told: list[Told] = []
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(folder / "notify"))
        self._notified.setblocking(False)
        self._inside = socket.socket(socket.AF_UNIX)
        self._inside.bind(str(folder / inside.SOCKET))
        self._inside.listen()
        self._inside.settimeout(LOOK_S)
        self._process = subprocess.Popen(
            [sys.executable, "-m", inside.__name__, how, str(folder), *MODULES[name], *arguments],
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
            stdout=_STDERR,  # its log; standard output is for results
            start_new_session=True,  # a terminal's Ctrl-C comes to us, and SIGTERM to it from here
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, settings: Settings, stop: threading.Event) -> None:
        """Return when it works. Raises Stopped, and Fault where it doesn't come to that."""
        deadline = time.monotonic() + START_S
        while not (self._is_notified() and (self._name != "api" or _answers(settings))):
            if stop.is_set():
                raise Stopped
            if self._process.poll() is not None:
                raise Fault(
                    f"It ended with {self._process.returncode} before there was anything to profile: what it said stands"
                    " above. (If one runs already, its port may be taken: set another PORT, or profile that one by --pid.)"
                )
            if time.monotonic() > deadline:
                raise Fault(f"It wasn't ready within {START_S:g} s: what it said stands above.")
            self._look()

    def go_on(self, seconds: float, stop: threading.Event) -> None:
        """Let it work for so long, until `stop` if that comes first. Raises Fault if it ends meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stop.is_set():
            self._look()
            self.check()

    def check(self) -> None:
        if self._process.poll() is not None:
            raise Fault(f"It ended with {self._process.returncode} while it was profiled: what it said stands above.")

    def begin(self) -> None:
        """Let every process begin its profile, and those that are still to come; return when those that are there have."""
        self._is_begun = True
        self._look()

    def end(self) -> dict[int, Path]:
        """Let every process write its profile, and return them by pid; one that only keeps others has none."""
        parents = {told.parent for told in self._told}
        written = {}
        for told in self._told:
            if told.is_begun and told.pid not in parents:
                with suppress(EOFError, OSError):  # it ended meanwhile: its profile is lost
                    told.connection.send(True)
                    if told.connection.poll(WRITE_S) and told.connection.recv():
                        written[told.pid] = self._folder / str(told.pid)
        if not written:
            raise Fault("No process wrote its profile: what they said stands above.")
        return written

    def close(self, settings: Settings) -> None:
        """End it and all its children, in order if they do so in time."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(settings.stop_s + STOP_MARGIN_S)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for told in self._told:
            told.connection.close()
        self._notified.close()
        self._inside.close()

    def _is_notified(self) -> bool:
        with suppress(BlockingIOError):
            while True:
                self._is_ready |= b"READY=1" in self._notified.recv(4096).split(b"\n")
        return self._is_ready

    def _look(self) -> None:
        """Hear of new processes for a moment, and tell them what is to be done."""
        with suppress(TimeoutError):
            accepted, _ = self._inside.accept()
            connection = Connection(accepted.detach())
            with suppress(EOFError):
                pid, parent = connection.recv()
                self._told.append(Told(pid=pid, parent=parent, connection=connection))
        if self._is_begun:
            for told in self._told:
                if not told.is_begun:
                    told.is_begun = True
                    with suppress(EOFError, OSError):  # it has ended
                        told.connection.send(True)
                        if told.connection.poll(WRITE_S):
                            told.connection.recv()


def _answers(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind, settings.bind)  # noqa: S104  # who listens to all
    address = f"[{host}]" if ":" in host else host
    with suppress(OSError), urllib.request.urlopen(f"http://{address}:{settings.port}/healthz", timeout=5):
        return True
    return False


@contextmanager
def started(name: str, arguments: Sequence[str], how: str, folder: Path, settings: Settings) -> Iterator[Started]:
    """Lend the process; it is ended in any case."""
    process = Started(name, arguments, how, folder)
    try:
        yield process
    finally:
        process.close(settings)


def check_pid(pid: int, name: str) -> None:
    """Raise Misuse unless this is a process of this kind of Rollcall's."""
    import psutil  # an extra

    try:
        words = psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        raise Misuse(
            f"There is no process {pid}: its log says `started (pid …)`, or see `pgrep -af python`."
        ) from None
    except psutil.AccessDenied:
        raise Fault(f"Process {pid} is somebody else's: run this as its user or as root.") from None
    if not any(word in MARKS[name] for word in words):
        others = [other for other, marks in MARKS.items() if any(word in marks for word in words)]
        # Its program alone: the command lines of others may hold what is nobody's business.
        what = f"Rollcall's {others[0]}" if others else f"none of Rollcall's: it is {Path((words or ['?'])[0]).name}"
        raise Misuse(f"Process {pid} is no {name}, but {what}.")
