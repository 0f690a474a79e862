"""A sweep of 10,000 accounts while everything dies that can die: each account ends with its one number of the day.

What happens, and after how many calls, follows from a seed: a failure names it, and `CHAOS_SEED` repeats it.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Row, select

from db.engine import Connection, reading
from db.models import account_latest, day_count, dim_account, fact_followers_snapshot
from deploy.simulator.world import World
from tests.brokers import Broker
from tests.chaos import Fleet, Servers, Witness, is_all_read, list_accounts, number_of, plan, servers, sweep
from tests.rabbitmq import RabbitMQ

ACCOUNTS = {"bluesky": 6000, "x": 2000, "mastodon": 1000, "youtube": 1000}
BATCH = {"bluesky": 25, "x": 100, "mastodon": 1, "youtube": 1}
CALLS = sum(count // BATCH[platform] for platform, count in ACCOUNTS.items())
PROCESSES = [
    ("pipeline.beat",),
    ("workers.recorder",),
    *(("workers", platform) for platform in ("bluesky", "x", "mastodon", "mastodon", "youtube")),
]
KILLS = {"worker killed": 10, "beat killed": 3}
BLOWS = KILLS | {
    "broker stopped": 2,
    "broker killed": 1,
    "broker flushed": 2,
    "PostgreSQL stopped fast": 1,
    "PostgreSQL stopped at once": 2,
}
ENVIRON = {
    "JOB_LEASE_S": "10",
    "PLAN_AHEAD_S": "2",
    "HTTP_DEADLINE_S": "3",
    "BACKOFF_BASE_S": "0.5",
    "BACKOFF_CAP_S": "4",
    # Every platform is busy until the end.
    "RATE_LIMIT_BLUESKY_PROFILES": "4/s",
    "RATE_LIMIT_X_RESOLVE": "20/m",
    "RATE_LIMIT_MASTODON_RESOLVE": "15/s",
    "RATE_LIMIT_YOUTUBE_RESOLVE": "15/s",
}
SPOILED = 0.05


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_each_account_has_its_one_number_whatever_dies_during_the_sweep(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or Random().randrange(10**6))
    print(f"CHAOS_SEED={seed}")
    random = Random(seed)
    witness = Witness(Random(seed), spoiled=SPOILED)
    with ExitStack() as stack:
        own = stack.enter_context(servers())
        broker: Broker = own.redis
        if kind == "rabbitmq":
            broker = request.getfixturevalue("rabbitmq")
            stack.callback(broker.start)  # it is the session's
        environ = {**ENVIRON, "BROKER_URL": broker.url}
        processes = stack.enter_context(sweep(own, witness, tmp_path / "logs", **environ))
        list_accounts(own.engine, ACCOUNTS)
        fleet = Fleet(processes, PROCESSES)
        strike = _strikes(own, broker, fleet, random)
        for blow in plan(random, BLOWS, CALLS):
            fleet.wait(
                partial(witness.has_seen, blow.after_calls), within_s=120, what=f"the call before: {blow.name}"
            )
            print(f"{datetime.now(UTC):%H:%M:%S} after {witness.calls} calls: {blow.name}")
            strike[blow.name]()
        fleet.wait(lambda: is_all_read(own.engine), within_s=180, what="every account read and no job open")
        with reading(own.engine) as conn:
            _agrees(conn, witness)
    print(f"{witness.calls} calls, {len(witness.repeated)} of them repeated, {witness.spoiled}")
    assert witness.spoiled.total() > CALLS * SPOILED / 2
    assert len(witness.repeated) <= sum(KILLS.values()), witness.repeated


def _strikes(own: Servers, broker: Broker, fleet: Fleet, random: Random) -> Mapping[str, Callable[[], None]]:
    def restart_broker(end: Callable[[], None]) -> None:
        end()
        broker.start()

    def restart_postgres(way: signal.Signals) -> None:
        own.stop_postgres(way)
        own.start_postgres()

    def flush() -> None:
        with Redis.from_url(own.redis.url) as redis:
            redis.flushall()
        if isinstance(broker, RabbitMQ):
            broker.purge()

    return {
        "worker killed": partial(fleet.kill, random, "workers"),
        "beat killed": partial(fleet.kill, random, "pipeline.beat"),
        "broker stopped": partial(restart_broker, broker.stop),
        "broker killed": partial(restart_broker, broker.kill),
        "broker flushed": flush,
        "PostgreSQL stopped fast": partial(restart_postgres, signal.SIGINT),
        "PostgreSQL stopped at once": partial(restart_postgres, signal.SIGQUIT),
    }


def _agrees(conn: Connection, witness: Witness) -> None:
    """Each account has one snapshot, with a number that its platform told, and all that is derived says the same."""
    accounts = {row.account_key: row for row in conn.execute(select(dim_account))}
    snapshots = conn.execute(select(fact_followers_snapshot)).all()
    assert sorted(row.account_key for row in snapshots) == sorted(accounts)

    told = {key: _told(account, witness) for key, account in accounts.items()}
    wrong = [row for row in snapshots if not told[row.account_key][0] <= row.followers <= told[row.account_key][1]]
    assert wrong == []

    same = ("account_key", "snapshot_date", "captured_at", "followers")
    latest = conn.execute(select(*(account_latest.c[name] for name in same))).all()
    assert sorted(latest) == sorted(tuple(getattr(row, name) for name in same) for row in snapshots)
    counted = {(row.platform, row.snapshot_date): row.snapshots for row in conn.execute(select(day_count))}
    platforms = {key: account.platform for key, account in accounts.items()}
    rows = [(name, row.snapshot_date) for row in snapshots for name in (platforms[row.account_key], "")]
    assert counted == Counter(rows)


def _told(account: Row[Any], witness: Witness) -> tuple[int, int]:
    """Return the least and the most followers that the platform told of an account: they grow while it is read."""
    keys = {"x": account.handle, "mastodon": f"{account.host}/{account.handle}"}
    known = World(seed=1).account(account.platform, keys.get(account.platform, account.external_id))
    moments = witness.served[number_of(account.handle)]
    counts = [known.followers(at + timedelta(seconds=s)) for at in moments for s in (-1, 1)]
    if account.platform == "youtube":
        counts = [_three_figures(count) for count in counts]
    return min(counts), max(counts)


def _three_figures(count: int) -> int:
    """Round down as YouTube does."""
    return count - count % 10 ** max(0, len(str(count)) - 3)
