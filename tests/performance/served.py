"""HTTP servers of a benchmark as whole processes: what a request costs them, and how many they answer."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
from msgspec import Struct

from tests.performance.machine import HERE, Machine, wait
from tests.performance.report import Line
from tests.performance.rounds import Rounds

PEERS = HERE / ".benchmarks" / "peers"
HOW_TO_GET_WRK = "wrk is not installed: apt-get install wrk (brew install wrk)"
_PEERS_NEED = Path(__file__).parent / "peers" / "requirements.txt"
# One request per line of a file, each once; a thread of wrk says at the end how its answers came out.
_LUA = """
local requests, last = {}, 0
function init(args)
  for line in io.lines(os.getenv("BENCH_PATHS")) do requests[#requests + 1] = wrk.format("GET", line) end
end
function request()
  last = last % #requests + 1
  return requests[last]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'FOUND {"requests": %d, "duration_us": %d, "failed": %d, "p50_us": %d, "p99_us": %d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
_NGINX = """
{user}
worker_processes 2;
daemon off;
pid {own}/nginx.pid;
events {{}}
http {{
  sendfile on;
  keepalive_requests 1000000;
  access_log {own}/access.log;
  client_body_temp_path {own}/body;
  proxy_temp_path {own}/proxy;
  fastcgi_temp_path {own}/fastcgi;
  uwsgi_temp_path {own}/uwsgi;
  scgi_temp_path {own}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    default_type application/json;
  }}
}}
"""
Found = TypeVar("Found")


class PeersMissing(Exception):
    """The environment that holds what others would pick can't be made here; the message says why."""


class Load(Struct, frozen=True):
    """What wrk found in one round."""

    requests: int
    duration_us: int
    failed: int
    p50_us: int
    p99_us: int
    cpu_s: float = 0.0

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_us * 1e6

    @property
    def cpu_us(self) -> float:
        """Return the server's CPU time of one request."""
        return self.cpu_s / self.requests * 1e6


class Served:
    """One server with all its processes. `aside` is the CPU of servers that work for it, such as the database."""

    def __init__(self, process: subprocess.Popen[str], port: int, aside: Callable[[], float] = lambda: 0.0) -> None:
        self.process = process
        self.port = port
        self._aside = aside

    @property
    def processes(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    @property
    def cpu_s(self) -> float:
        return sum(sum(one.cpu_times()[:2]) for one in self.processes) + self._aside()

    @property
    def rss_bytes(self) -> int:
        """Return the memory of all its processes; what they share counts in each."""
        return sum(one.memory_info().rss for one in self.processes)

    def get(self, path: str, **headers: str) -> tuple[Mapping[str, str], bytes]:
        """Return headers and body of one answer. Raises HTTPError for a status of 400 or more."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=given)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers, answer.read()

    def load(
        self, folder: Path, paths: Sequence[str], *, seconds: float, connections: int = 32, **headers: str
    ) -> Load:
        """Ask for these paths in turn from so many connections, and return what it took."""
        script, listed = folder / "wrk.lua", folder / "paths"
        script.write_text(_LUA)
        listed.write_text("\n".join(paths) + "\n")
        given = [part for name, value in headers.items() for part in ("-H", f"{name.replace('_', '-')}: {value}")]
        command = [wrk(), "-t1", f"-c{connections}", f"-d{seconds:g}s", *given, "-s", str(script)]
        before = self.cpu_s
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{self.port}"],
            env=os.environ | {"BENCH_PATHS": str(listed)},
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"FOUND (\{.*\})", done.stdout)
        assert found, done.stdout + done.stderr
        load = Load(**json.loads(found[1]), cpu_s=self.cpu_s - before)
        assert load.requests and not load.failed, f"{load.failed} of {load.requests} requests failed"
        return load


def wrk() -> str:
    if (why := without_wrk()) is not None:
        sys.exit(why)
    return "wrk"


def without_wrk() -> str | None:
    """Say how to get wrk; None where it's there."""
    return HOW_TO_GET_WRK if shutil.which("wrk") is None else None


def start(
    machine: Machine,
    *module: str,
    log: str,
    aside: Callable[[], float] = lambda: 0.0,
    python: str = sys.executable,
    **environ: str,
) -> Served:
    """Start `python -m module …`, where {port} is a free one; return when it answers."""
    port = _free_port()
    command = [part.format(port=port) for part in module]
    process = machine.start(*command, log=log, python=python, environ={"PORT": str(port), **environ})
    return _answering(Served(process, port, aside), log, machine)


def nginx(machine: Machine, root: Path) -> Served | None:
    """Serve the files below a folder with nginx, two processes, its usual access log; None where there is no nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        return None
    port, own = _free_port(), machine.folder / "nginx"
    own.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""  # else its processes may not see the folder
    (own / "nginx.conf").write_text(_NGINX.format(user=user, own=own, port=port, root=root))
    process = machine.launch([program, "-e", str(own / "error.log"), "-c", str(own / "nginx.conf")], log="nginx")
    return _answering(Served(process, port), "nginx", machine)


def _answering(served: Served, log: str, machine: Machine) -> Served:
    wait(lambda: _answers(served), f"an answer of {log}; see its log in {machine.folder}")
    return served


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(served: Served) -> bool:
    assert served.process.poll() is None, "the server ended: see its log"
    with suppress(urllib.error.URLError, OSError):
        with suppress(urllib.error.HTTPError):
            served.get("/healthz")
        return True
    return False


def peers() -> str:
    """Return the Python of the environment that holds what others would pick; it is made on the first call.

    Raises PeersMissing where the packages can't be had.
    """
    python, stamp = PEERS / "bin" / "python", PEERS / "made.from"
    wanted = _PEERS_NEED.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        uv = shutil.which("uv")
        venv.create(PEERS, with_pip=uv is None, clear=True)
        if uv:
            install = [uv, "pip", "install", "--quiet", "--python", str(python)]
        else:
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*install, "-r", str(_PEERS_NEED)], capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise PeersMissing(f"their packages can't be installed: {said[-1] if said else install[0]}")
        stamp.write_text(wanted)
    return str(python)


def peers_or_why() -> str | PeersMissing:
    """Return the peers' Python, or why there is none, for a run that goes on without them."""
    try:
        return peers()
    except PeersMissing as exc:
        return exc


def in_turn(
    rounds: Rounds,
    measures: Mapping[str, Callable[[], Found]],
    ratios: Callable[[Mapping[str, Sequence[Found]]], Iterable[Line]] = lambda _: (),
) -> dict[str, list[Found]]:
    """Return what each round found, until the ratios are steady: all in turn within a round, in a new order."""
    names: list[str] = list(measures)
    found: dict[str, list[Found]] = {name: [] for name in names}
    for number in rounds.until_steady(lambda: ratios(found)):
        random.shuffle(names)
        for name in names:
            one = measures[name]()
            if number:
                found[name].append(one)
    return found


def rest(seconds: float) -> None:
    """Let what a load has left behind come to its end."""
    time.sleep(seconds)
