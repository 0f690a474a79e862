"""Calls and CPU of every function in every thread, counted by cProfile."""

import cProfile
import pstats
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

MOST = 10


class Unfit(Exception):
    """This Python's cProfile can't tell threads apart."""


class Called(Struct, frozen=True):
    """One function: the CPU that it used itself, and how often it was called."""

    own_s: float
    calls: int
    function: str
    file: str
    line: int


def check() -> None:
    """Raise Unfit unless each thread can have a profile of its own."""
    if sys.version_info >= (3, 12):  # there it sees every thread at once, and takes their calls for one thread's
        raise Unfit("cProfile can't tell the threads of Python 3.12 and newer apart")


class _Profile(cProfile.Profile):
    """A profile that is read while its thread goes on."""

    def create_stats(self) -> None:
        # Without ending it first: that would charge what a thread waits in by the clock of the one that reads.
        self.snapshot_stats()


class Profiler:
    """A profile of every thread's CPU, written as one file for `python -m pstats`."""

    def __init__(self) -> None:
        self._profiles: list[_Profile] = []
        self._before: dict[Any, Any] = {}

    def start(self) -> None:
        """Profile this thread and every later one. Raises Unfit."""
        check()
        threading.setprofile(lambda *_: self._begin())
        self._begin()

    def forget(self) -> None:
        """Leave out what was called so far."""
        self._before = self._counted().stats

    def write(self, file: Path) -> None:
        stats = self._counted()
        stats.stats = dict(_less(stats.stats, self._before))
        stats.dump_stats(file)

    def _counted(self) -> Any:  # its `stats` is no part of what typeshed knows of it
        stats = pstats.Stats()
        for profile in list(self._profiles):
            profile.create_stats()
            if profile.stats:  # a thread that has called nothing yet can't be added
                stats.add(profile)
        return stats

    def _begin(self) -> None:
        profile = _Profile(time.thread_time)
        self._profiles.append(profile)
        profile.enable()


def _less(stats: dict[Any, Any], before: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each function's counts, and those by its callers, less those of before; none that wasn't called since."""
    for function, (*counts, callers) in stats.items():
        *old_counts, old_callers = before.get(function, (0, 0, 0, 0, {}))
        if counts[1] > old_counts[1]:
            since = {
                caller: tuple(n - old for n, old in zip(found, old_callers.get(caller, (0, 0, 0, 0)), strict=True))
                for caller, found in callers.items()
            }
            yield function, (*(n - old for n, old in zip(counts, old_counts, strict=True)), since)


def merge(files: Iterable[Path], into: Path) -> list[Called]:
    """Write the profiles of several processes as one; return the functions with most CPU of their own."""
    stats: Any = pstats.Stats(*map(str, files))
    stats.dump_stats(into)
    found = [
        Called(own_s=own_s, calls=calls, function=function, file=file, line=line)
        for (file, line, function), (_, calls, own_s, _, _) in stats.stats.items()
    ]
    return sorted(found, key=lambda one: one.own_s, reverse=True)[:MOST]
