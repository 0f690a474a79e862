"""A ratio that got worse than the baseline's noise is found, and an update says why."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.performance import __main__ as bench
from tests.performance import baseline, ratios
from tests.performance.counting import Count
from tests.performance.report import Chapter, Line, middle

DAY = date(2026, 3, 2)


def costs(*rounds: float, **bounds: Any) -> list[Chapter]:
    return [Chapter("Reads", [middle("page / bare", rounds, "times", **(bounds or {"at_most": 9.0}))])]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a baseline in which a page costs twice as much as what is bare, give or take a tenth."""
    file = tmp_path / "baseline.json"
    ratios.update("db", costs(1.9, 2.0, 2.2), "First", today=DAY, file=file)
    return file


@pytest.mark.parametrize(
    ("rounds", "is_worse", "is_better"),
    [
        ([2.0, 2.0, 2.0], False, False),
        ([2.2, 2.2, 2.2], False, False),
        ([2.3, 2.3, 2.3], True, False),
        # Its own rounds are too far apart to say so.
        ([2.0, 2.3, 3.0], False, False),
        ([1.9, 1.9, 1.9], False, False),
        ([1.8, 1.8, 1.8], False, True),
    ],
    ids=str,
)
def test_what_lies_beyond_the_noise_is_worse_or_better(
    rounds: Sequence[float], is_worse: bool, is_better: bool, file: Path
) -> None:
    (found,) = ratios.compare("db", costs(*rounds), file)

    assert (found.is_worse, found.is_better) == (is_worse, is_better)


@pytest.mark.parametrize(
    ("value", "bounds", "is_worse", "is_better"),
    [
        (1.0, {"at_least": 0.1}, True, False),
        (3.0, {"at_least": 0.1}, False, True),
        (1.0, {"at_least": 0.1, "at_most": 9.0}, True, False),
        (3.0, {"at_least": 0.1, "at_most": 9.0}, True, False),
    ],
    ids=["less of what should be much", "more of it", "less of what should stay", "more of it "],
)
def test_the_bound_says_which_way_is_worse(
    value: float, bounds: dict[str, float], is_worse: bool, is_better: bool, file: Path
) -> None:
    (found,) = ratios.compare("db", costs(value, value, **bounds), file)

    assert (found.is_worse, found.is_better) == (is_worse, is_better)


def test_two_quiet_runs_may_differ_by_a_little(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    ratios.update("db", costs(2.0, 2.0, 2.0), "First", today=DAY, file=file)

    assert [ratios.compare("db", costs(value, value), file)[0].is_worse for value in (2.09, 2.11)] == [False, True]


def test_what_depends_on_the_machine_or_has_no_bound_or_no_noise_is_not_compared(file: Path) -> None:
    lines = [
        middle("time", [1.0, 2.0], "ms", at_most=9),
        middle("free", [1.0, 2.0], "times"),
        Line("once", 1.0, "times", at_most=9),
        Line("not run", None, at_most=9),
    ]

    assert ratios.compare("db", [Chapter("Reads", lines)], file) == []


def test_what_is_new_is_no_failure_and_what_was_not_measured_is_told(file: Path) -> None:
    (found,) = ratios.compare("db", [Chapter("Writes", [middle("other", [1.0, 1.0], at_most=9)])], file)

    assert not found.is_worse
    assert str(found) == "Writes: other: 1, isn't in the baseline"
    assert ratios.gone("db", [], file) == ["Reads: page / bare"]
    assert (ratios.knows("db", file), ratios.knows("api", file)) == (True, False)


def test_an_update_rewrites_what_changed_and_tells_why_and_leaves_the_counts(file: Path) -> None:
    baseline.update({"jobs": {"a job": Count(3, "statements")}}, "Counts", today=DAY, file=file)
    counts = json.loads(file.read_text())["counts"]
    before = file.read_text()

    assert ratios.update("db", costs(2.1, 2.1, 2.1), "Nothing", today=DAY, file=file) == []
    assert file.read_text() == before
    writes = [Chapter("Writes", [middle("upsert / copy", [0.5, 0.5], at_least=0.4)])]
    ratios.update("db", [*costs(2.1, 2.1, 2.1), *writes], "Writes, too", today=DAY, file=file)
    found = [*costs(3.0, 3.1, 3.5), Chapter("Writes", [middle("upsert / copy", [0.49, 0.49], at_least=0.4)])]
    assert ratios.update("db", found, "Pages say more", today=DAY, file=file) == ["db: Reads: page / bare: 2.0 → 3.1"]

    said = json.loads(file.read_text())
    assert said["counts"] == counts
    assert said["ratios"] == {
        "db": {
            "Reads": {"page / bare": {"value": 3.1, "low": 3.0, "high": 3.5}},
            "Writes": {"upsert / copy": {"value": 0.5, "low": 0.5, "high": 0.5}},
        }
    }
    last = said["history"][-1]
    assert (last["reason"], last["changes"]) == ("Pages say more", {"db: Reads: page / bare": [2.0, 3.1]})
    baseline.update({"jobs": {"a job": Count(4, "statements")}}, "A fourth", today=DAY, file=file)
    assert json.loads(file.read_text())["ratios"] == said["ratios"]


@pytest.mark.parametrize(("found", "code"), [(2.0, 0), (3.0, 1)])
def test_a_check_fails_by_what_got_worse_not_by_a_bound_that_is_missed(
    found: float, code: int, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def area(options: object) -> Iterator[Chapter]:
        yield from costs(found, found, at_most=1.0)

    monkeypatch.setattr(bench, "BASELINE", file)
    monkeypatch.setattr(bench, "AREAS", {"db": area})
    monkeypatch.setattr(sys, "argv", ["bench", "db", "--check", "--out", str(file.parent)])

    assert bench.main() == code

    said = capsys.readouterr().out
    assert "Missed: page / bare" in said
    assert ("Worse: Reads: page / bare: 3, was 2 (1.9 to 2.2)" in said) is (code == 1)


def test_a_check_without_a_baseline_says_how_to_make_one(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "BASELINE", file)
    monkeypatch.setattr(sys, "argv", ["bench", "api", "--check"])

    with pytest.raises(SystemExit):
        bench.main()

    assert "the baseline has no ratios of api: write them by --update" in capsys.readouterr().err
