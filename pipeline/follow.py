"""Wait for jobs that a person asked for until each has its result, and show how far they are."""

import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from msgspec import Struct
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from db import jobs, overview
from db.engine import Connection, Engine, reading
from db.jobs import JobProgress
from pipeline.limits import duration
from pipeline.records import Result
from pipeline.terminal import note

LOOK_S = 0.2
# Into a pipe or a log, how far it is comes as a line, and no oftener than this.
LINE_EVERY_S = 10.0
_NEWEST = 5
# Jobs a look-up of names.
_PART = 1_000


class Awaited(Struct, frozen=True):
    """A job that someone waits for, and those of its accounts that were asked for."""

    platform: str
    account_keys: "array[int]"


class Ended(Struct, frozen=True):
    """What came of one account; `result` is None when the wait ended before its job did."""

    account: str
    job_id: str
    result: Result | None
    reason: str | None


class Standing:
    """How many accounts of each platform stand how, and the newest failures."""

    def __init__(self, awaited: Mapping[str, Awaited]) -> None:
        self.open = Counter[str]()
        self.running = Counter[str]()
        self.read = Counter[str]()
        self.failed = Counter[str]()
        self.newest: deque[Ended] = deque(maxlen=_NEWEST)
        for job in awaited.values():
            self.open[job.platform] += len(job.account_keys)
        self.total = self.open.total()

    def end(self, platform: str, ended: Ended) -> None:
        self.open[platform] -= 1
        if ended.result == "ok":
            self.read[platform] += 1
        else:
            self.failed[platform] += 1
            self.newest.append(ended)

    def __str__(self) -> str:
        return f"{self.read.total():,} of {self.total:,} read, {self.failed.total():,} failed."

    def table(self) -> Group:
        """Return what a terminal shows while it waits."""
        table = Table(
            "platform", "queued", "running", "read", "failed", box=None, pad_edge=False, header_style="bold"
        )
        for platform in sorted(self.open):
            counts = (
                self.open[platform] - self.running[platform],
                self.running[platform],
                self.read[platform],
                self.failed[platform],
            )
            table.add_row(platform, *(f"{count:,}" for count in counts))
        return Group(table, *(Text(f"{one.account}: {one.result}, {one.reason}") for one in self.newest))


def follow(engine: Engine, awaited: Mapping[str, Awaited], *, timeout_s: float | None = None) -> Iterator[Ended]:
    """Yield what came of each account as soon as its job has ended; after `timeout_s`, what is open without a result.

    Shows meanwhile on standard error how far it is: a table that lives on a terminal, elsewhere a line now and then.
    """
    began = time.monotonic()
    left, standing = dict(awaited), Standing(awaited)
    with _shown(standing) as show:
        while left:
            looked_at = time.monotonic()
            for ended in _ended(engine, left, standing):
                standing.end(awaited[ended.job_id].platform, ended)
                yield ended
            show()
            now = time.monotonic()
            if timeout_s is not None and now - began >= timeout_s:
                break
            if left:  # a look at very many jobs takes its time, and must not keep the database busy
                time.sleep(max(LOOK_S, 2 * (now - looked_at)))
    if left and timeout_s is not None:
        yield from _unfinished(engine, left, f"not finished within {duration(timeout_s)}")


def _ended(engine: Engine, left: dict[str, Awaited], standing: Standing) -> Iterator[Ended]:
    """Yield the accounts whose jobs have ended since the last look, and take these out of `left`."""
    standing.running.clear()
    with reading(engine) as conn:
        # A job that isn't in the list any more was removed with its accounts or its numbers.
        removed = set(left)
        for job in jobs.progress(conn, list(left)):
            removed.remove(job.job_id)
            if job.state == "running":
                standing.running[left[job.job_id].platform] += len(left[job.job_id].account_keys)
            elif job.is_finished:
                yield from _results(conn, left.pop(job.job_id), job)
        for job_id in removed:
            yield from _results(conn, left.pop(job_id), JobProgress(job_id, "failed", None, ()))


def _results(conn: Connection, awaited: Awaited, job: JobProgress) -> Sequence[Ended]:
    said = {result.account_key: result for result in job.results}
    names = overview.names(conn, awaited.account_keys)
    without = _named(names, job.job_id, awaited, "failed", job.reason or "its job ended without a result")
    return [
        Ended(ended.account, ended.job_id, said[key].result, said[key].reason) if key in said else ended
        for key, ended in zip(awaited.account_keys, without, strict=True)
    ]


def _unfinished(engine: Engine, left: Mapping[str, Awaited], reason: str) -> Iterator[Ended]:
    ids = iter(left)
    with reading(engine) as conn:
        while part := list(islice(ids, _PART)):
            names = overview.names(conn, [key for job_id in part for key in left[job_id].account_keys])
            for job_id in part:
                yield from _named(names, job_id, left[job_id], None, reason)


def _named(
    names: Mapping[int, str], job_id: str, awaited: Awaited, result: Result | None, reason: str
) -> Sequence[Ended]:
    """Return the same result for every account of a job; one that was removed meanwhile goes by its key."""
    return [Ended(names.get(key, f"account {key}"), job_id, result, reason) for key in awaited.account_keys]


@contextmanager
def _shown(standing: Standing) -> Iterator[Callable[[], None]]:
    """Lend what shows the standing as it is now."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Live(standing.table(), console=console, auto_refresh=False) as live:
            yield lambda: live.update(standing.table(), refresh=True)
    else:
        yield _Lines(standing).show


class _Lines:
    """Says how far it is, in a line whenever something changed, but not too often."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._said = ""
        self._said_at = time.monotonic()

    def show(self) -> None:
        line = str(self._standing)
        if line != self._said and time.monotonic() - self._said_at >= LINE_EVERY_S:
            note(line)
            self._said, self._said_at = line, time.monotonic()
