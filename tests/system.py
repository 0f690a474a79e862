"""Rollcall's own processes for tests: real workers, a real planner, the simulator over real sockets."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.simulator.server import Simulator
from deploy.simulator.simulation import Simulation

HERE = Path(__file__).resolve().parent.parent
STOP_S = 15.0


class System:
    """The processes of one test, their environment, and what they say."""

    def __init__(self, environ: dict[str, str], logs: Path) -> None:
        # Only what a test gives: a developer's own environment must not decide how it ends.
        self.environ = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ} | environ
        self.logs = logs
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *module: str, on: Sequence[str] = (), **environ: str) -> subprocess.Popen[bytes]:
        """Start `python -m module …` in a session of its own; `on` is a prefix that lets it run on another machine."""
        log = self.logs / f"{len(self.processes)}-{'-'.join(module)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*on, sys.executable, "-m", *module],
                cwd=HERE,
                env={**self.environ, **environ},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def worker(self, platform: str, **environ: str) -> subprocess.Popen[bytes]:
        return self.start("workers", platform, **environ)

    def said(self) -> str:
        """Return everything that the processes wrote."""
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')}" for log in sorted(self.logs.iterdir()))

    def wait(self, condition: Callable[[], Any], *, within_s: float, what: str) -> Any:
        """Return the first true value of `condition`; fail with the processes' words when there is none in time."""
        deadline = time.monotonic() + within_s
        while True:
            if found := condition():
                return found
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}\n{self.said()}"
            time.sleep(0.05)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def system(
    database_url: str, redis_url: str, logs: Path, *, simulation: Simulation | None = None, **environ: str
) -> Iterator[tuple[System, Simulator]]:
    """Yield a system that reads from a simulator of its own (or `simulation`); stop everything at the end."""
    logs.mkdir(exist_ok=True)
    with Simulator(port=0, simulation=simulation) as simulator:
        running = System(
            {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "SIMULATOR_URL": simulator.url, **environ}, logs
        )
        try:
            yield running, simulator
        finally:
            running.stop()
