"""The API is restarted under load, and no request fails: by SIGHUP, and one instance after the other."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from db.engine import Engine, transaction
from tests.nginx import HOW_TO_GET_IT, nginx, nginx_program
from tests.serving import add_account, gunicorn, keep, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 120.0
KEPT, FRESH = 3, 2
WORKERS = 2
# Between two requests of a client: on two cores the new processes need some of them.
PAUSE_S = 0.02


class Load:
    """Clients that ask again and again, some on connections that they keep, some on a new one for each request.

    A kept connection is left only when the server has said so: whatever else ends it is a failure.
    """

    def __init__(self, connect: Callable[[], http.client.HTTPConnection]) -> None:
        self.failures: list[str] = []
        self.longest_s = 0.0
        self._answers = [0] * (KEPT + FRESH)
        self._connect = connect
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(KEPT + FRESH)]

    @property
    def answers(self) -> int:
        return sum(self._answers)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self.wait_for_more()

    def wait_for_more(self) -> None:
        """Return when each client has been answered some times more."""
        wanted = [answers + 5 for answers in self._answers]
        wait_for(
            lambda: self.failures or all(now >= then for now, then in zip(self._answers, wanted, strict=True)),
            "answers for every client",
            PATIENCE_S,
        )

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.wait(PAUSE_S):
            began = time.monotonic()
            try:
                connection = connection or self._connect()
                is_kept = self._ask_once(connection, number)
            except (OSError, http.client.HTTPException) as exc:
                self.failures.append(f"client {number}, answer {self._answers[number] + 1}: {exc!r}")
                connection = None
                continue
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self._answers[number] += 1
            if not is_kept or number >= KEPT:
                connection.close()
                connection = None
        if connection:
            connection.close()

    def _ask_once(self, connection: http.client.HTTPConnection, number: int) -> bool:
        """Ask for a hit, then for what no cache has; return whether the connection may be used again."""
        count = self._answers[number]
        path = "/api/summary" if count % 2 else f"/api/summary?q=client{number}-{count}"
        connection.request("GET", path, headers={"Host": "rollcall.example"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or not body.endswith(b"}"):
            self.failures.append(f"client {number}: {answer.status} {body[:200]!r}")
        return not answer.will_close


@contextmanager
def load(connect: Callable[[], http.client.HTTPConnection]) -> Iterator[Load]:
    asking = Load(connect)
    asking.start()
    try:
        yield asking
    finally:
        asking.stop()


@pytest.fixture
def url(engine: Engine, database_url: str) -> str:
    with transaction(engine) as conn:
        for number in range(20):
            keep(conn, add_account(conn, f"x/goose{number}"), 1000 + number)
    return database_url


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_no_request_fails_while_new_workers_take_over(url: str, redis_url: str, tmp_path: Path) -> None:
    with (
        gunicorn(url, redis_url, tmp_path, workers=WORKERS) as api,
        load(lambda: http.client.HTTPConnection("127.0.0.1", api.port, timeout=PATIENCE_S)) as asked,
    ):
        old = set(api.workers)
        api.process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: len(api.workers) == WORKERS and not old & set(api.workers), "the old workers to leave", PATIENCE_S
        )
        asked.wait_for_more()
    assert asked.failures == []
    print(f"{asked.answers:,} answers, the slowest after {asked.longest_s:.2f} s")


def test_a_connection_that_was_to_be_kept_is_kept_when_its_answer_ends_after_the_signal(
    url: str, redis_url: str, tmp_path: Path
) -> None:
    """The client has been told, so its next request is answered, too; and with that it is told to go."""
    until = tmp_path / "go on"
    run = ("-m", "gunicorn", "--config", str(ROOT / "deploy" / "gunicorn.conf.py"), "tests.faults.halting:app")
    with gunicorn(url, redis_url, tmp_path, workers=1, run=run, HALTED_UNTIL=str(until)) as api:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=PATIENCE_S)
        connection.request("GET", "/halting")
        half = connection.getresponse()
        assert not half.will_close
        old = set(api.workers)
        api.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "Leaving" in (tmp_path / "api.log").read_text(), "the old worker to leave", PATIENCE_S)
        until.touch()
        assert half.read() == b"two halves"
        connection.request("GET", "/readyz")
        last = connection.getresponse()
        assert (last.status, last.will_close) == (200, True)
        last.read()
        wait_for(lambda: not old & set(api.workers), "the old worker to leave", PATIENCE_S)
        connection.close()


# What systemd does between fork and exec: sockets begin at descriptor 3.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "api"])
"""


class Instance:
    """The API as systemd starts it: with a socket that was made before and outlives it, or with a port of its own."""

    def __init__(self, environ: dict[str, str], log: Path, listening: socket.socket | None = None) -> None:
        self._environ, self._log, self._listening = environ, log, listening
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command, inherited = [sys.executable, "-m", "api"], []
        if self._listening is not None:
            inherited = [self._listening.fileno()]
            command = [sys.executable, "-c", _AS_SYSTEMD, str(inherited[0])]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=self._environ, pass_fds=inherited, stdout=log, stderr=log)

    def wait_until_it_works(self) -> None:
        def has_worker() -> bool:
            assert self.process.poll() is None, f"the API ended\n{self._log.read_text()[-3000:]}"
            return bool(children(self.process.pid))

        wait_for(has_worker, f"a worker; see {self._log}", PATIENCE_S)

    def restart(self) -> None:
        """Do what `systemctl restart` does."""
        self.stop()
        self.process = self._start()
        self.wait_until_it_works()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0


@contextmanager
def two_instances(
    url: str, redis_url: str, folder: Path, listening: Sequence[socket.socket | None], ports: Sequence[int]
) -> Iterator[list[Instance]]:
    given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given |= {
        "DATABASE_URL": url,
        "REDIS_URL": redis_url,
        "WEB_CONCURRENCY": "1",
        "TRUSTED_PROXIES": "127.0.0.1",
    }
    instances = [
        Instance({**given, "PORT": str(port)}, folder / f"api-{number}.log", own)
        for number, (own, port) in enumerate(zip(listening, ports, strict=True))
    ]
    try:
        for instance in instances:
            instance.wait_until_it_works()
        yield instances
    finally:
        for instance in instances:
            instance.process.terminate()
        for instance in instances:
            instance.process.wait(PATIENCE_S)


def test_no_request_fails_while_two_instances_of_one_socket_are_restarted_in_turn(
    url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=2048) as listening,
        two_instances(url, redis_url, tmp_path, [listening] * 2, [0, 0]) as instances,
        load(lambda: http.client.HTTPConnection(*listening.getsockname(), timeout=PATIENCE_S)) as asked,
    ):
        for instance in instances:
            instance.restart()
            asked.wait_for_more()
    assert asked.failures == []
    print(f"{asked.answers:,} answers, the slowest after {asked.longest_s:.2f} s")


@pytest.mark.skipif(nginx_program() is None, reason=HOW_TO_GET_IT)
def test_no_request_fails_while_two_instances_behind_nginx_are_restarted_in_turn(
    url: str, redis_url: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [own.getsockname()[1] for own in (one, other)]
    with (
        two_instances(url, redis_url, tmp_path, [None, None], ports) as instances,
        nginx(ports, tmp_path / "proxy") as proxy,
        load(lambda: proxy.connect(timeout_s=PATIENCE_S)) as asked,
    ):
        for instance in instances:
            instance.restart()
            asked.wait_for_more()
    assert asked.failures == []
    print(f"{asked.answers:,} answers, the slowest after {asked.longest_s:.2f} s")
