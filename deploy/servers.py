"""The servers of one checkout, and the environment that its processes share.

PostgreSQL and Redis are embedded under `.rollcall/` unless DATABASE_URL and REDIS_URL (in the environment or `.env`)
name others. What was started here is stopped here; what was named is left alone.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from dotenv import dotenv_values

from deploy.embedded import start_postgres, start_redis
from pipeline.settings import EMBEDDED_ENV

HERE = Path(__file__).resolve().parent.parent
FOLDER = HERE / ".rollcall"


class Busy(Exception):
    """Another process has this checkout's servers; the message says which."""


@contextmanager
def lock() -> Iterator[IO[str]]:
    """Hold this checkout's servers for this process. Raises Busy with what the holder said of itself."""
    FOLDER.mkdir(exist_ok=True)
    file = (FOLDER / "run.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise Busy(file.read().strip() or "another process") from None
    with file:
        say(file, f"pid {os.getpid()}")
        yield file
        say(file, "")


def say(file: IO[str], text: str) -> None:
    """Leave word in the lock file of who holds it."""
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


@contextmanager
def servers(**extra: str) -> Iterator[Mapping[str, str]]:
    """Start what isn't named, write down where it is, and yield the environment for processes that use it.

    `extra` are settings that the processes of this run share besides.
    """
    given = {k: v for k, v in dotenv_values(HERE / ".env").items() if v} | dict(os.environ)
    found = dict(extra)
    with ExitStack() as stack:
        if "DATABASE_URL" not in given:
            postgres = start_postgres(FOLDER / "postgres")
            stack.callback(postgres.stop)
            found["DATABASE_URL"] = postgres.url
        if "REDIS_URL" not in given:
            redis = start_redis(FOLDER / "redis")
            stack.callback(redis.stop)
            found["REDIS_URL"] = redis.url
        # For `rollcall` in another terminal; it goes when the servers do.
        noted = HERE / EMBEDDED_ENV
        noted.touch(mode=0o600)
        noted.write_text("".join(f"{name}={value}\n" for name, value in found.items()))
        stack.callback(noted.unlink, missing_ok=True)
        yield {**os.environ, **found}


def main(argv: list[str]) -> int:
    """Run `rollcall …` with this checkout's servers, started for it unless they run already."""
    command = [str(Path(sys.executable).with_name("rollcall")), *argv]
    try:
        with lock(), servers() as environment:
            return subprocess.run(command, env=dict(environment), check=False).returncode
    except Busy:
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
