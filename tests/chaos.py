"""What the big fault tests share: a platform that sees every call, processes that are started again, and a plan of faults.

The plan follows from a seed and counts calls instead of seconds: a slow machine meets the same faults as a fast one.
"""

import os
import re
import shutil
import signal
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import unquote

from sqlalchemy import func, insert, literal, select

from db import migrate
from db.engine import Connection, Engine, make_engine, reading, transaction
from db.models import NEVER_DUE, scrape_job, scrape_state
from deploy.embedded import start_postgres
from deploy.simulator.faults import Fault
from deploy.simulator.server import Simulator
from deploy.simulator.simulation import Simulation
from deploy.simulator.site import Answer
from pipeline.accounts import import_list
from tests.brokers import RedisBroker
from tests.system import System

_SPOILS = tuple(map(Fault.read, ("status=503", "truncated", "html", "empty", "dropped", "retry_after=1", "latency")))


class Witness(Simulation):
    """A simulator that spoils a share of its answers by chance, and knows which account was served when.

    Accounts are told by the number in their names: `agency17` of whatever platform.
    """

    def __init__(self, random: Random, *, spoiled: float) -> None:
        super().__init__(seed=1)
        self._random = random
        self._spoiled = spoiled
        self._seen = Lock()
        self.calls = 0
        self.spoiled: Counter[str] = Counter()
        self.served: defaultdict[int, list[datetime]] = defaultdict(list)
        """When each account was in an answer that its caller could read."""
        self._first_call: dict[int, int] = {}
        self.repeated: list[str] = []
        """The calls that asked for an account that had been served before: by their number, that of the first, and what."""

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[Answer, Fault | None]:
        answer, fault = super().answer(method, target, headers, body)
        if target.startswith("/_simulator/"):
            return answer, fault
        with self._seen:
            self.calls += 1
            if self._random.random() < self._spoiled:
                fault = self._random.choice(_SPOILS)
            if fault:
                self.spoiled[fault.kind] += 1
            if answer.status == 200 and (fault is None or fault.kind == "latency"):
                self._note(target)
            return answer, fault

    def has_seen(self, calls: int) -> bool:
        return self.calls >= calls

    def spoil_next(self, platform: str, fault: Fault) -> None:
        """Let the next answer of a platform suffer this fault."""
        self._faults.order(platform, fault, 1)

    def _note(self, target: str) -> None:
        asked = [int(number) for number in re.findall(_NUMBERED, unquote(target))]
        # A call by id knows the account from an earlier one.
        if not asked or any(self.served[number] for number in asked):
            first = min((self._first_call.get(number, self.calls) for number in asked), default=0)
            self.repeated.append(f"call {self.calls} as call {first}: {target[:100]}")
        for number in asked:
            self.served[number].append(datetime.now(UTC))
            self._first_call.setdefault(number, self.calls)


_NUMBERED = r"agency(\d+)"
_HANDLES = {"bluesky": "agency{}.bsky.social", "mastodon": "agency{}@town{}.example"}
_TOWNS = 20


def list_accounts(engine: Engine, counts: Mapping[str, int]) -> None:
    """List so many accounts of each platform, numbered throughout; their posts are left for another day."""
    platforms = list(Counter(counts).elements())
    rows = [
        f"{platform},{_HANDLES.get(platform, 'agency{}').format(number, number % _TOWNS)}"
        for number, platform in enumerate(platforms)
    ]
    report = import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    assert report.counts == {"imported": len(rows)}, report.rows
    same = [scrape_state.c[name] for name in ("account_key", "platform", "host", "is_core")]
    posts = select(*same, literal("posts"), literal("posts"), NEVER_DUE)
    with transaction(engine) as conn:
        conn.execute(insert(scrape_state).from_select([*same, "subject", "kind", "next_due_at"], posts))


def number_of(handle: str) -> int:
    """Return the number of one of these accounts."""
    (number,) = re.findall(_NUMBERED, handle)
    return int(number)


def is_all_read(engine: Engine) -> bool:
    """Say whether every account was read well at its last attempt and no job is open."""
    unread = (scrape_state.c.subject == "profile") & scrape_state.c.result.is_distinct_from("ok")
    with reading(engine) as conn:
        return not conn.scalar(select(func.count()).where(unread)) and not _open_jobs(conn)


def _open_jobs(conn: Connection) -> int:
    return conn.scalar(select(func.count()).where(scrape_job.c.state.in_(("queued", "running")))) or 0


class Blow(NamedTuple):
    """Something that is done to the system once so many calls have been made."""

    after_calls: int
    name: str


def plan(random: Random, blows: Mapping[str, int], calls: int) -> list[Blow]:
    """Return each blow as often as it is wanted, in random order, spread at random over most of `calls`."""
    names = list(Counter(blows).elements())
    random.shuffle(names)
    moments = sorted(random.randrange(calls // 50, calls * 9 // 10) for _ in names)
    return [Blow(*both) for both in zip(moments, names, strict=True)]


class Fleet:
    """Processes that end only when they are killed, and are then started again, as a process manager does it."""

    def __init__(self, processes: System, modules: Sequence[tuple[str, ...]]) -> None:
        self._processes = processes
        self._running = [(module, processes.start(*module)) for module in modules]

    def kill(self, random: Random, name: str) -> None:
        """End one of the processes of this kind without a word, and start it again."""
        place = random.choice([place for place, (module, _) in enumerate(self._running) if module[0] == name])
        module, process = self._running[place]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._running[place] = (module, self._processes.start(*module))

    def wait(self, condition: Callable[[], Any], *, within_s: float, what: str) -> None:
        """Wait as a System does; fail when one of the processes ends by itself."""

        def kept() -> Any:
            for module, process in self._running:
                assert process.poll() is None, f"{module} ended by itself\n{self._processes.said()}"
            return condition()

        self._processes.wait(kept, within_s=within_s, what=what)


class Servers:
    """A PostgreSQL and a Redis of one test's own, which keep what they promised to keep when they are restarted."""

    def __init__(self, folder: Path) -> None:
        self._postgres_folder = folder / "postgres"
        self._postgres = start_postgres(self._postgres_folder)
        self.redis = RedisBroker(folder / "redis")
        self.database_url = self._postgres.url.replace("postgresql://", "postgresql+psycopg2://", 1)
        migrate.upgrade(self.database_url)
        self.engine = make_engine(self.database_url, application_name="tests")

    @property
    def postgres_pid(self) -> int:
        return int(self._postgres.server.get_pid())

    def stop_postgres(self, way: signal.Signals) -> None:
        """SIGINT is PostgreSQL's fast shutdown, SIGQUIT the immediate one, after which it has to recover."""
        process = self._postgres.server.get_postmaster_info().process
        process.send_signal(way)
        process.wait(timeout=30)

    def start_postgres(self) -> None:
        self._postgres = start_postgres(self._postgres_folder)

    def stop(self) -> None:
        self.engine.dispose()
        self.redis.stop()
        self._postgres.stop()


@contextmanager
def servers() -> Iterator[Servers]:
    # Not below pytest's own folder: another session of root's takes back what lets PostgreSQL's user in there.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-chaos-"))
    own = Servers(folder)
    try:
        yield own
    finally:
        own.stop()
        shutil.rmtree(folder)


@contextmanager
def sweep(own: Servers, witness: Witness, logs: Path, **environ: str) -> Iterator[System]:
    """Yield a system on these servers that reads from the witness; stop its processes at the end."""
    logs.mkdir()
    with Simulator(simulation=witness) as simulator:
        urls = {"DATABASE_URL": own.database_url, "REDIS_URL": own.redis.url, "SIMULATOR_URL": simulator.url}
        processes = System({**urls, **environ}, logs)
        try:
            yield processes
        finally:
            processes.stop()
