"""Three machines share PostgreSQL and a broker; one is cut off and joined again: what that costs, and what it never does.

A connection that is cut says nothing: it hangs. So each wait for a server must end by itself, on both sides.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import func, select

from db import claims, metrics
from db.engine import Engine, make_engine, reading, transaction
from db.models import fact_followers_snapshot, scrape_state
from deploy.simulator.server import Simulator
from pipeline.accounts import import_list
from pipeline.metrics import CALLS
from tests import databases, servers
from tests.conftest import FAST
from tests.hosts import HUB, PLATFORMS, SERVERS, Hosts, lacking
from tests.rabbitmq import HOW_TO_GET_IT, RabbitMQ, rabbitmq_server
from tests.serving import wait_for
from tests.stamps import Stamps
from tests.system import HERE, System
from workers.allowance import SharedAllowance

ALPHA, BRAVO, CHARLIE = NAMES = ("alpha", "bravo", "charlie")
INTERVAL_S = 0.2
LEASE_S = 6
WORKERS = 2
# Accounts at the start, and those that come when all machines are together again.
BEFORE, AFTER = 110, 20
BROKER_LOST = "consumer: Connection to broker lost. Trying to re-establish the connection..."
PORT = 8000
# How long a step may take on a machine that has other things to do, too.
PATIENCE_S = 180.0


class Calls(Stamps):
    """Sees which machine asks for which account, and keeps the answers of a machine back while it is told to."""

    def __init__(self, simulator_url: str, hosts: Hosts) -> None:
        super().__init__(simulator_url, PLATFORMS)
        self._hosts = hosts
        self.asked: list[tuple[float, str, str]] = []
        """When (monotonic), which machine, which handle."""
        self._held: str | None = None
        self._is_free = threading.Event()
        self._is_free.set()

    def received(self, caller: str, data: bytes, at: float) -> None:
        super().received(caller, data, at)
        for handle in re.findall(rb"agency\d+", data):
            self.asked.append((time.monotonic(), self._hosts.name_of(caller), handle.decode()))

    def before_answer(self, caller: str) -> None:
        if self._hosts.name_of(caller) == self._held:
            self._is_free.wait()

    def hold(self, name: str) -> None:
        self._is_free.clear()
        self._held = name

    def release(self) -> None:
        self._held = None
        self._is_free.set()

    def of(self, name: str, since: float = 0.0) -> list[str]:
        """Return what a machine has asked for."""
        return [handle for at, caller, handle in list(self.asked) if caller == name and at >= since]


class Fleet:
    """Three machines, the servers between them, and the processes that run there."""

    def __init__(self, hosts: Hosts, calls: Calls, engine: Engine, environ: Mapping[str, str], logs: Path) -> None:
        self.hosts = hosts
        self.calls = calls
        self.engine = engine
        self._machines = {name: System(dict(environ), logs / name) for name in NAMES}
        for machine in self._machines.values():
            machine.logs.mkdir(parents=True)

    def start(self, name: str, *module: str) -> None:
        self._machines[name].start(*module, on=self.hosts.command(name))

    def said(self, name: str, event: str) -> list[Mapping[str, Any]]:
        """Return the lines of an event (or of those that begin so) that a machine's processes wrote."""
        lines = self._machines[name].said().splitlines()
        return [json.loads(line) for line in lines if f'"event": "{event}' in line]

    def readiness(self, name: str) -> Mapping[str, str]:
        """Ask a machine's API what it can do; it answers soon, whatever it can't."""
        try:
            with (
                self.hosts.inside(name),
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=PATIENCE_S) as answer,
            ):
                return json.loads(answer.read())  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            with error:
                assert error.code == 503
                return json.loads(error.read())  # type: ignore[no-any-return]
        except OSError:
            return {}  # it hasn't started

    def wait(self, condition: Callable[[], Any], what: str, *, within_s: float = PATIENCE_S) -> None:
        """Return when the condition holds; fail with everything that was said where it doesn't in time."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                said = "\n".join(f"== {name}\n{machine.said()}" for name, machine in self._machines.items())
                pytest.fail(f"not within {within_s} s: {what}\n{said}")
            time.sleep(0.05)

    def stop(self) -> None:
        for machine in self._machines.values():
            machine.stop()


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if reason := lacking():
        pytest.skip(reason)
    hosts = Hosts(NAMES)
    yield hosts
    hosts.close()


@pytest.fixture(scope="module")
def server(hosts: Hosts) -> Iterator[str]:
    """Return a superuser's address, by unix socket, of a PostgreSQL that the machines reach."""
    folder = Path(tempfile.mkdtemp(prefix="rollcall-hosts-"))
    with ExitStack() as stack:
        with hosts.inside(HUB):
            url = stack.enter_context(servers.postgres_on(folder / "postgres", SERVERS, FAST))
        databases.run(url, f"ALTER ROLE postgres PASSWORD '{servers.PASSWORD}'")
        databases.make_template(url)
        yield url
    shutil.rmtree(folder)


@pytest.fixture
def database(server: str) -> Iterator[tuple[str, str]]:
    """Return the addresses of an empty database: here, and for the machines."""
    with databases.copied(server) as url:
        yield url, servers.by_network(url, "postgres", SERVERS)


@pytest.fixture
def engine(database: tuple[str, str]) -> Iterator[Engine]:
    engine = make_engine(database[0], application_name="tests")
    yield engine
    engine.dispose()


@pytest.fixture
def redis_urls(hosts: Hosts) -> Iterator[tuple[str, str]]:
    """Return the addresses of an empty Redis: here, and for the machines."""
    folder = Path(tempfile.mkdtemp(prefix="rollcall-hosts-"))  # whose path is short enough for a socket
    with ExitStack() as stack:
        with hosts.inside(HUB):
            urls = stack.enter_context(servers.redis_on(folder / "redis", SERVERS))
        yield urls
    shutil.rmtree(folder)


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(
    request: pytest.FixtureRequest, hosts: Hosts, redis_urls: tuple[str, str], tmp_path: Path
) -> Iterator[str]:
    """Return the address of an empty broker for the machines."""
    if request.param == "redis":
        yield redis_urls[1]
        return
    if rabbitmq_server() is None:
        pytest.skip(HOW_TO_GET_IT)
    with hosts.inside(HUB):
        node = RabbitMQ(tmp_path / "rabbitmq", SERVERS, password=servers.PASSWORD)
    with closing(node):
        with hosts.inside(HUB):
            node.start()
        yield node.url


@pytest.fixture
def fleet(
    hosts: Hosts,
    database: tuple[str, str],
    engine: Engine,
    redis_urls: tuple[str, str],
    broker_url: str,
    tmp_path: Path,
) -> Iterator[Fleet]:
    with ExitStack() as stack:
        with hosts.inside(HUB):
            simulator = stack.enter_context(Simulator(port=0))
            calls = Calls(simulator.url, hosts)
        environ = {
            "DATABASE_URL": database[1],
            "REDIS_URL": redis_urls[1],
            "BROKER_URL": broker_url,
            "SIMULATOR_URL": calls.url,
            # TikTok says nothing of its limit in headers: what is measured is our own pace.
            "RATE_LIMIT_TIKTOK_PROFILES": "5/s",
            "RATE_LIMIT_TIKTOK_POSTS": "1/d",
            "JOB_LEASE_S": str(LEASE_S),
            # Whoever holds an answer back here does so for longer than a platform may take.
            "HTTP_DEADLINE_S": "900",
            "LOG_FORMAT": "json",
            "PORT": str(PORT),
            "WEB_CONCURRENCY": "1",
        }
        with Redis.from_url(redis_urls[0]) as redis:
            SharedAllowance(redis).slow("scrape.tiktok.posts", "1", for_s=3600)
        fleet = Fleet(hosts, calls, engine, environ, tmp_path / "machines")
        try:
            yield fleet
        finally:
            calls.release()
            for name in NAMES:
                hosts.heal(name)
            fleet.stop()
            calls.close()


def test_a_host_cut_off_in_mid_job_costs_a_lease_and_harms_nothing_when_it_is_back(fleet: Fleet) -> None:
    calls, hosts = fleet.calls, fleet.hosts
    listed(fleet.engine, BEFORE)
    fleet.start(ALPHA, "workers.recorder")
    fleet.start(ALPHA, "api")
    fleet.wait(lambda: fleet.said(ALPHA, "recorder_records"), "alpha records")
    for name in NAMES:
        for _ in range(WORKERS):
            fleet.start(name, "workers", "tiktok")
    for name in (ALPHA, BRAVO):
        fleet.start(name, "pipeline.beat")
    fleet.start(BRAVO, "workers.recorder")
    fleet.wait(lambda: all(calls.of(name) for name in NAMES), "calls from all machines")
    fleet.wait(lambda: set(fleet.readiness(ALPHA).values()) == {"ready", "ok"}, "alpha's API")

    calls.hold(ALPHA)
    began_at = time.monotonic()
    fleet.wait(lambda: len(calls.of(ALPHA, began_at)) >= 2, "calls of alpha that are under way")
    hosts.cut(ALPHA)
    cut_at = time.monotonic()
    in_hand = set(calls.of(ALPHA, began_at))

    fleet.wait(lambda: fleet.readiness(ALPHA)["status"] == "not ready", "alpha's API says that it can't serve")
    fleet.wait(
        lambda: in_hand <= {*calls.of(BRAVO, cut_at), *calls.of(CHARLIE, cut_at)},
        "others read what alpha had in hand",
    )
    fleet.wait(lambda: fleet.said(BRAVO, "recorder_records"), "bravo records")
    fleet.wait(lambda: len(fleet.said(ALPHA, BROKER_LOST)) == WORKERS, "alpha's workers know that they are cut off")
    fleet.wait(
        lambda: fleet.readiness(ALPHA)["purge_listener"] == "down", "alpha's API knows that it hears no purges"
    )

    hosts.heal(ALPHA)
    healed_at = time.monotonic()
    calls.release()
    fleet.wait(
        lambda: len(fleet.said(ALPHA, "job_lost")) >= len(in_hand), "what alpha read is refused: it is too late"
    )
    fleet.wait(lambda: set(fleet.readiness(ALPHA).values()) == {"ready", "ok"}, "alpha's API serves again")
    listed(fleet.engine, AFTER, first=BEFORE)
    fleet.wait(lambda: calls.of(ALPHA, healed_at), "alpha works again")
    fleet.wait(lambda: len(read_well(fleet.engine)) == BEFORE + AFTER, "every account read")
    fleet.wait(lambda: counted(fleet.engine) >= len(calls.arrived_at), "every call counted")

    moments = sorted(calls.arrived_at)
    assert min(after - before for before, after in pairwise(moments)) >= 0.95 * INTERVAL_S
    assert snapshots(fleet.engine) == dict.fromkeys(read_well(fleet.engine), 1)
    committed = Counter(
        said["job_id"]
        for name in NAMES
        for said in fleet.said(name, "job_finished")
        if said["outcome"] == "succeeded"
    )
    assert set(committed.values()) == {1}
    assert {said["job_id"] for said in fleet.said(ALPHA, "job_lost")} <= set(committed)
    assert counted(fleet.engine) == len(moments)
    assert len(fleet.said(ALPHA, "recorder_records")) == 1, "two recorded at a time"


# What a planner does between claiming and its commit, and then nothing more.
_IN_MID_TICK = """
import os, sys
from db import claims
from db.engine import make_engine, transaction
with transaction(make_engine(os.environ["DATABASE_URL"])) as conn:
    print(claims.try_plan_lock(conn), flush=True)
    sys.stdin.read()
"""


def test_a_planner_cut_off_in_mid_tick_leaves_its_lock_to_the_others(
    hosts: Hosts, database: tuple[str, str], engine: Engine
) -> None:
    def is_free() -> bool:
        with transaction(engine) as conn:
            return claims.try_plan_lock(conn)

    with subprocess.Popen(
        [*hosts.command(ALPHA), sys.executable, "-c", _IN_MID_TICK],
        cwd=HERE,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database[1]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as planner:
        assert planner.stdout is not None
        try:
            assert planner.stdout.readline() == b"True\n"
            assert not is_free()
            hosts.cut(ALPHA)
            wait_for(is_free, "the lock of the planner that is gone", PATIENCE_S)
        finally:
            planner.kill()
            hosts.heal(ALPHA)


def listed(engine: Engine, count: int, first: int = 0) -> None:
    rows = [f"tiktok,agency{number}" for number in range(first, first + count)]
    report = import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    assert report.counts == {"imported": count}, report.rows


def read_well(engine: Engine) -> set[int]:
    with reading(engine) as conn:
        profile = scrape_state.c.subject == "profile"
        return set(conn.scalars(select(scrape_state.c.account_key).where(profile, scrape_state.c.result == "ok")))


def snapshots(engine: Engine) -> dict[int, int]:
    """Return how many snapshots each account has."""
    key = fact_followers_snapshot.c.account_key
    with reading(engine) as conn:
        return dict(conn.execute(select(key, func.count()).group_by(key)).all())


def counted(engine: Engine) -> float:
    """Return how many calls the recorders have counted."""
    with reading(engine) as conn:
        return sum(one.value for one in metrics.totals(conn) if one.name == CALLS.name)
