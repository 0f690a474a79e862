"""Small functions beside their yardsticks: here they give the same; pytest-benchmark or `./dev bench units` time them.

./dev test tests/performance/test_benchmarks.py --benchmark-enable --benchmark-only
"""

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sqlalchemy import text

from db.engine import Engine, reading
from tests.performance import units
from tests.performance.accounts import load_due
from tests.performance.units import BATCH, CASES, NOON, Jobs

SIDES = ("ours", "yardstick")


@pytest.fixture
def both(engine: Engine) -> Iterator[Jobs]:
    load_due(engine, BATCH, now=NOON, posts_due=False)
    yield Jobs(engine)


@pytest.mark.parametrize("name", CASES)
def test_a_function_gives_what_its_yardstick_gives(name: str) -> None:
    case = CASES[name]()

    assert case.agree(case.ours(), case.yardstick())


def test_a_job_is_claimed_and_saved_each_day_anew(both: Jobs, engine: Engine) -> None:
    assert [both.claim_and_save(), both.copy(), both.claim_and_save()] == [BATCH] * 3

    with reading(engine) as conn:
        kept = conn.execute(text("SELECT snapshot_date, count(*) FROM fact_followers_snapshot GROUP BY 1 ORDER BY 1"))
        assert [rows for _, rows in kept] == [BATCH, BATCH]
        assert conn.scalar(text("SELECT count(*) FROM plain")) == BATCH


def test_units_go_through_every_chapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "ROUND_S", 0.0001)

    functions, job = units.run(quick=True)

    assert [line.is_met is not None for line in functions.lines] == [True, False] * len(CASES)
    assert all(line.value > 0 for chapter in (functions, job) for line in chapter.lines)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", CASES)
def test_a_function_against_its_yardstick(name: str, side: str, benchmark: BenchmarkFixture) -> None:
    benchmark.group = name
    benchmark(getattr(CASES[name](), side))


@pytest.mark.benchmark(group="job")
@pytest.mark.parametrize("side", ["claim_and_save", "copy"])
def test_a_job_against_a_copy(side: str, both: Jobs, benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(getattr(both, side), rounds=50, warmup_rounds=3)
