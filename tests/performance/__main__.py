"""`./dev bench AREA`: ratios, CPU and memory as tables; the exit code is 1 where a bound isn't met."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from tests.performance import api, dashboard, db, metrics, peers_area, pipeline
from tests.performance.report import Chapter, missed, show, write_json

AREAS: dict[str, Callable[[argparse.Namespace], Iterator[Chapter]]] = {
    "pipeline": lambda options: pipeline.run(options.profile),
    "api": lambda options: api.run(quick=options.quick),
    "db": lambda options: db.run(quick=options.quick),
    "dashboard": lambda options: dashboard.run(quick=options.quick),
    "metrics": lambda options: metrics.run(),
    "peers": lambda options: peers_area.run(quick=options.quick),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("area", nargs="?", choices=[*AREAS], help="what to measure; everything if left out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="profile the workers into it: they are slower then"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: to try it out, not to judge")
    options = parser.parse_args()
    if options.json and not options.json.parent.is_dir():
        parser.error(f"there is no folder {options.json.parent}")
    if options.profile and not options.profile.is_dir():
        parser.error(f"there is no folder {options.profile}")
    console = Console()
    chapters = []
    for name in [options.area] if options.area else AREAS:
        for chapter in AREAS[name](options):
            show(chapter, console)
            chapters.append(chapter)
    if options.json:
        write_json(chapters, options.json)
    for line in missed(chapters):
        console.print(f"[red]Missed:[/red] {line.name}: {line.value:.3g} {line.unit}")
    return 1 if missed(chapters) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is stopped
    sys.exit(main())
