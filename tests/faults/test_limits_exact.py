"""Limits are exact on the wire: no call early, hardly any allowance lost, however many workers on however many machines.

The calls are stamped where they arrive, by a real simulator that counts what goes beyond its limit.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from redis import Redis

from db.engine import Engine
from deploy.simulator.server import Simulator
from pipeline.accounts import import_list
from tests.brokers import RedisBroker
from tests.stamps import Stamps
from tests.system import HERE, System
from workers.allowance import SharedAllowance

INTERVAL_S = 0.2
MEASURED_S = 60
CALLS = round(MEASURED_S / INTERVAL_S)


@pytest.fixture
def stamps() -> Iterator[tuple[Stamps, Simulator]]:
    with Simulator(port=0) as simulator:
        stamps = Stamps(simulator.url)
        yield stamps, simulator
        stamps.close()


@pytest.fixture
def processes(
    database_url: str, redis_url: str, tmp_path: Path, stamps: tuple[Stamps, Simulator]
) -> Iterator[System]:
    (tmp_path / "logs").mkdir()
    environ = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SIMULATOR_URL": stamps[0].url,
        # TikTok says nothing of its limit in headers: what is measured is our own pace.
        "RATE_LIMIT_TIKTOK_PROFILES": "5/s",
    }
    running = System(environ, tmp_path / "logs")
    yield running
    running.stop()


def machine(processes: System, name: str, workers: int) -> None:
    """Start workers under a host name of their own, where this user may make one; else as separate processes."""
    for number in range(workers):
        with (processes.logs / f"{name}-{number}.log").open("wb") as out:
            process = subprocess.Popen(
                [*_own_host(name), sys.executable, "-m", "workers", "tiktok"],
                cwd=HERE,
                env=processes.environ,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.processes.append(process)


def _own_host(name: str) -> list[str]:
    """Return what a command is prefixed with to run under another host name, nothing where that isn't allowed."""
    for options in ([], ["--map-root-user"]):
        prefix = ["unshare", "--uts", *options, "sh", "-c", f'hostname {name} && exec "$@"', "sh"]
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    return []


@pytest.mark.parametrize("machines", [{"one": 1}, {"one": 2}, {"one": 2, "two": 2}], ids=["1", "2", "2+2"])
def test_workers_together_use_the_limit_and_no_two_calls_come_too_close(
    processes: System,
    stamps: tuple[Stamps, Simulator],
    engine: Engine,
    redis_url: str,
    machines: Mapping[str, int],
) -> None:
    arrivals, simulator = stamps
    # Of a minute: this process may be slow to hand calls on, and 26 of them are 25 ms from being too many in 5 s.
    limit(simulator, requests=CALLS, window_s=MEASURED_S)
    listed(engine, CALLS + 20)
    rest_posts(redis_url)
    for name, workers in machines.items():
        machine(processes, name, workers)
    processes.start("pipeline.beat")

    processes.wait(lambda: len(arrivals.arrived_at) > CALLS + 5, within_s=MEASURED_S + 30, what="a minute of calls")

    moments = sorted(arrivals.arrived_at[5 : CALLS + 6])  # the first ones come while processes still start
    gaps = [after - before for before, after in pairwise(moments)]
    assert min(gaps) >= 0.98 * INTERVAL_S
    assert CALLS * INTERVAL_S / (moments[-1] - moments[0]) >= 0.97
    assert violations(simulator) == 0


def test_no_two_calls_come_too_close_while_redis_forgets_the_ones_before(
    processes: System, stamps: tuple[Stamps, Simulator], engine: Engine, redis_url: str, tmp_path: Path
) -> None:
    arrivals, _ = stamps
    listed(engine, 200)
    broker = RedisBroker(tmp_path / "broker")  # so that the messages stay
    processes.environ |= {"BROKER_URL": broker.url, "RATE_LIMIT_TIKTOK_POSTS": "1/d"}
    machine(processes, "one", 2)
    processes.start("pipeline.beat")
    try:
        for calls in range(10, 100, 10):
            processes.wait(lambda so_far=calls: len(arrivals.arrived_at) > so_far, within_s=30, what="ten calls more")
            with Redis.from_url(redis_url) as redis:
                redis.flushall()
        processes.wait(lambda: len(arrivals.arrived_at) > 110, within_s=30, what="calls after the last of it")
        processes.stop()
    finally:
        broker.stop()

    moments = sorted(arrivals.arrived_at[5:])  # the first ones come while processes still start
    assert min(after - before for before, after in pairwise(moments)) >= 0.98 * INTERVAL_S


def limit(simulator: Simulator, *, requests: int, window_s: float) -> None:
    """Let the simulator give so many requests in any window of this length."""
    order = {"platform": "tiktok", "limit": requests, "window_s": window_s}
    with urllib.request.urlopen(f"{simulator.url}/_simulator/limits", data=json.dumps(order).encode()) as answer:
        assert answer.status == 200


def rest_posts(redis_url: str) -> None:
    """Keep the slots of posts away: the simulator counts them with the profiles."""
    with Redis.from_url(redis_url) as redis:
        SharedAllowance(redis).slow("scrape.tiktok.posts", "1", for_s=3600)


def violations(simulator: Simulator) -> int:
    with urllib.request.urlopen(f"{simulator.url}/_simulator/state") as answer:
        return int(json.load(answer)["violations"]["tiktok"])


def listed(engine: Engine, count: int) -> None:
    rows = [f"tiktok,agency{n}" for n in range(count)]
    report = import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    assert report.counts == {"imported": count}, report.rows
