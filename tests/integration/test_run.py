"""`./dev run`, as a new user starts and stops it: in a folder of its own, with servers of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

# Patience, no promise: some machines take three times as long as others.
START_S = 180
# The promise is ten seconds, where a start takes some fifteen; on a machine that takes longer for one, half of that.
STOP_S = 15


@pytest.fixture
def checkout(tmp_path: Path, project: Path) -> Iterator[Path]:
    """Yield a copy of the checkout whose servers and data are its own."""
    copy = tmp_path / "rollcall"
    left_out = shutil.ignore_patterns(".venv", ".rollcall", ".git", "__pycache__", ".*_cache", "*.egg-info", ".env")
    shutil.copytree(project, copy, ignore=left_out)
    yield copy
    left = _children_of(copy)
    for process in left:
        process.kill()
    assert not left, f"left running: {left}"


def test_one_command_leads_to_numbers_and_stops_what_it_started(checkout: Path) -> None:
    done = _run(checkout, "--once")

    assert done.returncode == 0, done.stdout
    assert "98 imported" in done.stdout
    assert "Simulated the 60 days before today: 5,880 readings of 98 accounts" in done.stdout
    assert "Simulated numbers" in done.stdout
    assert "./dev rollcall keys create" in done.stdout, "there is no key yet to sign in with"
    assert not _children_of(checkout)


def test_it_serves_until_ctrl_c_keeps_its_data_and_says_when_it_runs_already(checkout: Path) -> None:
    began = time.monotonic()
    running = _start(checkout)
    address = _address(running, checkout)
    stop_s = max(STOP_S, (time.monotonic() - began) / 2)
    items = _summary(address)

    seen = _simulator(checkout)
    assert not any(seen["violations"].values())
    assert seen["batches"]["x"]["users/by"]["largest"] == 43
    assert seen["requests"]["x"]["users/by"] == 1

    victim = _worker(checkout, "x")
    assert victim is not None
    victim.kill()
    _wait(lambda: (found := _worker(checkout, "x")) and found.pid != victim.pid, "a new worker for the one killed")

    for server in ("postgres", "redis-server"):
        _server(checkout, server).kill()
    _wait(lambda: (checkout / "run.log").read_text().count("had died: started again") == 2, "both servers again")
    _wait(lambda: _summary(address) == items, "the same numbers")

    second = _run(checkout)
    assert second.returncode == 1
    assert "running in this folder already" in second.stdout
    assert address.rstrip("/") in second.stdout

    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    assert running.wait(stop_s) == 0
    assert time.monotonic() - began < stop_s
    assert not _children_of(checkout)

    again = _start(checkout)
    kept = {item["account_key"]: item["followers"] for item in _summary(_address(again, checkout))}
    again.terminate()
    assert again.wait(stop_s) == 0
    assert kept == {item["account_key"]: item["followers"] for item in items}
    # All but Flickr's: it doesn't tell followers.
    assert sum(count is not None for count in kept.values()) == 97
    # The first reading continued the days before it.
    assert all(item["precision"] != "held" and item["delta_30d"] is not None for item in items if item["followers"])


def test_a_taken_port_falls_to_a_free_one_and_says_which(checkout: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = _run(checkout, "--once", PORT=str(port))

    assert done.returncode == 0, done.stdout
    assert f"PORT {port} is taken: using" in done.stdout


@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        ((), {"PORT": "abc"}, "PORT=abc is no port"),
        ((), {"FLOWER_PORT": "80000"}, "FLOWER_PORT=80000 is no port"),
        (("--accounts", "/nope.csv"), {}, "there is no file /nope.csv"),
    ],
)
def test_what_is_wrong_from_the_start_is_said_in_a_line(
    checkout: Path, options: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    done = _run(checkout, *options, **environ)

    assert done.returncode != 0
    assert said in done.stdout
    assert "Traceback" not in done.stdout
    assert not _children_of(checkout)


def test_live_numbers_are_refused_beside_simulated_ones_until_those_are_cleared(checkout: Path) -> None:
    assert _run(checkout, "--once").returncode == 0

    refused = _run(checkout, "--live", "--once")
    assert refused.returncode == 1
    assert "simulated numbers" in refused.stdout
    assert "demo clear" in refused.stdout

    cleared = _python(checkout, "deploy.servers", "demo", "clear", "--yes")
    assert cleared.returncode == 0, cleared.stdout


def _environ(checkout: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    return {**kept, "PYTHONPATH": str(checkout), "COLUMNS": "200", **_free_ports(), **more}


def _free_ports() -> dict[str, str]:
    found = {}
    for name in ("PORT", "FLOWER_PORT", "SIMULATOR_PORT"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            found[name] = str(probe.getsockname()[1])
    return found


def _python(checkout: Path, *module: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *module],
        cwd=checkout,
        env=_environ(checkout, **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_S + STOP_S,
        check=False,
    )


def _run(checkout: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return _python(checkout, "deploy.run", *options, **environ)


def _start(checkout: Path) -> subprocess.Popen[bytes]:
    with (checkout / "run.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.run"], cwd=checkout, env=_environ(checkout), stdout=log, stderr=log
        )


def _address(running: subprocess.Popen[bytes], checkout: Path) -> str:
    """Return the dashboard's address once it is printed: the first reading is complete then."""
    deadline = time.monotonic() + START_S
    while True:
        said = (checkout / "run.log").read_text()
        if "Ctrl-C stops everything" in said:
            return said.split("Dashboard: ")[1].split()[0]
        assert running.poll() is None and time.monotonic() < deadline, said
        time.sleep(0.1)


def _summary(address: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{address}api/summary?per_page=1000") as answer:
        return list(json.load(answer)["items"])


def _simulator(checkout: Path) -> dict[str, Any]:
    """Return what the simulator of the running system saw."""
    settings = dict(line.split("=", 1) for line in (checkout / ".rollcall" / "env").read_text().splitlines())
    with urllib.request.urlopen(f"{settings['SIMULATOR_URL']}/_simulator/state") as answer:
        return dict(json.load(answer))


def _worker(checkout: Path, platform: str) -> psutil.Process | None:
    """Return the process of a platform's worker (not the shell that honcho starts it by)."""
    for process in _children_of(checkout):
        with suppress(psutil.Error):
            if process.cmdline()[1:] == ["-m", "workers", platform]:
                return process
    return None


def _server(checkout: Path, name: str) -> psutil.Process:
    """Return the embedded server of this name: of PostgreSQL's processes the one that started the others."""
    found = [process for process in _children_of(checkout) if process.name() == name]
    (first,) = [process for process in found if process.ppid() not in {other.pid for other in found}]
    return first


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


def _children_of(checkout: Path) -> list[psutil.Process]:
    """Return the processes that were started in this copy of the checkout."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(checkout):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
