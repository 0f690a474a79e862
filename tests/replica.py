"""A PostgreSQL that follows another by streaming, made from the embedded server's own programs."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from deploy.embedded import Postgres


class Replica:
    """A replica of `primary` in `folder`; `options` are lines of its postgresql.conf."""

    def __init__(self, primary: Postgres, folder: Path, **options: str) -> None:
        self._server = primary.server
        self._folder = folder
        folder.mkdir(mode=0o700)
        if self._server.system_user:
            shutil.chown(folder, self._server.system_user)
        copied = ["--pgdata", str(folder), "--dbname", primary.url, "--write-recovery-conf", "--checkpoint", "fast"]
        self._run("pg_basebackup", *copied)
        with (folder / "postgresql.auto.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in options.items())
        for own in (".s.PGSQL.5432.lock", "log"):  # the primary's, which keeps its socket beside its data
            (folder / own).unlink(missing_ok=True)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://postgres@/{database}?host={self._folder}"

    def start(self) -> None:
        """Start it and wait until it takes readers."""
        self._run(
            "pg_ctl", "start", "-w", "-D", str(self._folder), "-l", str(self._folder / "log"), "-o", self._socket
        )

    @property
    def runs(self) -> bool:
        return (self._folder / "postmaster.pid").exists()

    def kill(self) -> None:
        """Let it end at once: whoever reads is cut off."""
        self._run("pg_ctl", "stop", "-w", "-D", str(self._folder), "-m", "immediate")

    def pause(self) -> None:
        """Let it receive all and show nothing of it, until `resume`."""
        self.ask("SELECT pg_wal_replay_pause()")
        deadline = time.monotonic() + 10
        while self.ask("SELECT pg_get_wal_replay_pause_state()") != "paused":
            assert time.monotonic() < deadline, "the replica goes on replaying"

    def resume(self) -> None:
        self.ask("SELECT pg_wal_replay_resume()")

    def ask(self, sql: str) -> Any:
        """Return the first value that a statement returns."""
        connection = psycopg2.connect(host=str(self._folder), user="postgres", dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchone()[0]
        finally:
            connection.close()

    @property
    def _socket(self) -> str:
        return f'-h "" -k {self._folder}'

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._server.bin_path / program), *arguments]
        # Into a file: the server that pg_ctl starts would hold a pipe open for as long as it lives.
        said = self._folder.with_suffix(".said")
        with said.open("wb") as out:
            done = subprocess.run(
                command, user=self._server.system_user, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        assert done.returncode == 0, said.read_text(errors="replace")


@contextmanager
def replica_of(primary: Postgres, folder: Path, **options: str) -> Iterator[Replica]:
    """Yield a running replica; end it when the block does."""
    replica = Replica(primary, folder, **options)
    replica.start()
    try:
        yield replica
    finally:
        if replica.runs:
            replica.kill()
        shutil.rmtree(folder)
