"""`rollcall profile`: real processes, profiled from outside and from within, and ended with all that came of them."""

import os
import pstats
import re
import signal
import subprocess
import sys
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import Result
from sqlalchemy import select

from db.engine import Engine, reading, transaction
from db.models import scrape_job
from deploy.profiling import calls, flames, started
from tests.serving import add_account, wait_for
from tests.varnish import free_port

ENDS_WITHIN_S = 300.0


class Command:
    """`rollcall profile …` in a terminal of its own, as it were."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_until_it_profiles(self) -> psutil.Process:
        """Return the process that is profiled."""
        wait_for(
            lambda: self._process.poll() is not None or "is profiled for" in self.said, "the profile", ENDS_WITHIN_S
        )
        found = re.search(r"\(pid (\d+)\) and is profiled", self.said)
        assert found, self.said
        return psutil.Process(int(found[1]))

    def interrupt(self) -> str:
        """Press Ctrl-C; return what it prints when it ends well."""
        self._process.send_signal(signal.SIGINT)
        printed, _ = self._process.communicate(timeout=ENDS_WITHIN_S)
        assert self._process.returncode == 0, self.said
        return printed


@pytest.fixture
def profiled(environ: Mapping[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Return what runs the command until the block ends."""

    @contextmanager
    def run(*arguments: str, **more: str) -> Iterator[Command]:
        log = tmp_path / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("rollcall")), "profile", *arguments],
                env={**os.environ, **environ, **more},
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        try:
            yield Command(process, log)
        finally:
            process.terminate()
            process.communicate(timeout=ENDS_WITHIN_S)

    return run


def test_the_api_is_sampled_while_it_is_asked_and_ended_with_its_worker(
    profiled: Callable[..., Any], engine: Engine, tmp_path: Path
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/one")
    port = str(free_port())
    given = {"PORT": port, "WEB_CONCURRENCY": "1", "API_RATE_LIMIT": "1000000/m"}
    with profiled("api", "--seconds", "600", "--out", "api.svg", **given) as command:
        master = command.wait_until_it_profiles()
        wait_for(master.children, "its worker")
        workers = master.children()
        cpu_s = _cpu_s(workers)
        for page in count():  # no cache has any of these
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/summary?q=secret{page}", timeout=60) as it:
                assert it.status == 200
            if _cpu_s(workers) > cpu_s + 1:
                break
        printed = command.interrupt()

    assert not any(process.is_running() for process in (master, *workers))
    rows = [line.split("\t") for line in printed.splitlines()]
    assert 1 <= len(rows) <= flames.MOST
    assert all(re.fullmatch(r"\d+\.\d%", row[0]) and int(row[1]) > 0 for row in rows)
    titles = [title.text or "" for title in ET.parse(tmp_path / "api.svg").iter("{http://www.w3.org/2000/svg}title")]
    assert any(re.search(r" \((\S*/)?api/\S+\.py:\d+\)", title) for title in titles)
    assert "secret" not in (tmp_path / "api.svg").read_text()  # functions and lines, no values


@pytest.mark.parametrize(
    ("name", "arguments", "ours"),
    [("worker", ("--", "x"), "scrape.py"), ("planner", (), "plan.py")],
)
def test_calls_of_worker_and_planner_are_counted(
    name: str,
    arguments: tuple[str, ...],
    ours: str,
    profiled: Callable[..., Any],
    rollcall: Callable[..., Result],
    engine: Engine,
    tmp_path: Path,
) -> None:
    def job() -> str | None:
        with reading(engine) as conn:
            return conn.execute(select(scrape_job.c.state)).scalar()

    with profiled(name, "--cprofile", "--seconds", "600", "--out", "it.prof", *arguments) as command:
        process = command.wait_until_it_profiles()
        with transaction(engine) as conn:
            add_account(conn, "x/one")
        if name == "worker":
            assert rollcall("enqueue", "x/one").exit_code == 0
        under_way = (None, "queued", "running") if name == "worker" else (None,)
        wait_for(lambda: job() not in under_way, "a job", ENDS_WITHIN_S)
        printed = command.interrupt()

    assert not process.is_running()
    assert len(printed.splitlines()) == calls.MOST
    assert ours in {Path(file).name for file, _, _ in pstats.Stats(str(tmp_path / "it.prof")).stats}  # type: ignore[attr-defined]


def test_what_memory_is_held_by_is_named_by_its_line_and_children_are_ended(
    rollcall: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, project: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(started.MODULES, "planner", ("tests.hoarding",))
    monkeypatch.setenv("PYTHONPATH", str(project))

    shown = rollcall("profile", "planner", "--memory", "--seconds", "1", "--out", "it.html", "--", "child")

    assert shown.exit_code == 0, shown.stderr
    kib, _, line, _ = shown.stdout.splitlines()[0].split("\t")
    assert re.fullmatch(r"tests/hoarding\.py:\d+ put_by", line)
    assert int(kib.replace(",", "")) >= 97  # once, at least
    assert "put_by" in (tmp_path / "it.html").read_text()
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: _has_ended(child), "the end of its child")


def test_a_process_that_ends_at_once_is_an_error_that_points_to_what_it_said(
    rollcall: Callable[..., Result],
) -> None:
    shown = rollcall("profile", "worker", "--", "nowhere")
    assert shown.exit_code == 1
    assert "ended with 1 before" in shown.stderr


def test_a_pid_must_be_one_of_rollcalls(rollcall: Callable[..., Result]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input('secret')"], stdin=subprocess.PIPE) as ended:
        shown = rollcall("profile", "api", "--pid", str(ended.pid))
        assert shown.exit_code == 2
        assert "is no api, but none of Rollcall's" in shown.stderr
        assert "secret" not in shown.stderr
    shown = rollcall("profile", "api", "--pid", str(ended.pid))
    assert shown.exit_code == 2
    assert f"There is no process {ended.pid}" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--pid", "1", "--memory"), "want a process of their own"),
        (("--cprofile", "--memory"), "two profiles"),
        (("--out", "nowhere/it.svg"), "There is no folder nowhere"),
    ],
)
def test_what_cant_be_meant_is_refused(
    arguments: tuple[str, ...], said: str, rollcall: Callable[..., Result]
) -> None:
    shown = rollcall("profile", "api", *arguments)
    assert shown.exit_code == 2
    assert said in shown.stderr


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Error: Permission Denied: Try running again with elevated permissions", "ptrace_scope"),
        ("Error: Operation not permitted (os error 1)", "ptrace_scope"),
        ("Error: No stack counts found", "Nothing ran"),
        ("Error: Failed to find python version", "Failed to find python version"),
    ],
)
def test_what_py_spy_cant_do_is_said_with_what_mends_it(
    said: str,
    why: str,
    rollcall: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    spy = tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    spy.chmod(0o700)
    monkeypatch.setattr(flames, "py_spy", lambda: str(spy))
    monkeypatch.setattr(started, "check_pid", lambda *_: None)
    shown = rollcall("profile", "api", "--pid", "4711")
    assert shown.exit_code == 1
    assert why in shown.stderr


def _has_ended(pid: int) -> bool:
    """Say whether a process has; whose child it was may take its time to take note of it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)
