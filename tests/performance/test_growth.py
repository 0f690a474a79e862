"""That the benchmark of growth measures what it says: the fit, reads and planning in small, plans of very much, a day."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.performance import billion, day, growth
from tests.performance.machine import Machine, machine
from tests.performance.report import Chapter

SMALL = growth.Size(accounts=(30, 120), days=10, rounds=4)


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[int, Machine]]:
    with ExitStack() as open_:
        yield {count: open_.enter_context(machine()) for count in SMALL.accounts}


def test_the_exponent_is_that_of_the_power_law() -> None:
    assert growth.fitted([(100, 7.0), (1_000, 7.0), (10_000, 7.0)]) == pytest.approx(0)
    assert growth.fitted([(100, 3.0), (1_000, 30.0), (10_000, 300.0)]) == pytest.approx(1)
    assert growth.fitted([(1, 5.0), (10, 500.0)]) == pytest.approx(2)


def test_reads_answers_and_planning_are_measured_at_each_size(machines: dict[int, Machine]) -> None:
    for count, one in machines.items():
        growth.fill(one, accounts=count, days=SMALL.days)
    chapters = [growth.reads_by_accounts(machines, SMALL), growth.answers_by_accounts(machines, SMALL)]
    for count, one in machines.items():
        growth.make_due(one, 10 * count)
    chapters.append(growth.planning(machines, SMALL))

    for chapter in chapters:
        assert [of.exponent for of in chapter.growth] == [line.value for line in chapter.lines]
        assert all(line.at_most in (growth.FLAT, growth.LINEAR) for line in chapter.lines)
        assert all([size for size, _ in of.points] == [*machines] for of in chapter.growth)
        assert all(cost > 0 for of in chapter.growth for _, cost in of.points)
    assert [len(chapter.lines) for chapter in chapters] == [11, 12, 4]


def test_a_hundred_million_snapshots_are_planned_for_as_they_should_be(machines: dict[int, Machine]) -> None:
    with machine() as one:
        chapter = billion.run(one, billion.QUICK)

    assert _missed(chapter) == []
    named = {line.name.partition(",")[0]: line.value for line in chapter.lines}
    assert named["a year of an account"] == 4 or named["a year of an account"] == 5  # months of a hundred days
    assert "0.13 billion" in chapter.title


def test_a_simulated_day_is_as_it_was_estimated() -> None:
    # YouTube needs two sets for so many, and one isn't enough.
    chapter = day.run(70_000)

    assert _missed(chapter) == []
    assert any("youtube, 1 set" in line.name and "left" in line.name for line in chapter.lines)


def _missed(chapter: Chapter) -> list[str]:
    return [line.name for line in chapter.lines if line.is_met is False]
