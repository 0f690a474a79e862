"""The verdict of a benchmark: a bound that isn't met fails the run."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.performance import __main__ as bench
from tests.performance import bench_page, facts
from tests.performance.report import Chapter, Growth, Line, middle
from tests.performance.rounds import Rounds


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
    monkeypatch.setattr(sys, "argv", ["bench", "pipeline", "--out", str(tmp_path / "new")])

    assert bench.main() == code

    found = json.loads((tmp_path / "new" / "bench-pipeline.json").read_text())
    assert found["machine"]["cpus"] > 0
    ((line,),) = [chapter["lines"] for chapter in found["chapters"]]
    assert (line["value"], line["is_met"]) == (value, code == 0)
    page = (tmp_path / "new" / "bench-pipeline.html").read_text()
    assert ("every bound met" in page) is (code == 0)
    assert ("1 of 1 bounds missed" in page) is (code == 1)


def test_a_line_says_if_more_rounds_would_change_it() -> None:
    steady = middle("steady", [1.0, 1.01, 0.99, 1.0, 1.02])
    torn = middle("torn", [1.0, 3.0, 0.5, 2.0, 4.0], "times")

    assert (steady.is_steady, steady.repeated) == (True, "5")
    assert (torn.is_steady, torn.repeated) == (False, "5, not steady")
    assert middle("once", [1.0]).is_steady is None
    assert middle("a time", [1.0, 3.0, 0.5], "ms").is_steady is None
    # The middle half is 1.5 wide, and twice as well known as by one round.
    assert middle("known", [1.0, 2.0, 3.0, 4.0]).within == pytest.approx(1.57 * 1.5 / 2)
    # Far below its bound it matters less.
    assert middle("little", [0.001, 0.003, 0.002], at_most=1).is_steady


@pytest.mark.parametrize(
    ("found", "rounds"),
    [([2.0, 1.0, 1.0, 1.0, 1.0], 3), ([2.0, 1.0, 3.0, 1.0, 3.0, 2.0, 2.0], 5)],
    ids=["at once", "never"],
)
def test_rounds_go_on_until_the_ratio_is_steady_or_there_are_enough(found: list[float], rounds: int) -> None:
    ratios: list[float] = []

    for number in Rounds(3, 5).until_steady(lambda: [middle("ratio", ratios)]):
        if number:
            ratios.append(found[number])

    assert len(ratios) == rounds


@pytest.mark.parametrize(
    ("chapter", "proof"),
    [
        (Chapter("bound", [Line("ratio", 1.0, at_most=2)], fails_when="it is slow"), "Seen to fail when it is slow."),
        (Chapter("bound", [Line("ratio", 1.0, at_most=2)]), "Never seen to fail."),
        (Chapter("missed", [Line("ratio", 3.0, at_most=2)]), ""),
        (Chapter("free", [Line("ratio", 3.0)]), ""),
    ],
    ids=lambda part: part.title if isinstance(part, Chapter) else "",
)
def test_a_chapter_says_how_its_bounds_were_seen_to_fail(chapter: Chapter, proof: str) -> None:
    assert chapter.proof == proof


def test_the_page_shows_spread_bound_and_growth_and_needs_no_network() -> None:
    lines = [
        middle("<b> / constant", [1.0, 1.5, 1.2], "times", at_most=1.1),
        middle("rate", [5.0, 6.0], "1/s"),
        Line("not run: it isn't there", None, at_least=1),
    ]
    growth = [
        Growth("a page", "ms", [(1, 1.0), (10, 1.1), (100, 1.2)], 0.04),
        Growth("an export", "ms", [(1, 1.0), (10, 9.0), (100, 110.0)], 1.02),
        Growth("memory", "MiB", [(1, 1.0), (100, 1.0)], 0.0),
    ]
    chapter = Chapter("Reads", lines, "an index is gone", growth)

    text = bench_page.of_bench("db", [chapter], facts.look(), began_at=0.0, is_quick=True)

    assert "<b> /" not in text
    for part in (
        "&lt;b&gt; / constant",
        "median 1.2 times, 1 to 1.5, at most 1.1: missed",
        "Seen to fail when an index is gone.",
        "an export: 1.02",
        "to try it out, not to judge",
        "not run: it isn&#x27;t there",
    ):
        assert part in text
    # The hatching, a line's spread each, a picture of growth for each unit.
    assert text.count("<svg") == 1 + 2 + 2
    assert text.count('class="cross"') == 1
    assert text.count("line dashed") == 3
    assert "http://" not in text and "https://" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["moon"], "invalid choice: 'moon'"),
        (["units", "--update"], "--update needs --reason"),
        (["units", "--check", "--quick"], "leave out --quick"),
        (["units", "--update", "--reason", "why", "--check"], "one of them"),
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
