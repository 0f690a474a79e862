"""Aggregates during a sweep: given out stale for a moment, refreshed by one, and never older than was promised."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from api.cache.tags import STALE_S
from db.engine import Engine, transaction
from pipeline.settings import Settings
from tests import fakes
from tests.serving import InProcess, add_account, in_process, keep, purger, wait_for

# How late a thread may come to its turn on a busy machine: no part of what is promised, but of measuring it.
SLACK_S = 1.5


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return fakes.settings(database_url, redis_url)


@pytest.fixture
def api(settings: Settings) -> Iterator[InProcess]:
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        yield api


@pytest.fixture
def other(settings: Settings) -> Iterator[InProcess]:
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        yield api


@pytest.fixture
def account_key(engine: Engine) -> int:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 0)
    return key


def reads_of(api: InProcess) -> list[float]:
    """Return when summaries were read, as they are: one count of the list per read."""
    times: list[float] = []

    def note(_conn: object, _cursor: object, sql: str, *_: object) -> None:
        if "account_latest" in sql and "LIMIT" in sql:
            times.append(time.monotonic())

    event.listen(api.engine, "before_cursor_execute", note)
    return times


def shown(api: InProcess, path: str = "/api/summary") -> tuple[int, str]:
    answer = api.get(path)
    return answer.json["items"][0]["followers"], answer.headers["x-cache"]


class Sweep:
    """Commits a further number and purges, again and again; remembers when each purge had returned."""

    def __init__(self, engine: Engine, settings: Settings, account_key: int) -> None:
        self.purged_at: list[float] = [time.monotonic()]
        self._stop = threading.Event()
        purge = purger(settings).purge

        def work() -> None:
            while not self._stop.wait(0.02):
                with transaction(engine) as conn:
                    keep(conn, account_key, len(self.purged_at))
                purge({f"account:{account_key}", "summary", "accounts", "platform:x"})
                self.purged_at.append(time.monotonic())

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def missing_for(self, number: int, asked_at: float) -> float:
        """Return for how long a commit had been purged that an answer asked for then doesn't show."""
        unseen = self.purged_at[number + 1 :]
        return max(0.0, asked_at - unseen[0]) if unseen else 0.0


def test_during_a_sweep_nearly_every_answer_comes_from_a_cache_and_none_is_too_old(
    api: InProcess, other: InProcess, engine: Engine, settings: Settings, account_key: int
) -> None:
    times = [reads_of(api), reads_of(other)]
    shown(api)
    began = time.monotonic()
    sweep = Sweep(engine, settings, account_key)
    try:

        def watch(process: InProcess) -> list[tuple[float, int, str]]:
            seen = []
            while time.monotonic() < began + 4 * STALE_S:
                asked_at = time.monotonic()
                seen.append((asked_at, *shown(process)))
                time.sleep(0.005)
            return seen

        with ThreadPoolExecutor(2) as clients:
            seen = [row for one in clients.map(watch, (api, other)) for row in one]
    finally:
        sweep.end()
    lasted = time.monotonic() - began
    levels = [level for _, _, level in seen]
    assert levels.count("stale") > len(levels) / 2
    assert levels.count("miss") < len(levels) * 0.2
    # Both processes together read once in STALE_S, and once more at the beginning and for each that was too late.
    read = sorted(at for one in times for at in one)
    assert 3 <= len(read) <= 2 * (lasted / STALE_S + 1)
    assert max(sweep.missing_for(number, asked_at) for asked_at, number, _ in seen) < STALE_S + SLACK_S
    assert max(number for _, number, _ in seen) > 0


def test_one_process_refreshes_for_all(
    api: InProcess, other: InProcess, engine: Engine, settings: Settings, account_key: int
) -> None:
    times = [reads_of(api), reads_of(other)]
    assert [shown(one) for one in (api, other)] == [(0, "miss"), (0, "l2")]
    with transaction(engine) as conn:
        keep(conn, account_key, 1)
    purger(settings).purge({"summary"})
    for one in (api, other):
        wait_for(lambda one=one: shown(one)[1] == "stale", "the purge to be heard")
    for one in (api, other):
        wait_for(lambda one=one: shown(one)[0] == 1, "the new number")
        assert shown(one)[1] in ("l1", "l2")
    first_at, again_at = sorted(at for one in times for at in one)  # the first, and one for both
    assert again_at >= first_at + STALE_S * 0.9, "no sooner than was promised"


def test_what_nobody_asked_for_in_time_is_not_given_out_stale(
    api: InProcess, engine: Engine, settings: Settings, account_key: int
) -> None:
    shown(api)
    with transaction(engine) as conn:
        keep(conn, account_key, 1)
    purger(settings).purge({"summary"})
    purged_at = time.monotonic()
    wait_for(lambda: time.monotonic() > purged_at + STALE_S + 1, "the time to pass, from when the purge was heard")
    assert shown(api)[0] == 1


def test_what_shows_one_account_is_never_stale(
    api: InProcess, other: InProcess, engine: Engine, settings: Settings, account_key: int
) -> None:
    path = "/api/summary?q=agency"
    history = "/api/history/x/agency"
    for one in (api, other):
        one.get(history)
        shown(one, path)
    with transaction(engine) as conn:
        keep(conn, account_key, 1)
    purger(settings).purge({f"account:{account_key}", "summary"})
    for one in (api, other):
        wait_for(lambda one=one: one.get(history).json["followers"][-1] == 1, "the number", 1.0)


def test_a_refresh_that_fails_leaves_the_next_request_to_read_itself(
    api: InProcess, engine: Engine, settings: Settings, account_key: int
) -> None:
    fails = threading.Event()

    def fail(_conn: object, _cursor: object, sql: str, *_: object) -> None:
        if fails.is_set() and "account_latest" in sql:
            raise RuntimeError("no summary today")

    event.listen(api.engine, "before_cursor_execute", fail)
    shown(api)
    fails.set()
    purger(settings).purge({"summary"})
    wait_for(lambda: api.get("/api/summary").headers.get("x-cache") == "stale", "the purge to be heard")
    wait_for(lambda: api.get("/api/summary").status_code == 500, "the refresh to have failed")
    fails.clear()
    assert shown(api) == (0, "miss")


def test_while_a_refresh_is_slow_the_old_answer_is_given_out(
    api: InProcess, engine: Engine, settings: Settings, account_key: int
) -> None:
    shown(api)
    with engine.connect() as blocker:
        blocker.exec_driver_sql("LOCK TABLE account_latest IN ACCESS EXCLUSIVE MODE")
        purger(settings).purge({"summary"})
        wait_for(lambda: shown(api)[1] == "stale", "the purge to be heard")
        until = time.monotonic() + 2 * STALE_S
        while time.monotonic() < until:
            assert shown(api) == (0, "stale")
            time.sleep(0.02)
        blocker.exec_driver_sql("UPDATE account_latest SET followers = 1")
        blocker.commit()
    wait_for(lambda: shown(api)[0] == 1, "the refresh")
