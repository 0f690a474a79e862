"""What runs a process that is profiled, within it: `python -m deploy.profiling.inside HOW FOLDER MODULE ARGUMENT…`.

It does what the module does as `python -m MODULE`. Beside it, in each process that comes of it, a thread hears from
`rollcall profile` when to begin and to end.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Client
from pathlib import Path
from typing import Protocol

from deploy.profiling.calls import Profiler
from deploy.profiling.memory import Tracked

SOCKET = "inside"
# prctl(2); "Yama", as a number
_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61


class Profile(Protocol):
    def begin(self, file: Path) -> None: ...
    def end(self) -> None: ...


class Calls:
    """cProfile's counts from `begin` to `end`. It counts from the start on: later it wouldn't see threads that are there."""

    def __init__(self) -> None:
        self._profiler = Profiler()
        self._profiler.start()

    def begin(self, file: Path) -> None:
        self._file = file
        self._profiler.forget()

    def end(self) -> None:
        self._profiler.write(self._file)


HOW: Mapping[str, Callable[[], Profile]] = {"calls": Calls, "memory": Tracked}
SAMPLED = "sampled"


def _converse(profile: Profile, folder: Path) -> None:
    """Do what is asked from outside: begin, end, and say so. Who asks may be killed: then nothing is written."""
    sys.setprofile(None)  # what profiles is no part of it
    with suppress(EOFError, OSError), Client(str(folder / SOCKET), family="AF_UNIX") as outside:
        outside.send((os.getpid(), os.getppid()))
        outside.recv()
        profile.begin(folder / str(os.getpid()))
        outside.send(True)
        outside.recv()
        profile.end()
        outside.send(True)


def _listen(profile: Profile, folder: Path) -> None:
    threading.Thread(target=_converse, args=(profile, folder), daemon=True).start()


def _allow(tracer: int) -> None:
    """Let what `rollcall profile` starts look into this process, where the system lets only ancestors (Yama)."""
    with suppress(AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, tracer, 0, 0, 0)


def _die_with_parent() -> None:
    """Stop in order when `rollcall profile` is killed: nobody else would end this process."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def main() -> None:
    how, folder, module, *arguments = sys.argv[1:]
    _die_with_parent()
    if how == SAMPLED:
        tracer = os.getppid()
        _allow(tracer)
        os.register_at_fork(after_in_child=lambda: _allow(tracer))
    else:
        profile = HOW[how]()
        _listen(profile, Path(folder))
        os.register_at_fork(after_in_child=lambda: _listen(profile, Path(folder)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
