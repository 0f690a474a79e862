"""Reading accounts beside a collector of threads that commits once per account, and beside one that asks for many at once.

All read the same accounts of the same simulator into the same PostgreSQL, in turn, in a new order in each round. The
collectors keep a number per account and day and nothing else: no jobs or leases, no limits, no renames, no newest
numbers or totals, no purge, no log.
"""

import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psutil
from msgspec import Struct
from sqlalchemy import text

from db.engine import Engine, reading, transaction
from tests.performance import served
from tests.performance.accounts import load_due
from tests.performance.machine import Machine
from tests.performance.pipeline import BATCH, UNLIMITED, WORKERS, Fleet
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds
from tests.performance.served import PeersMissing

MEBIBYTE = 1 << 20
_TABLE = """
    CREATE TABLE peer_snapshot (
        account_key bigint, snapshot_date date, followers bigint, following bigint, posts bigint,
        captured_at timestamptz, PRIMARY KEY (account_key, snapshot_date)
    )
"""
# Read minutes apart, and all of them grow.
_SAME = text("""
    SELECT count(*) FROM peer_snapshot AS theirs JOIN account_latest AS ours USING (account_key)
    WHERE abs(theirs.followers - ours.followers) <= ours.followers / 100 + 1
        AND abs(theirs.following - ours.following) <= ours.following / 100 + 1
        AND abs(theirs.posts - ours.posts) <= ours.posts / 100 + 1
""")


class Size(Struct, frozen=True):
    """How many accounts are read: where a call carries many, and where it carries one."""

    batched: int = 10_000
    single: int = 1_000
    rounds: int = 5


class Collected(Struct, frozen=True):
    """What reading so many accounts took; the simulator's CPU isn't in it."""

    accounts: int
    seconds: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.accounts / self.seconds

    @property
    def cpu_per_1000(self) -> float:
        return self.cpu_s * 1000 / self.accounts


class _ThreadPool:
    """The collector's process, as many threads as Rollcall's workers have."""

    def __init__(self, one: Machine, python: str) -> None:
        self._one = one
        with transaction(one.engine) as conn:
            conn.execute(text(_TABLE))
        threads = WORKERS * one.settings().worker_concurrency
        self._process: subprocess.Popen[str] = one.start(
            "tests.performance.peers.threadpool_collector",
            log="threadpool",
            python=python,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            environ={"PEER_THREADS": str(threads)},
        )

    def read(self, accounts: int, batch: int) -> Collected:
        """Read the first so many accounts, none of which it has read that day."""
        with transaction(self._one.engine) as conn:
            conn.execute(text("TRUNCATE peer_snapshot"))
        before = sum(self._one.servers_cpu_s().values())
        told = self._ask(f"{accounts} {batch}")
        cpu_s = told["cpu_s"] + sum(self._one.servers_cpu_s().values()) - before
        return Collected(accounts, told["seconds"], cpu_s)

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def _ask(self, line: str) -> Mapping[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        assert told, "the collector has ended: see its log"
        return dict(json.loads(told))


def run(one: Machine, size: Size, python: str | PeersMissing) -> Chapter:
    """Compare a sweep with what the collectors take for theirs."""
    one.environ |= UNLIMITED
    load_due(one.engine, size.batched, now=datetime.now(UTC), posts_due=False)
    fleet = Fleet(one, WORKERS)
    ours = f"Rollcall, {BATCH} in a call"
    measures = {ours: lambda: _sweep(fleet, size.batched)}
    if isinstance(python, PeersMissing):
        found, pool = served.in_turn(Rounds(size.rounds, size.rounds), measures), None
    else:
        pool = _ThreadPool(one, python)
        single, batched = "a thread pool, one in a call", f"a thread pool, {BATCH} in a call"
        measures |= {
            single: partial(pool.read, size.single, 1),
            batched: partial(pool.read, size.batched, BATCH),
        }
        found = served.in_turn(Rounds(size.rounds, size.rounds), measures)
        pool.read(size.batched, BATCH)
        _assert_same(one.engine, size.batched)
    lines = []
    for name, all_of_it in found.items():
        if name != ours:
            pairs = list(zip(found[ours], all_of_it, strict=True))
            lines += [
                middle(f"Rollcall / {name}: accounts per second", [a.per_s / b.per_s for a, b in pairs], "times"),
                middle(
                    f"Rollcall / {name}: CPU of an account",
                    [a.cpu_per_1000 / b.cpu_per_1000 for a, b in pairs],
                    "times",
                ),
            ]
    for name, all_of_it in found.items():
        lines += [
            middle(f"{name}: accounts per second", [each.per_s for each in all_of_it], "1/s"),
            middle(f"{name}: CPU of 1,000 accounts", [each.cpu_per_1000 for each in all_of_it], "s"),
        ]
    workers = sum(worker.rss_bytes for worker in fleet.workers)
    lines.append(Line("Rollcall's workers: memory", workers / MEBIBYTE, "MiB"))
    if pool is None:
        lines.append(Line(f"a thread pool isn't measured: {python}", None))
    else:
        lines.append(Line("the thread pool's process: memory", pool.rss_bytes / MEBIBYTE, "MiB"))
    return Chapter("Accounts read without limits, beside a thread pool", lines)


def _sweep(fleet: Fleet, accounts: int) -> Collected:
    sweep = fleet.sweep(accounts, BATCH)
    processes = [name for name in sweep.cpu_s if ":" not in name and name != "simulator"]
    return Collected(accounts, sweep.seconds, sum(sweep.cpu_s[name] for name in processes))


def _assert_same(engine: Engine, accounts: int) -> None:
    """Raise AssertionError where the collector hasn't kept for each account what Rollcall has."""
    with reading(engine) as conn:
        same = conn.scalar(_SAME)
    assert same == accounts, f"the thread pool kept {same} numbers of {accounts} accounts that are Rollcall's, too"
