"""`./dev bench AREA`: ratios, CPU and memory as tables and as a page; the exit code is 1 where a bound isn't met.

With --check it says instead whether a ratio got worse than the baseline's.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tests.performance import (
    api,
    baseline,
    bench_page,
    dashboard,
    db,
    facts,
    growth,
    metrics,
    peers_area,
    pipeline,
    promises,
    ratios,
    units,
)
from tests.performance.machine import HERE
from tests.performance.report import Chapter, missed, show, write_json

FOLDER = HERE / ".benchmarks"
BASELINE = baseline.FILE
# Of what is written to a file.
WIDTH = 150
AREAS: dict[str, Callable[[argparse.Namespace], Iterator[Chapter]]] = {
    "pipeline": lambda options: pipeline.run(options.profile, quick=options.quick),
    "api": lambda options: api.run(quick=options.quick),
    "db": lambda options: db.run(quick=options.quick),
    "dashboard": lambda options: dashboard.run(quick=options.quick),
    "metrics": lambda options: metrics.run(quick=options.quick),
    "units": lambda options: units.run(quick=options.quick),
    "growth": lambda options: growth.run(quick=options.quick),
    "promises": lambda options: promises.run(quick=options.quick),
    "peers": lambda options: peers_area.run(quick=options.quick),
}


def main() -> int:
    options = _options()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    bad = 0
    for area in [options.area] if options.area else AREAS:
        chapters = _measured(area, options, console)
        if options.update:
            changes = ratios.update(area, chapters, options.reason, today=datetime.now(UTC).date(), file=BASELINE)
            print("\n".join(changes) or "Nothing has changed: the baseline stays as it is.")
        elif options.check:
            bad += _worse(area, chapters, console)
        else:
            bad += len(missed(chapters))
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("area", nargs="?", choices=[*AREAS], help="what to measure; everything if left out")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="FOLDER", help="where page and numbers are written"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="profile the workers into it: they are slower then"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: to try it out, not to judge")
    parser.add_argument("--check", action="store_true", help="fail where a ratio is worse than the baseline's")
    parser.add_argument("--update", action="store_true", help="write the ratios into the baseline")
    parser.add_argument("--reason", default="", help="why they changed, for the baseline's history")
    options = parser.parse_args()
    if options.profile and not options.profile.is_dir():
        parser.error(f"there is no folder {options.profile}")
    if options.update and not options.reason.strip():
        parser.error("--update needs --reason: what has changed, and why that is right")
    if options.update and options.check:
        parser.error("--check compares with the baseline, --update rewrites it: one of them")
    if (options.update or options.check) and (options.quick or options.profile):
        parser.error("the baseline is of whole runs: leave out --quick and --profile")
    if options.check and options.area and not ratios.knows(options.area, BASELINE):
        parser.error(f'the baseline has no ratios of {options.area}: write them by --update --reason "…"')
    return options


def _measured(area: str, options: argparse.Namespace, console: Console) -> list[Chapter]:
    """Measure an area; show each chapter as it is found, and write all of them."""
    machine, began_at, chapters = facts.look(), time.time(), list[Chapter]()
    for chapter in AREAS[area](options):
        show(chapter, console)
        chapters.append(chapter)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    name = f"bench-{area}"
    write_json(chapters, machine, folder / f"{name}.json", area=area, began_at=began_at, is_quick=options.quick)
    text = bench_page.of_bench(area, chapters, machine, began_at=began_at, is_quick=options.quick)
    (folder / f"{name}.html").write_text(text)
    for line in missed(chapters):
        console.print(f"[red]Missed:[/red] {line.name}: {line.value:.3g} {line.unit}")
    console.print(f"{folder / name}.html shows it, {name}.json beside it has the numbers.", highlight=False)
    return chapters


def _worse(area: str, chapters: list[Chapter], console: Console) -> int:
    """Tell what differs from the baseline; return how much of it is worse."""
    found = ratios.compare(area, chapters, BASELINE)
    for one in found:
        if one.is_worse:
            console.print(f"[red]Worse:[/red] {one}", highlight=False)
        elif one.is_better:
            console.print(f"Better: {one}", highlight=False)
        elif one.was is None:
            console.print(f"New: {one}", highlight=False)
    for name in ratios.gone(area, chapters, BASELINE):
        console.print(f"Not measured: {name}", highlight=False)
    worse = sum(one.is_worse for one in found)
    known = sum(one.was is not None for one in found)
    console.print(f"{area}: {worse} of {known} ratios are worse than the baseline's.", highlight=False)
    return worse


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is stopped
    sys.exit(main())
