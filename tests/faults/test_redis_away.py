"""The Redis of the limits is gone while the broker lives: nobody guesses, and everybody goes on when it is back."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db.engine import Engine, reading
from db.models import fact_followers_snapshot
from tests.brokers import RedisBroker
from tests.lanes import Stamping, list_accounts
from tests.system import system
from workers.allowance import LEAD_S

ACCOUNTS = 750
AWAY_S = 4.0


@pytest.fixture
def limits(tmp_path: Path) -> Iterator[RedisBroker]:
    """Return a Redis that keeps limits and answers, beside the broker."""
    own = RedisBroker(tmp_path / "limits")
    yield own
    own.stop()


def test_without_its_redis_no_call_leaves_and_the_sweep_ends_when_it_is_back(
    database_url: str, broker_url: str, limits: RedisBroker, engine: Engine, tmp_path: Path
) -> None:
    platform = Stamping()
    list_accounts(engine, of_core=ACCOUNTS)
    environ = {"BROKER_URL": broker_url, "RATE_LIMIT_BLUESKY_PROFILES": "5/s"}
    with system(database_url, limits.url, tmp_path / "logs", simulation=platform, **environ) as (processes, _):
        started = [processes.start(*module) for module in (("workers", "bluesky"), ("pipeline.beat",))]
        processes.wait(lambda: len(platform.calls) > 3, within_s=30, what="a sweep under way")

        limits.stop()
        gone_at = time.monotonic()
        processes.wait(lambda: time.monotonic() > gone_at + AWAY_S, within_s=AWAY_S + 5, what="some seconds without")
        # A call that had its slot may leave at its time, and be stamped a moment later.
        late = [at - gone_at for at, _ in platform.calls if at > gone_at + LEAD_S + 0.2]
        assert late == [], processes.said()
        assert _read(engine) < ACCOUNTS, "the sweep was over before Redis went"

        limits.start()
        processes.wait(lambda: _read(engine) == ACCOUNTS, within_s=30, what="every account read")
        assert [process.poll() for process in started] == [None, None], processes.said()


def _read(engine: Engine) -> int:
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).select_from(fact_followers_snapshot)) or 0
