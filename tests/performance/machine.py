"""The servers and processes of one benchmark run, and what CPU each of them has used."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
from redis import Redis

from db import migrate
from db.engine import Engine, make_engine
from deploy import embedded
from pipeline.settings import Settings
from tests import fakes

HERE = Path(__file__).resolve().parent.parent.parent
WITHIN_S = 60.0
STOP_S = 20.0


class Metered:
    """One process with a meter (see tests.performance.process)."""

    def __init__(self, process: subprocess.Popen[str], answers: Any) -> None:
        self.process = process
        self._answers = answers

    @property
    def counts(self) -> Mapping[str, Any]:
        """Return what its meter counts now; `process_s` is the CPU of the whole process."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self._answers.readline()
        assert line, "a measured process has ended: see its log"
        return dict(json.loads(line))

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


class Machine:
    """PostgreSQL and Redis as `./dev run` starts them, the simulator, and the pipeline's processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[str]] = []
        self._open = ExitStack()
        self.postgres = embedded.start_postgres(folder / "postgres")
        self.redis_server = embedded.start_redis(folder / "redis")
        self.redis = self._open.enter_context(Redis.from_url(self.redis_server.url))
        self.database_url = self.postgres.url.replace("postgresql://", "postgresql+psycopg2://", 1)
        migrate.upgrade(self.database_url)
        self.engine: Engine = make_engine(self.database_url, application_name="benchmark")
        self.environ: dict[str, str] = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_server.url}

    def settings(self) -> Settings:
        """Return the settings that every process gets."""
        further = {name: self.environ[name] for name in self.environ.keys() - {"DATABASE_URL", "REDIS_URL"}}
        return fakes.settings(self.database_url, self.redis_server.url, **further)

    def start(self, *module: str, log: str, **options: Any) -> subprocess.Popen[str]:
        """Start `python -m module …` with nothing of this machine's own settings; `python` may be another's."""
        return self.launch([options.pop("python", sys.executable), "-m", *module], log=log, **options)

    def launch(self, command: Sequence[str], *, log: str, **options: Any) -> subprocess.Popen[str]:
        """Start a program likewise."""
        inherited = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        environ = {**inherited, **self.environ, **options.pop("environ", {})}
        with (self.folder / f"{len(self._processes)}-{log}.log").open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=HERE,
                env=environ,
                stdout=options.pop("stdout", out),
                stderr=out,
                text=True,
                start_new_session=True,
                **options,
            )
        self._processes.append(process)
        for stream in filter(None, (process.stdin, process.stdout)):
            self._open.enter_context(stream)
        return process

    def metered(self, name: str, **environ: str) -> Metered:
        """Start a process with a meter; return when it answers."""
        read, write = os.pipe()
        started = self.start(
            "tests.performance.process",
            name,
            log=name,
            stdin=subprocess.PIPE,
            pass_fds=(write,),
            environ={"BENCH_ANSWERS": str(write), **environ},
        )
        os.close(write)
        metered = Metered(started, self._open.enter_context(os.fdopen(read)))
        metered.counts  # noqa: B018  # waits for the first answer
        return metered

    def simulate(self) -> subprocess.Popen[str]:
        """Start the simulator in its own process, with limits that nobody meets."""
        simulator = self.start("deploy.simulator", "--port", "0", log="simulator", stdout=subprocess.PIPE)
        assert simulator.stdout is not None
        (url,) = re.findall(r"http://\S+", simulator.stdout.readline())
        self.environ["SIMULATOR_URL"] = url
        order = json.dumps({"platform": "x", "limit": 10**9, "window_s": 900}).encode()
        urllib.request.urlopen(f"{url}/_simulator/limits", data=order).close()
        return simulator

    def servers_cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds of PostgreSQL and Redis since they started."""
        postmaster = psutil.Process(self.postgres.server.get_pid())
        ended = postmaster.cpu_times()
        backends = [one for one in postmaster.children() if one.is_running()]
        running = sum(sum(backend.cpu_times()[:2]) for backend in backends)
        return {
            "PostgreSQL": sum(ended[:4]) + running,  # with that of the backends that have ended
            "Redis": cpu_s(self.redis_server.process),
        }

    def end(self, process: subprocess.Popen[str]) -> None:
        """Ask a process to stop, and wait until it has."""
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                self.end(process)
        self._open.close()
        self.engine.dispose()
        self.redis_server.stop()
        self.postgres.stop()


def cpu_s(process: subprocess.Popen[Any]) -> float:
    """Return the CPU seconds of a process since it started."""
    return sum(psutil.Process(process.pid).cpu_times()[:2])


def wait(condition: Callable[[], Any], what: str, *, within_s: float = WITHIN_S, every_s: float = 0.05) -> None:
    """Return when `condition` is true. Raises TimeoutError that says what didn't come."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)


@contextmanager
def machine() -> Iterator[Machine]:
    """Yield a machine of its own. What its processes said is kept only where the run fails."""
    # Not below a folder of root's alone: PostgreSQL runs as another user then.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-bench-"))
    try:
        with Machine(folder) as running:
            yield running
    except BaseException:
        print(f"What the processes said stands in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)
