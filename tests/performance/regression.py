"""`./dev bench regression`: costs as counts, compared with the baseline, or written into it."""

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from deploy import embedded
from tests import databases
from tests.conftest import FAST
from tests.performance import baseline, counting
from tests.performance.baseline import Found
from tests.performance.counting import Counts

HOW_TO = './dev bench regression --update --reason "…"'
# By the address of an empty database and of a Redis that may be emptied.
AREAS: Mapping[str, Callable[[str, str], Counts]] = {
    "answers": counting.answers,
    "jobs": counting.jobs,
    "memory": lambda database_url, _: counting.memory(database_url),
    "disk": lambda database_url, _: counting.disk(database_url),
    "calls": lambda *_: counting.calls(),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench regression", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write what was found into the baseline")
    parser.add_argument("--reason", default="", help="why it changed, for the baseline's history")
    options = parser.parse_args()
    if options.update and not options.reason.strip():
        parser.error("--update needs --reason: what has changed, and why that is right")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    areas = _counted()
    if options.update:
        changes = baseline.update(areas, options.reason, today=datetime.now(UTC).date())
        print("\n".join(changes) or "Nothing has changed: the baseline stays as it is.")
        return 0
    console = Console()
    found = {area: baseline.compare(area, counts) for area, counts in areas.items()}
    for area, compared in found.items():
        console.print(_table(area, compared))
    return _verdict([one for compared in found.values() for one in compared])


def _table(area: str, found: list[Found]) -> Table:
    table = Table(title=area, title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("found", "baseline", "at most"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for one in found:
        was, most = ("–", "–") if one.was is None else (f"{one.was:,g}", f"{one.most:,g}")
        table.add_row(one.name, f"{one.value:,g}", was, most, one.unit, style="red" if one.is_worse else None)
    return table


def _verdict(found: list[Found]) -> int:
    worse = [one for one in found if one.is_worse]
    for one in worse:
        print(f"Worse: {one}")
    for one in found:
        if one.is_better:
            print(f"Better: {one}")
    if any(one.is_worse or one.is_better for one in found):
        print(f"If that is meant: {HOW_TO}")
    return 1 if worse else 0


def _counted() -> dict[str, Counts]:
    # Not below a folder of root's alone: PostgreSQL runs as another user then.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-bench-"))
    try:
        postgres = embedded.start_postgres(folder / "postgres", FAST)
        redis = embedded.start_redis(folder / "redis")
        try:
            databases.make_template(postgres.url)
            found = {}
            for area, count in AREAS.items():
                with databases.copied(postgres.url) as database_url:
                    found[area] = count(database_url, redis.url)
            return found
        finally:
            redis.stop()
            postgres.stop()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
