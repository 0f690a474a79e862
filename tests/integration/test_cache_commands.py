"""Warming, and `rollcall cache …`, against a running API."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from click.testing import Result
from sqlalchemy import event, text

from api.cache import command
from api.cache.popular import most_asked_now
from api.cache.shared import VALUE_KEY
from api.cache.stats import Counts, recommendations
from api.cache.warm import QUEUE_KEY, STARTED_KEY
from db.engine import Engine, transaction
from pipeline.settings import Settings
from tests import fakes
from tests.serving import InProcess, add_account, in_process, keep, purger, wait_for

Rollcall = Callable[..., Result]


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    # Closing lines would come in between what the commands print.
    return fakes.settings(database_url, redis_url, LOG_LEVEL="warning")


@pytest.fixture
def api(settings: Settings) -> Iterator[InProcess]:
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        yield api


@pytest.fixture
def account_key(engine: Engine) -> int:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 1)
    return key


def statements_of(api: InProcess) -> list[str]:
    sent: list[str] = []
    event.listen(api.engine, "before_cursor_execute", lambda _conn, _cursor, sql, *_: sent.append(sql))
    return sent


def figures(rollcall: Rollcall) -> dict[str, dict[str, int]]:
    said = json.loads(rollcall("cache", "stats", "--json").stdout)
    return {one["endpoint"]: one["counts"] for one in said["endpoints"]}


def warmed(rollcall: Rollcall) -> int:
    return sum(counts["warmed"] for counts in figures(rollcall).values())


def waiting(engine: Engine) -> int:
    with engine.connect() as conn:
        return int(conn.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one())


@pytest.mark.usefixtures("account_key")
def test_what_was_asked_for_most_is_ready_after_a_start(
    api: InProcess, settings: Settings, rollcall: Rollcall, redis_url: str
) -> None:
    client = redis.Redis.from_url(redis_url)
    paths = ["/api/summary?sort=-followers", "/api/history/x/agency", "/"]
    for path in [*paths, "/api/history/x/nobody"]:
        for _ in range(3):
            api.get(path, Accept_Encoding="gzip")
    wait_for(lambda: len(most_asked_now(client, 10)) == len(paths), "what was asked for to be counted", 20)
    api.close()
    client.delete(STARTED_KEY, *client.keys(f"{VALUE_KEY}*"))
    with in_process(settings) as fresh:
        wait_for(lambda: warmed(rollcall) == len(paths), "the warming to be counted", 20)
        levels = [fresh.get(path, Accept_Encoding="gzip").headers["x-cache"] for path in paths]
    assert levels == ["l1"] * len(paths)
    client.close()


def test_what_is_asked_for_most_is_read_again_after_a_purge_before_anybody_asks(
    api: InProcess, engine: Engine, settings: Settings, account_key: int
) -> None:
    path = "/api/history/x/agency"
    for _ in range(3):
        api.get(path)
    sent = statements_of(api)
    with transaction(engine) as conn:
        keep(conn, account_key, 2)
    purger(settings).purge({f"account:{account_key}"})
    wait_for(lambda: len(sent) > 0, "the read that nobody asked for")
    wait_for(lambda: api.get(path).headers["x-cache"] == "l1", "its answer")
    assert api.get(path).json["followers"][-1] == 2


def test_warming_waits_while_people_wait_for_the_database(
    api: InProcess, engine: Engine, settings: Settings, account_key: int
) -> None:
    for _ in range(3):
        api.get("/api/history/x/agency")
    with engine.connect() as blocker, ThreadPoolExecutor(1) as clients:
        blocker.execute(text("LOCK TABLE account_latest IN ACCESS EXCLUSIVE MODE"))
        stuck = clients.submit(api.get, "/api/summary")
        wait_for(lambda: waiting(engine) == 1, "the read to wait for the lock")
        sent = statements_of(api)
        purger(settings).purge({f"account:{account_key}"})
        purged_at = time.monotonic()
        wait_for(lambda: time.monotonic() > purged_at + 1.5, "the warming to begin, if it did")
        assert sent == []
        blocker.rollback()
        assert stuck.result().status_code == 200
    wait_for(lambda: len(sent) > 0, "the warming")


def test_stats_say_where_answers_came_from(
    api: InProcess, engine: Engine, settings: Settings, rollcall: Rollcall, account_key: int
) -> None:
    first = api.get("/api/summary?per_page=3")
    for _ in range(4):
        assert api.get("/api/summary?per_page=3").headers["x-cache"] == "l1"
    api.get("/api/summary?per_page=3", If_None_Match=first.headers["etag"])
    api.get("/api/history/x/nobody")
    with in_process(settings) as other:
        other.wait_until_it_hears_purges()
        assert other.get("/api/summary?per_page=3").headers["x-cache"] == "l2"
        wait_for(lambda: figures(rollcall).get("/api/summary", {}).get("l1") == 5, "the counts", 20)
        wait_for(lambda: figures(rollcall)["/api/summary"]["l2"] == 1, "the counts of the other", 20)
    counts = figures(rollcall)
    summary = counts["/api/summary"]
    assert (summary["misses"], summary["not_modified"], summary["stale"]) == (1, 1, 0)
    assert summary["bytes"] == 6 * len(first.content)
    assert counts["/api/history/{platform}/{handle:path}"]["absent"] == 1
    table = rollcall("cache", "stats").stdout
    assert [line.split("\t")[:2] for line in table.splitlines()] == [
        ["/api/summary", "85.7%"],
        ["/api/history/{platform}/{handle:path}", "0.0%"],
        ["all", "75.0%"],
    ]


def test_clear_ends_what_bears_a_tag_or_everything(api: InProcess, rollcall: Rollcall, account_key: int) -> None:
    nobody, agency = "/api/history/x/nobody", "/api/accounts/x/agency"
    for path in (nobody, agency):
        api.get(path)
    sent = statements_of(api)
    assert rollcall("cache", "clear", "names").exit_code == 0
    wait_for(lambda: api.get(nobody) and sent, "the tag's end")
    sent.clear()
    assert api.get(agency).headers["x-cache"] == "l1"
    assert sent == []
    assert rollcall("cache", "clear").exit_code == 0
    wait_for(lambda: api.get(agency) and sent, "the end of everything")


def test_warm_has_the_api_ask_itself_and_says_when_there_is_none(
    api: InProcess, rollcall: Rollcall, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rollcall("cache", "warm")
    assert (result.exit_code, result.stderr) == (0, "Nothing was asked for yet.\n")
    api.get("/api/summary")
    with redis.Redis.from_url(redis_url) as client:
        wait_for(lambda: most_asked_now(client, 10), "what was asked for to be counted", 20)
        result = rollcall("cache", "warm")
        assert (result.exit_code, result.stderr) == (0, "1 requests were taken up.\n")
        wait_for(lambda: warmed(rollcall) >= 1, "the warming to be counted", 20)
        api.close()
        monkeypatch.setattr(command, "_PATIENCE_S", 0.3)
        result = rollcall("cache", "warm")
        assert result.exit_code == 1
        assert "No process of the API takes them up" in result.stderr
        assert client.llen(QUEUE_KEY) == 0


def test_advice_follows_from_the_counts() -> None:
    plenty = Counts(l1=1_000, misses=10)
    assert recommendations({"/a": plenty}) == []
    assert "CACHE_ENTRIES" in recommendations({"/a": Counts(l1=1_000, evicted=200)})[0]
    assert "CACHE_MEMORY_S" in recommendations({"/a": Counts(l1=100, l2=400, expired=300)})[0]
    assert "time to live is too short" in recommendations({"/a": Counts(l1=500, misses=400, expired=390)})[0]
    assert "No cache can help" in recommendations({"/a": Counts(l1=100, misses=400, purged=390)})[0]
    assert recommendations({"/a": Counts(l1=1, misses=9, evicted=9)}) == [], "too few to say"
