"""That the benchmark measures what it says: a small sweep, and what its meter counts."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from tests.performance import pipeline
from tests.performance.accounts import load_due
from tests.performance.machine import machine
from tests.performance.meter import Meter
from tests.performance.pipeline import BATCH, PLANNER_STAGES, UNLIMITED, WORKER_STAGES, Fleet
from tests.performance.rounds import Rounds


def test_a_small_sweep_reads_in_batches_and_counts_every_stage() -> None:
    with machine() as running:
        running.environ |= UNLIMITED
        load_due(running.engine, 25, now=datetime.now(UTC), posts_due=False)

        sweep = Fleet(running, 1).sweep(20, 10)

    assert (sweep.accounts, sweep.jobs) == (20, 2)
    stages = [f"worker: {stage}" for stage in WORKER_STAGES] + [f"planner: {stage}" for stage in PLANNER_STAGES]
    assert [stage for stage in stages if sweep.cpu_s[stage] <= 0] == []
    assert sweep.cpu_s["worker"] > sum(sweep.cpu_s[f"worker: {stage}"] for stage in WORKER_STAGES)


# So short a look at the memory may see none of it grow, and of a process less CPU than its clock's tick of 10 ms.
_GROWTH = "growth per 10,000 jobs, after the first 12"
_WITHIN_A_TICK = {"framework", "planner", "PostgreSQL", "recorder", "Redis", "simulator"}


def test_every_chapter_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = pipeline.Size(
        rounds=Rounds(1, 1),
        swept={BATCH: 200, 1: 10},
        noops=20,
        jobs_of_memory=60,
        saves=2,
        ticks=4,
        due=(500, 2_000),
    )
    monkeypatch.setattr(pipeline, "QUICK", small)

    chapters = list(pipeline.run(quick=True))

    assert len(chapters) == 6
    assert sum(line.is_met is not None for chapter in chapters for line in chapter.lines) == 5
    for chapter in chapters:
        nothing = {line.name.strip() for line in chapter.lines if line.value <= 0}
        assert nothing <= (_WITHIN_A_TICK if chapter.title.startswith("CPU seconds") else {_GROWTH})


def test_a_stage_is_counted_without_the_stages_that_it_calls() -> None:
    meter = Meter()
    steps = SimpleNamespace(inner=_work, generated=_generate)
    steps.outer = lambda: (steps.inner(), steps.generated())
    for name in ("inner", "generated", "outer"):
        meter.stage(name, steps, name)

    steps.outer()

    assert meter.cpu_s["inner"] >= 0.02
    assert meter.cpu_s["generated"] >= 0.02  # though a generator works only when it is read
    assert meter.cpu_s["outer"] < 0.01


def _work() -> None:
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass


def _generate() -> Iterator[int]:
    _work()
    yield 1
