"""The broker restarts in mid-work: workers live on, with what they hold and what they get afterwards."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.chaos import Servers, Witness, is_all_read, list_accounts, servers, sweep

RESTARTS = 5


@pytest.fixture
def own() -> Iterator[Servers]:
    with servers() as own:
        yield own


def test_a_worker_that_holds_messages_lives_through_restarts_of_redis(own: Servers, tmp_path: Path) -> None:
    witness = Witness(Random(1), spoiled=0.0)
    list_accounts(own.engine, {"youtube": 60})
    with sweep(own, witness, tmp_path / "logs", JOB_LEASE_S="5", PLAN_AHEAD_S="2") as processes:
        worker = processes.start("workers", "youtube")
        processes.start("pipeline.beat")
        for _ in range(RESTARTS):
            calls = witness.calls
            processes.wait(lambda so_far=calls: witness.calls > so_far + 1, within_s=30, what="two calls more")
            own.redis.stop()
            own.redis.start()

        processes.wait(lambda: is_all_read(own.engine), within_s=90, what="every account read")
        assert worker.poll() is None, processes.said()
    assert witness.repeated == []
