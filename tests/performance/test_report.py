"""The verdict of a benchmark: a bound that isn't met fails the run."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.performance import __main__ as bench
from tests.performance.report import Chapter, Line, middle


@pytest.mark.parametrize(
    ("line", "is_met"),
    [
        (Line("free", 3.0), None),
        (Line("enough", 20.0, at_least=20), True),
        (Line("too little", 19.9, at_least=20), False),
        (Line("little enough", 16.0, at_most=16), True),
        (Line("too much", 16.1, at_most=16), False),
        (Line("between", 2.0, at_least=3, at_most=4), False),
    ],
)
def test_a_line_is_judged_by_its_bounds(line: Line, is_met: bool | None) -> None:
    assert line.is_met is is_met


def test_rounds_are_shown_by_their_median_and_their_spread() -> None:
    line = middle("rate", [5.0, 1.0, 3.0], "accounts/s", at_least=2)

    assert (line.value, line.low, line.high, line.is_met) == (3.0, 1.0, 5.0, True)


@pytest.mark.parametrize(("value", "code"), [(25.0, 0), (5.0, 1)])
def test_a_run_fails_where_a_bound_is_missed_and_writes_all_the_same(
    value: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def area(options: object) -> Iterator[Chapter]:
        yield Chapter("Throughput", [Line("as a multiple", value, "times", at_least=20)])

    monkeypatch.setattr(bench, "AREAS", {"pipeline": area})
    monkeypatch.setattr(sys, "argv", ["bench", "pipeline", "--json", str(tmp_path / "found.json")])

    assert bench.main() == code

    (chapter,) = json.loads((tmp_path / "found.json").read_text())["chapters"]
    (line,) = chapter["lines"]
    assert (line["value"], line["is_met"]) == (value, code == 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["moon"], "invalid choice: 'moon'"),
        (["pipeline", "--json", "nowhere/found.json"], "there is no folder nowhere"),
        (["pipeline", "--profile", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_measured(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])

    with pytest.raises(SystemExit):
        bench.main()

    assert said in capsys.readouterr().err
