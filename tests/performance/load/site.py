"""The whole system under load: servers of its own, the processes of the Procfile, and a simulator that notes what it tells."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import Any

import msgspec
import psutil
from dotenv import dotenv_values
from honcho.environ import parse_procfile
from msgspec import Struct
from sqlalchemy import text

from db.engine import Engine, reading, transaction
from deploy.processes import PROCFILE
from deploy.simulator.server import Simulator
from pipeline.settings import EMBEDDED_ENV, load_settings
from tests import chaos
from tests.performance.load import ledger
from tests.performance.load.generator import Offered, Order
from tests.performance.load.ledger import Teller
from tests.performance.load.traffic import mix
from tests.performance.machine import wait

WITHIN_S = 180.0
API_WORKERS = 2
LIMIT = 10**9
SETTINGS = {
    "WEB_CONCURRENCY": str(API_WORKERS),
    "LOG_FORMAT": "json",
    "RATE_LIMIT_BLUESKY_PROFILES": "12/s",
    "RATE_LIMIT_X_PROFILES": "2/s",
    "RATE_LIMIT_X_RESOLVE": "2/s",
    "RATE_LIMIT_MASTODON_PROFILES": "10/s",
    "RATE_LIMIT_MASTODON_RESOLVE": "10/s",
    "RATE_LIMIT_YOUTUBE_PROFILES": "5/s",
    "RATE_LIMIT_YOUTUBE_RESOLVE": "5/s",
}
_STARTED = re.compile(rb"(\w+)\s*\| started \(pid (\d+)\)")
_UNREAD = "SELECT count(*) FROM scrape_state WHERE subject = 'profile' AND last_success_at IS NULL"
# Only once nothing is due or on its way: each round is a whole one.
_DUE = """
    UPDATE scrape_state SET next_due_at = now() WHERE subject = 'profile' AND NOT EXISTS (
        SELECT FROM scrape_state WHERE subject = 'profile' AND (job_id IS NOT NULL OR next_due_at <= now())
    )
"""


class Sample(Struct, frozen=True):
    """One process at one moment (epoch seconds): its kind, how long it has run, memory, and CPU seconds so far."""

    at: float
    kind: str
    pid: int
    age_s: float
    rss_bytes: int
    cpu_s: float


class Site:
    """Everything that runs, by its name in the Procfile; a killed process is started again by its keeper."""

    def __init__(
        self,
        folder: Path,
        own: chaos.Servers,
        teller: Teller,
        simulator: Simulator,
        names: Sequence[str],
        **environ: str,
    ) -> None:
        self.folder = folder
        self.servers = own
        self.teller = teller
        self.names = names
        self._log = folder / "processes.log"
        self._read_to = 0
        self._pids: dict[str, int] = {}
        self._reading = threading.Lock()
        self.port, flower_port = _free_ports(2)
        # Nothing of what this machine's own Rollcall is set to.
        unset = {name: "" for file in (".env", EMBEDDED_ENV) for name in dotenv_values(PROCFILE.parent / file)}
        self.environ = unset | {
            **SETTINGS,
            "DATABASE_URL": own.database_url,
            "REDIS_URL": own.redis.url,
            "SIMULATOR_URL": simulator.url,
            "PORT": str(self.port),
            "FLOWER_PORT": str(flower_port),
            "FLOWER_BASIC_AUTH": "load:of-this-run-only",
            **environ,
        }
        self.settings = load_settings({name: value for name, value in self.environ.items() if value}, env_files=())
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def engine(self) -> Engine:
        return self.servers.engine

    def start(self) -> None:
        """Start the processes; return when the API answers and everything was read once."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self._log.open("wb") as out:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "deploy.processes", *self.names],
                cwd=PROCFILE.parent,
                env=inherited | self.environ,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.wait(self.is_ready, "the API")
        self.wait(self.is_read, "the first reading of every account")

    def wait(self, condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> None:
        """Return when `condition` is true. Raises TimeoutError that says where the log is."""

        def holds() -> Any:
            assert self._keeper is not None
            assert self._keeper.poll() is None, f"the processes ended; see {self._log}"
            return condition()

        wait(holds, f"{what}; see {self._log}", within_s=within_s)

    def is_ready(self) -> bool:
        """Tell whether the API can do all that it does, in every process."""
        if len(self.api_workers()) < API_WORKERS:
            return False
        with suppress(OSError, msgspec.DecodeError):
            found = msgspec.json.decode(self.get("/readyz"))
            return all(state in ("ready", "ok") for state in found.values())
        return False

    def is_read(self) -> bool:
        with reading(self.engine) as conn:
            return not conn.scalar(text(_UNREAD))

    def make_due(self) -> None:
        """Make every account due, unless some are or are on their way."""
        with transaction(self.engine) as conn:
            conn.execute(text(_DUE))

    def get(self, path: str, timeout_s: float = 10.0) -> bytes:
        """Return the body of a good answer, on a connection of its own. Raises OSError."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Connection": "close"})
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return bytes(answer.read())

    def account_names(self) -> list[str]:
        with reading(self.engine) as conn:
            rows = conn.execute(text("SELECT platform, handle, host FROM dim_account ORDER BY account_key")).all()
        return [f"{row.platform}/{row.handle}" + (f"@{row.host}" if row.host else "") for row in rows]

    def pids(self) -> dict[str, int]:
        """Return the processes that were started last, by name, as their keeper says it."""
        with self._reading, self._log.open("rb") as log:
            log.seek(self._read_to)
            new = log.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read_to += len(whole)
            self._pids |= {name.decode(): int(pid) for name, pid in _STARTED.findall(whole)}
            return dict(self._pids)

    def api_workers(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess, KeyError):
            return psutil.Process(self.pids()["api"]).children()
        return []

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Yield everything that runs now, by kind: workers of all platforms are one kind."""
        for name, pid in self.pids().items():
            kind = "worker" if name.startswith("worker_") else "API master" if name == "api" else name
            with suppress(psutil.NoSuchProcess):
                yield kind, psutil.Process(pid)
        for worker in self.api_workers():
            yield "API", worker
        with suppress(psutil.NoSuchProcess):
            yield "Redis", psutil.Process(self.servers.redis.pid)

    def samples(self) -> list[Sample]:
        """Look at every process; PostgreSQL's, which come and go with connections, count as one."""
        now, found = time.time(), []
        for kind, process in self.processes():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied), process.oneshot():
                age_s = round(now - process.create_time(), 1)
                rss = process.memory_info().rss
                if rss:  # else it has ended, and nobody has taken note of it yet
                    found.append(Sample(now, kind, process.pid, age_s, rss, sum(process.cpu_times()[:2])))
        with suppress(psutil.NoSuchProcess):
            found.append(self._postgres(now))
        return found

    def _postgres(self, now: float) -> Sample:
        postmaster = psutil.Process(self.servers.postgres_pid)
        times = postmaster.cpu_times()
        own, cpu_s = 0, sum(times[:4])
        for one in (postmaster, *postmaster.children()):
            with suppress(psutil.NoSuchProcess):
                memory = one.memory_info()
                own += memory.rss - memory.shared  # what they share would count once for each
                cpu_s += sum(one.cpu_times()[:2]) if one != postmaster else 0.0
        return Sample(now, "PostgreSQL", postmaster.pid, round(now - postmaster.create_time(), 1), own, cpu_s)

    def stop(self) -> None:
        if self._keeper is None:
            return
        everything = psutil.Process(self._keeper.pid).children(recursive=True)
        self._keeper.terminate()
        try:
            self._keeper.wait(self.settings.stop_s + 10)
        except subprocess.TimeoutExpired:
            for process in everything:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._keeper.kill()
            self._keeper.wait()


class Generator:
    """The client, in a process of its own: what it measures isn't held up by what else is done here."""

    def __init__(self, site: Site, seed: int, accounts: Sequence[str]) -> None:
        file = site.folder / "traffic.json"
        file.write_bytes(msgspec.json.encode(mix(accounts, Random(seed))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.performance.load.generator", str(site.port), str(file), str(seed)],
            cwd=PROCFILE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to hand on
        )

    def begin(self, order: Order) -> None:
        """Let it offer a load; `result` returns what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def result(self) -> Offered:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the load generator ended: see its traceback"
        return msgspec.json.decode(line, type=Offered)

    def offer(self, order: Order) -> Offered:
        self.begin(order)
        return self.result()

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.terminate()
        self._process.wait()


@contextmanager
def site(
    accounts: Mapping[str, int], seed: int, *, spoiled: float = 0.0, flower: bool = True, **environ: str
) -> Iterator[Site]:
    """Yield a system that has read these accounts; stop everything at the end. Its logs are kept where it fails."""
    # Not below a folder of root's alone: PostgreSQL runs as another user then.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-load-"))
    try:
        with ExitStack() as stack:
            own = stack.enter_context(chaos.servers())
            teller = Teller(Random(seed), spoiled=spoiled)
            simulator = stack.enter_context(Simulator(simulation=teller))
            for platform in accounts:
                _unlimited(simulator.url, platform)
            chaos.list_accounts(own.engine, accounts)
            found = Site(folder, own, teller, simulator, _names(accounts, flower=flower), **environ)
            ledger.watch(own.engine)
            stack.callback(found.stop)
            found.start()
            ledger.write_past(own.engine)
            yield found
    except Exception:
        print(f"What the processes said stands in {folder}", file=sys.stderr)
        raise
    except BaseException:  # somebody has enough of it
        rmtree(folder)
        raise
    rmtree(folder)


@contextmanager
def generator(running: Site, seed: int, accounts: Sequence[str]) -> Iterator[Generator]:
    """Yield the client, which asks for these accounts (`platform/handle`) and for lists."""
    found = Generator(running, seed, accounts)
    try:
        yield found
    finally:
        found.close()


def _names(accounts: Mapping[str, int], *, flower: bool) -> list[str]:
    """Return the processes of the Procfile that these accounts need."""
    left_out = {"simulator"} if flower else {"simulator", "flower"}
    workers = {f"worker_{platform}" for platform in accounts}
    named = parse_procfile(PROCFILE.read_text()).processes
    return [name for name in named if name not in left_out and (not name.startswith("worker_") or name in workers)]


def _unlimited(simulator: str, platform: str) -> None:
    order = msgspec.json.encode({"platform": platform, "limit": LIMIT, "window_s": 900})
    urllib.request.urlopen(f"{simulator}/_simulator/limits", data=order).close()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
