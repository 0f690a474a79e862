"""Nothing costs more than the baseline says, in counts that don't depend on the machine's speed."""

import json
from datetime import date
from pathlib import Path

import pytest

from pipeline import scaling
from tests.performance import baseline
from tests.performance.baseline import Found
from tests.performance.counting import Count, Counts
from tests.performance.regression import AREAS, HOW_TO

DAY = date(2026, 3, 2)


@pytest.mark.parametrize("area", AREAS)
def test_nothing_costs_more_than_the_baseline_says(
    area: str, database_url: str, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = AREAS[area](database_url, redis_url)
    found = baseline.compare(area, counts)
    if better := [one for one in found if one.is_better]:
        with capsys.disabled():
            print("", *(f"Better: {one}" for one in better), f"Let the baseline know: {HOW_TO}", sep="\n")
    worse = [str(one) for one in found if one.is_worse]
    assert not worse, "\n".join([*worse, f"If that is meant: {HOW_TO}"])
    assert not baseline.gone(area, counts), HOW_TO


def test_scaling_reckons_with_what_a_row_takes() -> None:
    found = baseline.compare("disk", {"numbers of a day: disk": Count(scaling.SNAPSHOT_BYTES, "bytes on disk")})
    assert found[0].value == pytest.approx(found[0].was, rel=0.1)


@pytest.mark.parametrize(
    ("value", "is_worse", "is_better"),
    [(100, False, False), (105, False, False), (106, True, False), (94, False, True)],
)
def test_what_differs_by_more_than_its_tolerance_is_worse_or_better(
    value: float, is_worse: bool, is_better: bool
) -> None:
    found = Found("a read", value, "rows", 100, 0.05)
    assert (found.is_worse, found.is_better) == (is_worse, is_better)


def test_what_the_baseline_does_not_know_is_told_and_what_nobody_counts_any_more(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    baseline.update({"area": {"old": Count(1, "statements")}}, "First", today=DAY, file=file)

    (new,) = baseline.compare("area", {"new": Count(1, "statements")}, file)

    assert new.is_worse and str(new) == "new: 1 statements, isn't in the baseline"
    assert baseline.gone("area", {"new": Count(1, "statements")}, file) == ["old"]


def test_another_python_is_not_compared_in_what_follows_it(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    counts: Counts = {"calls": Count(50, "calls", follows_python=True), "bytes": Count(7, "bytes")}
    baseline.update({"area": counts}, "First", today=DAY, file=file)
    assert [one.name for one in baseline.compare("area", counts, file)] == ["calls", "bytes"]

    file.write_text(file.read_text().replace('"python": "', '"python": "0'))

    assert [one.name for one in baseline.compare("area", counts, file)] == ["bytes"]


def test_an_update_rewrites_what_changed_and_tells_why_and_leaves_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    first: Counts = {"same": Count(100, "rows"), "worse": Count(3, "statements"), "gone": Count(1, "commits")}
    baseline.update({"area": first}, "First", today=DAY, file=file)
    then: Counts = {"same": Count(102, "rows"), "worse": Count(4, "statements")}

    assert baseline.update({"area": then}, "A fourth statement asks for “rights”", today=DAY, file=file) == [
        "area: worse: 3 → 4",
        "area: gone: 1 → None",
    ]

    said = json.loads(file.read_text())
    assert said["counts"]["area"] == {
        "same": {"value": 100, "unit": "rows", "tolerance": 0.05},
        "worse": {"value": 4, "unit": "statements", "tolerance": 0.0},
    }
    assert [one["reason"] for one in said["history"]] == ["First", "A fourth statement asks for “rights”"]
    assert said["history"][1]["changes"] == {"area: worse": [3, 4], "area: gone": [1, None]}
    before = file.read_text()
    assert baseline.update({"area": then}, "Nothing", today=DAY, file=file) == []
    assert file.read_text() == before
