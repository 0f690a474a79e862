"""`./dev run`: from nothing to numbers on this machine, and everything stopped again at the end.

Servers, schema, account list, the Procfile's processes, the first reading, and then it stays until Ctrl-C.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from db import keys, migrate, overview, progress, writes
from db.engine import DatabaseError, Engine, make_engine, reading
from deploy import past, ports
from deploy.embedded import ServerMissing
from deploy.servers import FOLDER, HERE, Busy, Servers, given, lock, say, servers
from pipeline import accounts, platforms
from pipeline.account_file import NotAList
from pipeline.settings import Settings, SettingsError, load_settings

FIRST_LIST = HERE / "deploy" / "accounts" / "hhs.csv"
ALWAYS = ("api", "beat", "flower", "notifier", "recorder")
# Twenty processes start at once, and a small machine may be busy with something else.
API_READY_S = 120
FLOWER_USER = "rollcall"
LOOK_S = 0.5
# Beyond what its processes take at most.
STOP_MARGIN_S = 5.0
# A stop that takes longer than this says why.
LONG_STOP_S = 3.0

console = Console()


class Stopped(Exception):
    """Ctrl-C or SIGTERM: leave in order."""


class Failed(Exception):
    """What keeps Rollcall from running; the message is for the person who started it."""


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with lock() as held:
            return _run(options, stop, held)
    except Busy as exc:
        console.print(f"Rollcall is running in this folder already ({exc}). Stop that one first, or use it.")
        return 1
    except DatabaseError as exc:
        console.print(f"The database doesn't answer: {str(exc.orig).splitlines()[0]}", style="red", markup=False)
        return 1
    except (Failed, ServerMissing, SettingsError, migrate.Newer) as exc:
        console.print(str(exc), style="red", markup=False)
        return 1
    except Stopped:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev run", description="Run Rollcall on this machine.")
    parser.add_argument("--once", action="store_true", help="stop with 0 when everything that is due has been read")
    parser.add_argument("--live", action="store_true", help="read the real platforms instead of the simulator")
    parser.add_argument("--accounts", type=_file, metavar="FILE", help="the list imported on the first run")
    return parser


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def _run(options: argparse.Namespace, stop: threading.Event, held: IO[str]) -> int:
    extra = {name: str(port) for name, port in _ports().items()}
    if not options.live:
        extra["SIMULATOR_URL"] = f"http://127.0.0.1:{extra['SIMULATOR_PORT']}"
    if "FLOWER_BASIC_AUTH" not in given():
        extra["FLOWER_BASIC_AUTH"] = f"{FLOWER_USER}:{_flower_password()}"
    with servers(**extra) as (running, environment):
        if options.live:
            environment = {k: v for k, v in environment.items() if k != "SIMULATOR_URL"}
        settings = load_settings(environment)
        engine = make_engine(settings.database_url.get_secret_value(), pool_size=1, application_name="rollcall run")
        try:
            _prepare(engine, settings, options)
            return _serve(engine, settings, environment, options, stop, held, running)
        finally:
            engine.dispose()


def _prepare(engine: Engine, settings: Settings, options: argparse.Namespace) -> None:
    """Bring the schema up to date, refuse to mix live and simulated numbers, import the list on the first run."""
    migrate.upgrade(settings.database_url.get_secret_value(), partition_months=settings.partition_months)
    with reading(engine) as conn:
        holds = writes.source_of(conn)
        empty = not progress.platforms_in_use(conn)
    if holds not in (None, settings.source):
        mend = (
            "Remove them with `./dev rollcall demo clear`, then run this again."
            if holds == "simulated"
            else "Run it with --live, or set DATABASE_URL to another database."
        )
        raise Failed(f"This database holds {holds} numbers, and {settings.source} ones never mix with them. {mend}")
    if empty:
        _import(engine, options.accounts or FIRST_LIST)
    elif options.accounts:
        console.print(
            "The database has accounts already: `rollcall accounts import FILE` brings in more.", style="yellow"
        )
    if settings.simulator_url:
        _simulate_past(engine, settings)


def _import(engine: Engine, file: Path) -> None:
    try:
        report = accounts.import_list(engine, file.read_bytes(), now=datetime.now(UTC))
    except (NotAList, OSError) as exc:
        raise Failed(f"{file}: {exc}") from exc
    console.print(f"Imported {file.name}: {', '.join(f'{n} {word}' for word, n in report.counts.items())}")
    for row in report.rows:
        if row.verdict in ("rejected", "duplicate"):
            console.print(f"  row {row.row} {row.verdict}: {row.reason}", markup=False, soft_wrap=True)


def _simulate_past(engine: Engine, settings: Settings) -> None:
    """Give a database without numbers the weeks before today, so that trends show something."""
    began = time.monotonic()
    try:
        written = past.write(engine, settings, now=datetime.now(UTC))
    except past.TooManyAccounts:
        console.print(
            f"A list of more than {past.MOST_ACCOUNTS:,} accounts gets no simulated past: trends begin today.",
            style="yellow",
        )
        return
    if written is not None and written.snapshots:
        took_s = time.monotonic() - began
        readings = f"{written.snapshots:,} readings of {written.accounts} accounts in {took_s:.1f} s"
        console.print(f"Simulated the {past.DAYS} days before today: {readings}", soft_wrap=True)


def _serve(
    engine: Engine,
    settings: Settings,
    environment: Mapping[str, str],
    options: argparse.Namespace,
    stop: threading.Event,
    held: IO[str],
    running: Servers,
) -> int:
    """Start the processes, show the first reading, and stay with them."""
    address = f"http://127.0.0.1:{settings.port}/"
    started: dict[str, subprocess.Popen[bytes]] = {}
    names = [*ALWAYS, *(["simulator"] if settings.simulator_url else []), *_workers(engine)]
    log = FOLDER / "processes.log"
    with _processes(started, environment, log, stop_s=settings.stop_s + STOP_MARGIN_S) as start:
        start(names)
        if settings.simulator_url:
            console.print(
                "[yellow]Simulated numbers:[/] no platform is asked. `./dev run --live` reads the real ones."
            )
        _wait_for_api(address, stop, started, log)
        say(held, f"pid {os.getpid()}, {address}")
        _read_all(engine, stop, started, log)
        _say_what_is_not_fresh(engine, settings)
        _say_how_to_sign_in(engine)
        console.print(f"Dashboard: [bold]{address}[/]", soft_wrap=True)
        console.print(f"Flower: http://127.0.0.1:{settings.flower_port}/{_flower_door()}", soft_wrap=True)
        console.print(f"Log: {log.relative_to(HERE)}")
        if options.once:
            return 0
        console.print("Ctrl-C stops everything.")
        while not stop.wait(LOOK_S * 4):
            _check(started, log)
            for server in running.revive():
                console.print(f"{server} had died: started again.", style="yellow")
            # Accounts of a platform that had none may have been imported meanwhile.
            with suppress(DatabaseError):  # another's database is away: whoever needs it waits for it, as we do
                new = [name for name in _workers(engine) if name not in names]
                start(new)
                names += new
        return 0


@contextmanager
def _processes(
    started: dict[str, subprocess.Popen[bytes]], environment: Mapping[str, str], log: Path, *, stop_s: float
) -> Iterator[Callable[[list[str]], None]]:
    """Yield a function that starts processes of the Procfile; stop them all at the end.

    Workers finish the calls under way, for which they have `stop_s` seconds; a second Ctrl-C ends them at once.
    """

    def start(names: list[str]) -> None:
        if not names:
            return
        command = [sys.executable, "-m", "deploy.processes", *names]
        with log.open("ab") as out:
            # A session of its own: Ctrl-C is ours to hand on, in order.
            process = subprocess.Popen(
                command, cwd=HERE, env=dict(environment), stdout=out, stderr=out, start_new_session=True
            )
        started[" ".join(names)] = process

    try:
        yield start
    finally:
        _stop(list(started.values()), stop_s)


def _stop(processes: Sequence[subprocess.Popen[bytes]], within_s: float) -> None:
    """Let the processes stop in order; asked again, at once."""

    def end(*_: Any) -> None:
        for process in processes:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    end()
    if _ended(processes, LONG_STOP_S):
        return
    console.print("Finishing the calls under way; Ctrl-C again ends them.")
    if not _ended(processes, within_s):
        for process in processes:
            process.kill()
            process.wait()


def _ended(processes: Sequence[subprocess.Popen[bytes]], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _workers(engine: Engine) -> list[str]:
    """Return the worker processes of platforms that have both accounts and a reader."""
    with reading(engine) as conn:
        used = progress.platforms_in_use(conn)
    return [f"worker_{name}" for name in used if name in platforms.load() and platforms.load()[name].calls]


def _wait_for_api(
    address: str, stop: threading.Event, started: Mapping[str, subprocess.Popen[bytes]], log: Path
) -> None:
    deadline = time.monotonic() + API_READY_S
    while not stop.wait(0.1):
        _check(started, log)
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{address}healthz", timeout=2):  # noqa: S310  # our own address
            return
        if time.monotonic() > deadline:
            raise Failed(f"The API did not answer within {API_READY_S} s; see {log}")
    raise Stopped


def _read_all(
    engine: Engine, stop: threading.Event, started: Mapping[str, subprocess.Popen[bytes]], log: Path
) -> None:
    """Show how far it has come until everything that is due was read or has a reason why not."""
    columns = (SpinnerColumn(), TextColumn("Reading"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar, reading(engine) as conn:
        task = bar.add_task("reading", total=None)
        while True:
            seen = progress.of_reading(conn)
            bar.update(task, completed=seen.done, total=seen.wanted)
            if seen.done >= seen.wanted:
                return
            _check(started, log)
            if stop.wait(LOOK_S):
                raise Stopped


def _say_what_is_not_fresh(engine: Engine, settings: Settings) -> None:
    """Name what a full bar hides: accounts without new numbers, and why."""
    with reading(engine) as conn:
        groups = overview.groups(conn, now=datetime.now(UTC), stale_after=settings.stale_after)
    for group in groups:
        if group.status != "fresh":
            said = f"{group.accounts} of {group.platform} {group.status}" + (
                f": {group.reason}" if group.reason else ""
            )
            console.print(said, style="yellow", markup=False, soft_wrap=True)


def _say_how_to_sign_in(engine: Engine) -> None:
    with reading(engine) as conn:
        has_key = any(key.revoked_at is None for key in keys.list_keys(conn))
    if not has_key:
        made = '`./dev rollcall keys create --name "Your name" --scope admin`'
        console.print(f"To sign in, for readings on demand and edits, make a key: {made}", soft_wrap=True)


def _check(started: Mapping[str, subprocess.Popen[bytes]], log: Path) -> None:
    for names, process in started.items():
        if process.poll() is not None:
            raise Failed(f"The processes ({names}) ended with {process.returncode}; see {log}")


def _ports() -> Mapping[str, int]:
    """Return the ports of this run, and say of one that was taken which one is used instead."""
    settings = given()
    try:
        found = ports.choose(settings)
    except ValueError as exc:
        raise Failed(str(exc)) from exc
    for name, port in ports.wanted(settings):
        if port not in (0, found[name]):
            console.print(f"{name} {port} is taken: using {found[name]}.")
    return found


def _flower_door() -> str:
    """Say who gets into Flower, unless the settings do."""
    return "" if "FLOWER_BASIC_AUTH" in given() else f" (user {FLOWER_USER}, password in .rollcall/flower.password)"


def _flower_password() -> str:
    """Return this checkout's password for Flower, made on the first run."""
    file = FOLDER / "flower.password"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(16))
    return file.read_text()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
