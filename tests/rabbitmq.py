"""A RabbitMQ for tests: a node of its own on loopback, with its own name server, everything under one folder.

Debian's package brings a server that runs as a system service for the whole machine; this starts the same program as
whoever runs the tests, without plugins, and leaves nothing behind.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import amqp

from pipeline import lanes, platforms
from pipeline.messages import METRICS

START_S = 60.0
STOP_S = 30.0
# Debian's command of that name on the PATH changes to the service's user, which can't write to a test's folder.
_FOLDERS = ("/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_DEPLOYED = Path(__file__).resolve().parent.parent / "deploy" / "rabbitmq.conf"
HOW_TO_GET_IT = "RabbitMQ is not installed: apt-get install rabbitmq-server (brew install rabbitmq)"


def rabbitmq_server() -> str | None:
    """Return the program that starts RabbitMQ, None where it isn't installed."""
    return shutil.which("rabbitmq-server", path=os.pathsep.join([*_FOLDERS, os.environ.get("PATH", "")]))


class RabbitMQ:
    """A node that keeps its port and its messages when it is stopped (or killed) and started again."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", *, password: str = "guest") -> None:
        """Prepare a node that listens on `address`, where this is called; on another than loopback `guest` isn't let in."""
        folder.mkdir(parents=True)
        self._address = address
        self._user = "guest" if address == "127.0.0.1" else "tests"
        self._password = password
        self._port, node_port, self._names_port = _free_ports(3)
        self._log = folder / "server.log"
        config = folder / "rabbitmq.conf"
        config.write_text(
            # What is deployed, and then what a test needs otherwise: the later line counts.
            f"{_DEPLOYED.read_text()}\n"
            f"listeners.tcp.1 = {address}:{self._port}\n"
            f"default_user = {self._user}\n"
            f"default_pass = {password}\n"
            "distribution.listener.interface = 127.0.0.1\n"
            "disk_free_limit.absolute = 1MB\n"
        )
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "tests@localhost",
            "RABBITMQ_DIST_PORT": str(node_port),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "none"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": "-",
            # One scheduler that doesn't spin: two cores are the tests' own.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        names = ["epmd", "-port", str(self._names_port), "-address", "127.0.0.1"]
        self._names = subprocess.Popen(names, env=self._environ, stdin=subprocess.DEVNULL, start_new_session=True)
        # Where no name server answers yet, the node would start one that nobody stops.
        deadline = time.monotonic() + START_S
        while not _listens(self._names_port):
            assert time.monotonic() < deadline, "epmd did not start"
            time.sleep(0.02)
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://{self._user}:{self._password}@{self._address}:{self._port}//"

    def start(self) -> None:
        """Return when the node takes connections; at once where it runs already."""
        if self._server is not None:
            return
        program = rabbitmq_server()
        assert program is not None, HOW_TO_GET_IT
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [program], env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            ended = self._server.poll() is not None
            assert not ended and time.monotonic() < deadline, f"RabbitMQ did not start\n{self._log.read_text()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop the node in order; its durable queues and their messages stay."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(STOP_S)
            self._server = None

    def kill(self) -> None:
        """End the node as a power cut does."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def close(self) -> None:
        """Stop the node and its name server."""
        self.stop()
        self._names.terminate()
        self._names.wait()

    def clear(self) -> None:
        """Delete every queue that outlives its consumers."""
        with self._connection() as connection:
            channel = connection.channel()
            for name in _queues():
                channel.queue_delete(name)

    def purge(self) -> None:
        """Throw away every message that no consumer holds."""
        with self._connection() as connection:
            for name in _queues():
                with suppress(amqp.NotFound):  # which closes its channel
                    connection.channel().queue_purge(name)

    def waiting(self, queue: str) -> int:
        """Return how many messages of a queue no consumer holds; 0 where there is no such queue."""
        with self._connection() as connection:
            try:
                return int(connection.channel().queue_declare(queue, passive=True).message_count)
            except amqp.NotFound:
                return 0

    def unacknowledged(self, queue: str) -> int:
        """Return how many messages of a queue are still to be done, once nobody consumes from the broker."""
        return self.waiting(queue)

    def _connection(self) -> amqp.Connection:
        host = f"{self._address}:{self._port}"
        return amqp.Connection(host, userid=self._user, password=self._password, connect_timeout=5)

    def _answers(self) -> bool:
        try:
            with self._connection():
                return True
        except (OSError, amqp.AMQPError):
            return False


def _queues() -> list[str]:
    return [*(lanes.queue_name(name, lane) for name in platforms.load() for lane in lanes.LANES), METRICS.name]


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
