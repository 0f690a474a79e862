"""That the benchmark of promises measures what it says, in small, and that every promise names what holds it."""

import re
from pathlib import Path

import pytest

from tests.browser import chromium
from tests.performance import promises

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "performance.md"


@pytest.mark.skipif(chromium.chromium() is None, reason=chromium.HOW_TO_GET_IT)
def test_a_small_run_goes_through_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    small = promises.Size(accounts=200, days=8, hits=20, misses=3, zipf_s=3, readings=2, visits=1)
    monkeypatch.setattr(promises, "QUICK", small)

    chapters = list(promises.run(quick=True))

    bounded = [line for chapter in chapters for line in chapter.lines if line.is_met is not None]
    assert [line.at_least for line in bounded] == [10, 10, 10, 80, 10, 10, 10]
    assert all(line.value is not None and line.value > 0 for line in bounded)


def test_every_promise_names_a_row_or_a_test_that_there_is() -> None:
    rows = _table()
    held_by = [named for _, _, cell in rows for named in cell.split("; ")]
    tests = {
        name
        for file in HERE.parent.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }

    assert len(rows) > 30
    for named in held_by:
        area, _, row = named.partition(": ")
        if row:
            source = (HERE / f"{area.strip('`')}.py").read_text()
            # A number that hangs on the size of a run is `…` in the table.
            assert all(part in source for part in row.split("…")), f"./dev bench {area} has no row {row!r}"
        else:
            assert named.strip("`") in tests, f"there is no {named}"


def _table() -> list[list[str]]:
    """Return the rows of the table: promise, bound, what holds it."""
    after = PAGE.read_text().partition("<!-- each is looked for by tests/performance/test_promises.py -->")[2]
    lines = after.strip().partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
