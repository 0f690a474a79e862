"""Load on API and pipeline together, in a system of its own; with --soak, everything is killed and restarted meanwhile.

It prints a table, writes a page and its numbers, and ends with 1 where something didn't hold.
"""

import argparse
import signal
import sys
from pathlib import Path
from random import randrange

import msgspec
from rich.console import Console
from rich.table import Table

from tests.performance import facts
from tests.performance.load import page, phases, soak
from tests.performance.load.generator import MOST_REQUESTS
from tests.performance.load.phases import Load
from tests.performance.load.soak import Soak
from tests.performance.machine import HERE

FOLDER = HERE / ".benchmarks"
MOST_MINUTES = 24 * 60
MOST_RATE = 20_000
# Of what is written to a file.
WIDTH = 120
QUICK = {"seconds": 6.0, "step_s": 3.0, "most_steps": 6}


def main() -> int:
    options = _options()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    machine = facts.look()
    say(f"Seed {options.seed}; {machine.line}.")
    found: Load | Soak
    if options.soak:
        found = soak.run(minutes=options.minutes, seed=options.seed, rate=options.rate or soak.RATE, say=say)
        text, is_met = page.of_soak(found, machine), _show_soak(found, console)
    else:
        quick = QUICK if options.quick else {}
        found = phases.run(seed=options.seed, rate=options.rate or phases.RATE, say=say, **quick)
        text, is_met = page.of_load(found, machine), _show_load(found, console)
    name = "soak" if options.soak else "load"
    (folder / f"{name}.html").write_text(text)
    (folder / f"{name}.json").write_bytes(msgspec.json.encode({"machine": machine, name: found}))
    say(f"{folder / name}.html shows it, {name}.json beside it has the numbers.")
    return 0 if is_met else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev load", description=__doc__)
    parser.add_argument("--soak", action="store_true", help="sweeps, load, kills and restarts, for some time")
    parser.add_argument("--minutes", type=float, default=30, help="how long a soak lasts (30); five more for its end")
    parser.add_argument("--seed", type=int, help="repeats what is asked for, spoiled and struck")
    parser.add_argument("--rate", type=float, help=f"requests a second ({phases.RATE:g}; in a soak {soak.RATE:g})")
    parser.add_argument("--quick", action="store_true", help="less of everything: to try it out, not to judge")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="where the page is written")
    options = parser.parse_args()
    if not 0 < options.minutes <= MOST_MINUTES:
        parser.error(f"--minutes: {options.minutes:g} is not between 0 and {MOST_MINUTES}")
    if options.rate is not None and not 0 < options.rate <= MOST_RATE:
        parser.error(f"--rate: {options.rate:g} is not between 0 and {MOST_RATE}")
    if options.soak and (options.rate or soak.RATE) * options.minutes * 60 > MOST_REQUESTS:
        parser.error(f"--rate and --minutes: together more than {MOST_REQUESTS:,} requests")
    if options.soak and options.quick:
        parser.error("--quick is for a load; a soak is as long as --minutes says")
    if options.seed is None:
        options.seed = randrange(10**6)
    return options


def _show_load(load: Load, console: Console) -> bool:
    table = Table(
        "phase", "asked", "failed", "p50", "p90", "p99", "p99.9", "most, ms", "hits", "read", title_justify="left"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for one in load.phases:
        times = one.offered.times
        numbers = (times.p50, times.p90, times.p99, times.p999, times.most)
        table.add_row(
            one.name,
            f"{one.offered.asked:,}",
            f"{one.failed:,}",
            *map(page.as_ms, numbers),
            "" if one.hit_rate_pct is None else f"{one.hit_rate_pct:.1f} %",
            f"{one.read:,}",
        )
    console.print(table)
    knee = load.knee
    if knee.left is None:
        console.print(f"The knee was not found up to {knee.held or 0:,.0f} requests a second.")
    else:
        console.print(f"The knee lies between {knee.held or 0:,.0f} and {knee.left:,.0f} requests a second.")
    for missed in load.missed:
        console.print(f"[red]Missed:[/red] {missed}")
    return not load.missed


def _show_soak(found: Soak, console: Console) -> bool:
    table = Table("", "promise", "figures")
    words = {True: "[green]held[/green]", False: "[red]BROKEN[/red]", None: "not judged"}
    for one in found.verdicts:
        table.add_row(words[one.is_met], one.name, "\n".join([one.said, *one.reasons]))
    console.print(table)
    return all(one.is_met is not False for one in found.verdicts)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is stopped
    sys.exit(main())
