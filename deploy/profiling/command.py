"""`rollcall profile`: where a process spends its time, and what its memory is held by."""

import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import click

from deploy.profiling import calls, flames, inside, memory, started
from deploy.profiling.places import short
from pipeline.command import Fault, Misuse
from pipeline.settings import load_settings
from pipeline.terminal import note, show_table

_SUFFIX = {inside.SAMPLED: ".svg", "calls": ".prof", "memory": ".html"}
_KIB = 1024


@click.command("profile")
@click.argument("name", metavar="api|worker|planner", type=click.Choice(list(started.MODULES)))
@click.argument("arguments", metavar="[-- ARG…]", nargs=-1)
@click.option("--seconds", type=click.FloatRange(min=1), default=30, show_default=True, help="How long, in seconds.")
@click.option("--after", type=click.FloatRange(min=0), default=0, help="Begin so many seconds after its start.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@click.option("--pid", type=int, help="Attach to this process instead of starting one.")
@click.option("--cprofile", "is_counted", is_flag=True, help="Count every call by cProfile, instead of sampling.")
@click.option("--memory", "is_memory", is_flag=True, help="What it holds at the end that it didn't at the beginning.")
def profile(
    name: str,
    arguments: tuple[str, ...],
    seconds: float,
    after: float,
    out: Path | None,
    pid: int | None,
    is_counted: bool,
    is_memory: bool,
) -> None:
    """Start a process as the Procfile does and profile it: `rollcall profile worker -- x`. Ctrl-C ends it earlier.

    Writes a flame graph as SVG (--memory: as HTML; --cprofile: a file for `python -m pstats`), and prints what costs
    most. With --pid it attaches to one that runs, and leaves it running.
    """
    how = "memory" if is_memory else "calls" if is_counted else inside.SAMPLED
    if is_memory and is_counted:
        raise Misuse("--memory and --cprofile are two profiles: make one after the other.")
    if pid is not None and (arguments or after or how != inside.SAMPLED):
        raise Misuse(
            "--pid attaches and samples; --memory, --cprofile, --after and -- ARG… want a process of their own."
        )
    _check_tools(how)
    out = out or Path(f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}{_SUFFIX[how]}")
    if not out.absolute().parent.is_dir():
        raise Misuse(f"There is no folder {out.parent} to write {out.name} into.")
    with _stoppable() as stop:
        if pid is None:
            _profile_own(name, arguments, how, out, seconds=seconds, after=after, stop=stop)
        else:
            started.check_pid(pid, name)
            note(f"Process {pid} is profiled for {seconds:g} s; Ctrl-C ends that.")
            flames.record(pid, out, seconds=seconds, stop=stop)
            _show_samples(out)


def _check_tools(how: str) -> None:
    if how == "calls":
        try:
            calls.check()
        except calls.Unfit as exc:
            raise Fault(f"{exc}: sample without --cprofile.") from exc
    if how == inside.SAMPLED:
        flames.py_spy()
    for tool in ("psutil", "memray"):
        if not find_spec(tool):
            raise Fault(f"{tool} isn't installed: `pip install 'rollcall[profiling]'`.")


def _profile_own(
    name: str,
    arguments: tuple[str, ...],
    how: str,
    out: Path,
    *,
    seconds: float,
    after: float,
    stop: threading.Event,
) -> None:
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="rollcall-") as folder:
        with started.started(name, arguments, how, Path(folder), settings) as process:
            try:
                process.wait_until_ready(settings, stop)
            except started.Stopped:
                raise Fault("Stopped before there was anything to profile.") from None
            process.go_on(after, stop)
            if how != inside.SAMPLED:
                process.begin()
            note(f"{name} runs (pid {process.pid}) and is profiled for {seconds:g} s; Ctrl-C ends that.")
            written = {}
            if how == inside.SAMPLED:
                flames.record(process.pid, out, seconds=seconds, stop=stop)
            else:
                process.go_on(seconds, stop)
                written = process.end()
            process.check()
        # It has ended, and no longer takes the CPU that reading its profile needs.
        if how == "calls":
            _show_calls(out, list(written.values()))
        elif how == "memory":
            _show_memory(out, written)
        else:
            _show_samples(out)


def _show_samples(out: Path) -> None:
    show_table(
        ("own time", "samples", "function", "where"),
        ((f"{one.share:.1%}", one.samples, one.function, one.where) for one in flames.own(out)),
    )
    note(f"{out}: the flame graph. Open it in a browser; a click on a frame zooms.")


def _show_calls(out: Path, files: list[Path]) -> None:
    show_table(
        ("own CPU s", "calls", "function", "where"),
        (
            (f"{one.own_s:.3f}", f"{one.calls:,}", one.function, f"{short(one.file)}:{one.line}")
            for one in calls.merge(files, out)
        ),
    )
    note(f"{out}: all of it, for `python -m pstats`.")


def _show_memory(out: Path, written: Mapping[int, Path]) -> None:
    for pid, file in written.items():
        page = out if len(written) == 1 else out.with_stem(f"{out.stem}-{pid}")
        total, lines = memory.held(file)
        note(f"Process {pid} holds {total / _KIB:,.0f} KiB that it didn't at the beginning:")
        show_table(
            ("KiB", "blocks", "line", "our line that led there"),
            ((f"{one.size_bytes / _KIB:,.0f}", f"{one.blocks:,}", one.line, one.ours) for one in lines),
        )
        memory.draw(file, page)
        note(f"{page}: the flame graph. Open it in a browser.")


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Lend what Ctrl-C or SIGTERM set, so that what is there is written and the process under us is ended."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
