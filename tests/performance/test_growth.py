"""That the benchmark of growth measures what it says: the fit, reads and planning in small, plans of very much, a day."""

from contextlib import ExitStack

import pytest

from tests.performance import billion, day, growth
from tests.performance.machine import machine
from tests.performance.report import Chapter

SMALL = growth.Size(accounts=(30, 120), days=10, rounds=4)


def test_the_exponent_is_that_of_the_power_law() -> None:
    assert growth.fitted([(100, 7.0), (1_000, 7.0), (10_000, 7.0)]) == pytest.approx(0)
    assert growth.fitted([(100, 3.0), (1_000, 30.0), (10_000, 300.0)]) == pytest.approx(1)
    assert growth.fitted([(1, 5.0), (10, 500.0)]) == pytest.approx(2)


def test_reads_answers_and_planning_are_measured_at_each_size() -> None:
    with ExitStack() as open_:
        machines = {count: open_.enter_context(machine()) for count in SMALL.accounts}
        for count, one in machines.items():
            one.environ["SIMULATOR_URL"] = "http://nowhere"
            growth.fill(one, accounts=count, days=SMALL.days)  # all of them are due, too
        chapters = [
            growth.reads_by_accounts(machines, SMALL),
            growth.answers_by_accounts(machines, SMALL),
            growth.planning(machines, SMALL),
        ]

    for chapter in chapters:
        assert [of.exponent for of in chapter.growth] == [line.value for line in chapter.lines]
        assert all(line.at_most in (growth.FLAT, growth.LINEAR) for line in chapter.lines)
        assert all([size for size, _ in of.points] == [*machines] for of in chapter.growth)
        assert all(cost > 0 for of in chapter.growth for _, cost in of.points)
    assert [len(chapter.lines) for chapter in chapters] == [11, 12, 4]


def test_a_hundred_million_snapshots_are_planned_for_as_they_should_be() -> None:
    with machine() as one:
        chapter = billion.run(one, billion.QUICK)

    assert _missed(chapter) == []
    assert chapter.title.startswith("0.13 billion")
    # A hundred days lie in four months, or in five.
    (most_of_it,) = [line.value for line in chapter.lines if line.name.startswith("a year of an account")]
    assert most_of_it in (4, 5)


def test_a_simulated_day_is_as_it_was_estimated() -> None:
    # YouTube needs two sets for so many.
    chapter = day.run(62_000)

    assert _missed(chapter) == []
    assert [line.name for line in chapter.lines if "less" in line.name] == ["youtube, one set less: left by the day"]


def _missed(chapter: Chapter) -> list[str]:
    return [line.name for line in chapter.lines if line.is_met is False]
