"""Backup and restore: row by row, while others write, and without losing what stands where something is wrong."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from click.testing import Result
from sqlalchemy import make_url, text

from db import backup, keys, migrate
from db.engine import Engine, make_engine, reading, transaction
from db.models import metadata
from tests.fakes import NOON
from tests.history import all_is_derived, keep
from tests.jobs import listed, requested, said, saved
from tests.serving import wait_for

DAY = timedelta(days=1)


@pytest.fixture
def server(postgres: str) -> Iterator[Engine]:
    """Return an engine on the server's own database."""
    engine = make_engine(backup._named(postgres.replace("postgresql:", "postgresql+psycopg2:", 1), "postgres"))
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def databases(server: Engine, engine: Engine) -> Iterator[Callable[[], set[str]]]:
    """Return what names the databases made beside the test's own, and remove them at the end."""
    own = engine.url.database

    def others() -> set[str]:
        named = text("SELECT datname FROM pg_database WHERE starts_with(datname, :own) AND datname <> :own")
        with reading(server) as conn:
            return set(conn.scalars(named, {"own": own}))

    yield others
    with reading(server) as conn:
        for name in others():
            conn.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """Fill every table that people's data lies in, over several partitions and the default one."""
    with transaction(engine) as conn:
        keys_of_x = listed(conn, "goose", "gander", org_name="Geese")
        swan = listed(conn, "swan", platform="flickr")[0]
        for number, key in enumerate([*keys_of_x, swan]):
            keep(conn, key, *(NOON.date() - n * DAY for n in (1, 2, 400, 4_000)), followers=10_000 + number)
        job = requested(conn, keys_of_x)
        assert saved(conn, job, said(job, 3, bio="it's a\tgoose\\\n – “”")) is not None, "a drop: one that is held"
        keys.create(conn, name="a client", scopes=["refresh"])
    return engine


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rollcall.dump"


def _rows(engine: Engine) -> dict[str, list[str]]:
    """Return every row of every table as text."""
    with transaction(engine) as conn:
        return {
            name: list(conn.scalars(text(f"SELECT CAST(r AS text) FROM {name} AS r ORDER BY 1")))
            for name in metadata.tables
        }


def _empty(engine: Engine) -> None:
    with transaction(engine) as conn:
        conn.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))


def _done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def test_what_was_lost_comes_back_row_by_row(rollcall, filled: Engine, file: Path) -> None:
    before = _rows(filled)
    assert {name for name, rows in before.items() if rows} >= {
        *("dim_account", "account_handle", "scrape_state", "scrape_job", "fact_followers_snapshot"),
        *("account_latest", "day_count", "api_key"),
    }
    _done(rollcall("db", "backup", str(file)))
    _empty(filled)

    restored = json.loads(_done(rollcall("db", "restore", str(file), "--json")).stdout)

    assert restored["differences"] == []
    assert _rows(filled) == before
    assert all_is_derived(filled)
    assert migrate.is_current(filled)
    assert _done(rollcall("db", "check"))
    with transaction(filled) as conn:
        assert listed(conn, "new")[0] > max(int(row.split(",")[0][1:]) for row in before["dim_account"])


def test_a_backup_is_of_one_moment_while_jobs_are_saved(rollcall, filled: Engine, file: Path) -> None:
    """A save writes snapshots, newest numbers and counts: a backup of two moments would have one without another."""
    stop, days = threading.Event(), 0

    def write() -> None:
        nonlocal days
        with transaction(filled) as conn:
            flock = listed(conn, *(f"duck{n}" for n in range(50)))
        while not stop.is_set():
            now = NOON + days * DAY
            with transaction(filled) as conn:
                job = requested(conn, flock, now=now)
                saved(conn, job, said(job, 100 + days), now=now)
            days += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        wait_for(lambda: days > 3, "the first saves")
        began = days
        _done(rollcall("db", "backup", str(file)))
        assert days > began, "jobs were saved meanwhile"
    finally:
        stop.set()
        writing.join()
    _empty(filled)

    _done(rollcall("db", "restore", str(file)))

    with reading(filled) as conn:
        kept = conn.scalar(text("SELECT count(*) FROM fact_followers_snapshot WHERE followers BETWEEN 100 AND 9999"))
    assert began * 50 <= kept <= days * 50
    assert kept % 50 == 0
    assert all_is_derived(filled)


def test_a_database_that_holds_tables_is_refused_and_stays(rollcall, filled: Engine, file: Path) -> None:
    _done(rollcall("db", "backup", str(file)))
    before = _rows(filled)

    result = rollcall("db", "restore", str(file))

    assert result.exit_code == 1
    assert "--replace" in result.stderr and "--into" in result.stderr
    assert _rows(filled) == before


def test_replacing_asks_first(rollcall, filled: Engine, file: Path, databases) -> None:
    _done(rollcall("db", "backup", str(file)))

    result = rollcall("db", "restore", str(file), "--replace", stdin="n\n")

    assert result.exit_code == 1
    assert databases() == set()


def test_a_replaced_database_serves_again_and_the_former_one_stays(
    rollcall, filled: Engine, file: Path, databases
) -> None:
    before = _rows(filled)
    _done(rollcall("db", "backup", str(file)))
    with transaction(filled) as conn:
        conn.execute(text("DELETE FROM dim_account WHERE handle = 'goose'"))
    since = _rows(filled)
    session = filled.connect()  # of somebody who is at work

    said_by_it = _done(rollcall("db", "restore", str(file), "--replace", "--yes")).stderr

    session.invalidate()
    session.close()
    filled.dispose()
    assert _rows(filled) == before
    (former,) = databases()
    assert former in said_by_it
    old = make_engine(backup._named(filled.url.render_as_string(hide_password=False), former))
    assert _rows(old) == since
    old.dispose()


@pytest.mark.parametrize("into", [(), ("--into", "elsewhere"), ("--replace", "--yes")])
@pytest.mark.parametrize(
    ("spoil", "said_of_it"),
    [
        (lambda whole: b"", "can't be read as a backup"),
        (lambda whole: b"account,followers\n", "can't be read as a backup"),
        (lambda whole: whole[: len(whole) - 100], "could not read from input file"),
    ],
    ids=["empty", "other", "cut short"],
)
def test_a_spoiled_backup_changes_nothing(
    rollcall,
    filled: Engine,
    file: Path,
    databases,
    into: tuple[str, ...],
    spoil: Callable[[bytes], bytes],
    said_of_it: str,
) -> None:
    _done(rollcall("db", "backup", str(file)))
    file.write_bytes(spoil(file.read_bytes()))
    if not into:
        _empty(filled)
    if "--into" in into:
        into = ("--into", f"{filled.url.database}_elsewhere")
    before = _rows(filled) if into else None

    result = rollcall("db", "restore", str(file), *into)

    assert result.exit_code == 1
    assert said_of_it in result.stderr
    assert databases() == set()
    if into:
        assert _rows(filled) == before
    else:
        assert backup._is_empty(filled.url.render_as_string(hide_password=False))


def test_another_database_is_made_filled_and_not_filled_twice(
    rollcall, filled: Engine, file: Path, databases
) -> None:
    name = f"{filled.url.database}_beside"
    _done(rollcall("db", "backup", str(file)))

    _done(rollcall("db", "restore", str(file), "--into", name))
    beside = make_engine(backup._named(filled.url.render_as_string(hide_password=False), name))
    assert _rows(beside) == _rows(filled)
    beside.dispose()

    result = rollcall("db", "restore", str(file), "--into", name)
    assert (result.exit_code, f"{name} holds tables" in result.stderr) == (1, True)
    assert databases() == {name}, "one that stood before isn't removed"


def test_an_older_backup_is_brought_to_the_newest_revision(rollcall, filled: Engine, file: Path) -> None:
    before = _rows(filled)["fact_followers_snapshot"]
    with transaction(filled) as conn:
        command.downgrade(migrate._config(conn), "0003")
    made = json.loads(_done(rollcall("db", "backup", str(file), "--json")).stdout)
    assert made["revision"] == "0003"
    _empty(filled)

    said_by_it = _done(rollcall("db", "restore", str(file))).stderr

    assert "from revision 0003" in said_by_it
    assert migrate.is_current(filled)
    assert _rows(filled)["fact_followers_snapshot"] == before


def test_a_newer_backup_is_refused(rollcall, filled: Engine, file: Path) -> None:
    with transaction(filled) as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    _done(rollcall("db", "backup", str(file)))
    _empty(filled)

    result = rollcall("db", "restore", str(file))

    assert result.exit_code == 1
    assert "revision 9999" in result.stderr and "newer" in result.stderr
    assert backup._is_empty(filled.url.render_as_string(hide_password=False))


def test_differences_that_the_backup_holds_are_restored_and_said(rollcall, filled: Engine, file: Path) -> None:
    with transaction(filled) as conn:
        conn.execute(text("UPDATE day_count SET snapshots = snapshots + 1"))
    _done(rollcall("db", "backup", str(file)))
    _empty(filled)

    result = rollcall("db", "restore", str(file))

    assert result.exit_code == 1
    assert "db check" in result.stderr
    assert _done(rollcall("db", "check", "--repair"))


def test_a_database_of_something_else_is_not_backed_up(rollcall, engine: Engine, file: Path) -> None:
    _empty(engine)
    with transaction(engine) as conn:
        conn.execute(text("CREATE TABLE pond (duck text)"))

    result = rollcall("db", "backup", str(file))

    assert (result.exit_code, "isn't Rollcall's" in result.stderr) == (1, True)
    assert not file.exists()


def test_a_backup_of_something_else_is_refused(rollcall, engine: Engine, file: Path) -> None:
    url = engine.url.render_as_string(hide_password=False)
    _empty(engine)
    backup._work(backup._tools(url) / "pg_dump", "--format=custom", f"--file={file}", url=url, started=print)

    result = rollcall("db", "restore", str(file))

    assert (result.exit_code, "something else" in result.stderr) == (1, True)


def test_what_is_no_file_keeps_its_place(rollcall, engine: Engine, file: Path) -> None:
    """As root, renaming would replace /dev/null or a pipe."""
    os.mkfifo(file)

    result = rollcall("db", "backup", str(file))

    assert (result.exit_code, "no file" in result.stderr) == (1, True)
    assert file.is_fifo()


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> Callable[[str], None]:
    """Return what puts a script in the place of pg_dump; `$REAL` is the tool itself."""
    real = backup._tools(database_url)
    version = max(version for version, folder in backup._installed() if folder == real)
    folder = tmp_path / "bin"

    def replaced(script: str) -> None:
        folder.mkdir()
        (folder / "pg_dump").write_text(f"#!/bin/sh\nREAL={real / 'pg_dump'}\n{script}\n")
        (folder / "pg_dump").chmod(0o755)
        (folder / "pg_restore").symlink_to(real / "pg_restore")
        monkeypatch.setattr(backup, "_installed", lambda: iter([(version, folder)]))

    return replaced


@pytest.mark.parametrize(
    ("script", "said_of_it"),
    [
        ('"$REAL" "$@"; echo "pg_dump: error: disk full" >&2; exit 1', "disk full"),
        ('"$REAL" "$@"; kill -9 $$', "pg_dump: it was ended"),
        ('"$REAL" "$@"; for a in "$@"; do case $a in --file=*) truncate -s -100 "${a#--file=}";; esac; done', "read"),
    ],
    ids=["fails", "is killed", "writes half"],
)
def test_a_backup_that_fails_leaves_the_last_one_and_nothing_beside_it(
    rollcall, filled: Engine, file: Path, tool, script: str, said_of_it: str
) -> None:
    (folder := file.parent / "backups").mkdir()
    file = folder / "rollcall.dump"
    _done(rollcall("db", "backup", str(file)))
    last = file.read_bytes()
    tool(script)

    result = rollcall("db", "backup", str(file))

    assert result.exit_code == 1
    assert said_of_it in result.stderr
    assert file.read_bytes() == last
    assert list(folder.iterdir()) == [file]


def test_only_its_owner_can_read_a_backup(rollcall, filled: Engine, file: Path) -> None:
    _done(rollcall("db", "backup", str(file)))
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_password_is_on_no_command_line(rollcall, engine: Engine, file: Path, tool, tmp_path: Path) -> None:
    tool(f'echo "$@" > {tmp_path}/arguments; echo "$PGPASSWORD" > {tmp_path}/password; exec "$REAL" "$@"')
    url = make_url(engine.url).set(password="gr4y l4g'%")

    _done(rollcall("db", "backup", str(file), DATABASE_URL=url.render_as_string(hide_password=False)))

    assert "gr4y" not in (tmp_path / "arguments").read_text()
    assert (tmp_path / "password").read_text() == "gr4y l4g'%\n"


def test_tools_that_are_too_old_are_named_with_the_version_that_is_needed(
    rollcall, engine: Engine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_installed", lambda: iter([(9, Path("/opt/old"))]))

    result = rollcall("db", "backup", str(file))

    assert result.exit_code == 1
    assert "9 in /opt/old" in result.stderr
    assert "pg_dump and pg_restore of 1" in result.stderr


def test_tools_on_the_path_are_found_where_the_embedded_server_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str
) -> None:
    real = backup._tools(database_url)
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).symlink_to(real / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(backup, "find_spec", lambda _: None)

    assert backup._tools(database_url) == tmp_path


@pytest.mark.parametrize(
    "wrong",
    [
        ("db", "backup", "nowhere/rollcall.dump"),
        ("db", "backup", "."),
        ("db", "restore", "nothing.dump"),
        ("db", "restore", "here.dump", "--replace", "--into", "there"),
    ],
)
def test_wrong_use_is_said_before_anything_happens(rollcall, wrong: tuple[str, ...]) -> None:
    Path("here.dump").touch()
    assert rollcall(*wrong).exit_code == 2
