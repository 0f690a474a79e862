"""The servers of one checkout, and the environment that its processes share.

PostgreSQL and Redis are embedded under `.rollcall/` unless DATABASE_URL and REDIS_URL (in the environment or `.env`)
name others. What was started here is stopped here; what was named is left alone.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dotenv import dotenv_values

from deploy.embedded import start_postgres, start_redis
from pipeline.settings import EMBEDDED_ENV, with_secrets

HERE = Path(__file__).resolve().parent.parent
FOLDER = HERE / ".rollcall"
# The settings that say where the servers of a run are.
ADDRESSES = ("DATABASE_URL", "REDIS_URL", "BROKER_URL")


class Busy(Exception):
    """Another process has this checkout's servers; the message says which."""


@contextmanager
def lock() -> Iterator[IO[str]]:
    """Hold this checkout's servers for this process. Raises Busy with what the holder said of itself."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "run.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(file.read().strip() or "another process") from None
        say(file, f"pid {os.getpid()}")
        try:
            yield file
        finally:
            say(file, "")


def say(file: IO[str], text: str) -> None:
    """Leave word in the lock file of who holds it."""
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def given() -> Mapping[str, str]:
    """Return what the environment and `.env` set, secrets in files of their own too, blanks left out.

    The environment outranks `.env`. What is wrong with a secret's file is said when the settings are loaded.
    """
    filed = {name: value for name, value in dotenv_values(HERE / ".env").items() if value}
    found = with_secrets(filed, {}, []) | with_secrets(os.environ, {}, [])
    return {name: value for name, value in found.items() if value}


class Servers:
    """The embedded servers of a run; None where a setting names another."""

    def __init__(self, named: Mapping[str, str]) -> None:
        self._postgres = None if "DATABASE_URL" in named else start_postgres(FOLDER / "postgres")
        self._redis = None if "REDIS_URL" in named else start_redis(FOLDER / "redis")

    @property
    def urls(self) -> dict[str, str]:
        """Return the settings that say where the embedded servers are."""
        found = {"DATABASE_URL": self._postgres, "REDIS_URL": self._redis}
        return {name: server.url for name, server in found.items() if server}

    def revive(self) -> list[str]:
        """Start again what has died, with its data and at its address; return the names."""
        revived = []
        if self._postgres and not self._postgres.runs:
            self._postgres = start_postgres(FOLDER / "postgres")
            revived.append("PostgreSQL")
        if self._redis and not self._redis.runs:
            self._redis = start_redis(FOLDER / "redis")
            revived.append("Redis")
        return revived

    def stop(self) -> None:
        for server in (self._redis, self._postgres):
            if server:
                server.stop()


@contextmanager
def servers(**extra: str) -> Iterator[tuple[Servers, Mapping[str, str]]]:
    """Start what isn't named, write down where it is, and yield it with the environment for processes that use it.

    `extra` are settings that the processes of this run share besides.
    """
    named = given()
    running = Servers(named)
    # For `rollcall` in another terminal; it goes when the servers do.
    noted = HERE / EMBEDDED_ENV
    try:
        found = {**extra, **running.urls}
        # Those named in the environment of this terminal, too: elsewhere it may be another one, or none.
        here = {name: named[name] for name in ADDRESSES if name in named}
        noted.touch(mode=0o600)
        noted.write_text("".join(f"{name}={value}\n" for name, value in (found | here).items()))
        yield running, {**os.environ, **found}
    finally:
        noted.unlink(missing_ok=True)
        running.stop()


def main(argv: list[str]) -> int:
    """Run `rollcall …` with this checkout's servers, started for it unless they run already."""
    command = [str(Path(sys.executable).with_name("rollcall")), *argv]
    try:
        with lock(), servers() as (_, environment):
            return attended(command, environment)
    except Busy:
        return attended(command, os.environ)


def attended(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its own end, however long that takes after Ctrl-C, which a terminal sends to it, too."""
    # No SIG_IGN: that the command would inherit.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(command, env=dict(environment), check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
