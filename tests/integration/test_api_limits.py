"""How much a caller may ask for, counted over every process; and keys, which end at once."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio.client import Pipeline
from redis.exceptions import TimeoutError as RedisTimeoutError

from api import access
from api.cache import shared
from api.limiting import Allowance
from db import keys, tags
from db.engine import Engine, transaction
from deploy.embedded import start_redis
from pipeline.limits import Rate
from tests import fakes
from tests.serving import InProcess, add_account, gunicorn, in_process, purger, wait_for

PROXIES = "127.0.0.1/32, 10.0.0.0/8"


@pytest.fixture
def token(engine: Engine) -> str:
    with transaction(engine) as conn:
        return keys.create(conn, name="board", scopes=[])


def of(api: InProcess, address: str, path: str = "/api/summary", **headers: str) -> Any:
    return api.get(path, X_Forwarded_For=address, **headers)


def test_an_address_gets_what_it_may_and_hears_when_it_may_again(database_url: str, redis_url: str) -> None:
    settings = fakes.settings(database_url, redis_url, API_RATE_LIMIT="3/1d", TRUSTED_PROXIES=PROXIES)
    with in_process(settings) as api:
        answers = [of(api, "203.0.113.9") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
        for answer in answers:
            assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-policy"]) == ("3", "3;w=86400")
            assert 0 < int(answer.headers["ratelimit-reset"]) <= 86400
        refused = answers[-1]
        assert refused.headers["content-type"] == "application/problem+json"
        assert abs(int(refused.headers["retry-after"]) - int(refused.headers["ratelimit-reset"])) <= 1
        assert refused.headers["x-request-id"] and refused.headers["x-content-type-options"] == "nosniff"
        assert of(api, "203.0.113.10").status_code == 200, "another address has its own"
        assert of(api, "6.6.6.6, 203.0.113.9").status_code == 429, "a client can't add an address"
        assert of(api, "203.0.113.9", "/api/nothing").status_code == 429, "what doesn't exist counts"
        assert of(api, "203.0.113.9", "/api/summary?page=0").status_code == 429
        for path in ("/healthz", "/readyz"):
            assert of(api, "203.0.113.9", path).status_code == 200
            assert "ratelimit-limit" not in of(api, "203.0.113.9", path).headers


def test_without_a_limit_nothing_is_counted(database_url: str, redis_url: str) -> None:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        assert "ratelimit-limit" not in api.get("/api/summary").headers


def test_processes_settle_what_they_counted(database_url: str, redis_url: str) -> None:
    settings = fakes.settings(database_url, redis_url, API_RATE_LIMIT="10/1d", TRUSTED_PROXIES=PROXIES)
    with (
        in_process(settings) as one,
        in_process(settings) as other,
        redis.Redis.from_url(redis_url, decode_responses=True) as client,
    ):

        def counted() -> list[int]:
            return [sum(map(int, client.hvals(key))) for key in client.keys("rollcall:limit:*")]

        for _ in range(9):
            assert of(one, "203.0.113.9").status_code == 200
        wait_for(lambda: counted() == [9], "the counts of the one")
        assert of(other, "203.0.113.9").headers["ratelimit-remaining"] == "9", "it hasn't heard of them yet"
        wait_for(lambda: counted() == [10], "the counts of the other")
        let_through = 0
        while of(other, "203.0.113.9").status_code == 200:
            let_through += 1
        assert let_through < 5, "by itself it would have let nine more through"
        assert [of(one, "203.0.113.9").status_code for _ in range(2)] == [200, 429], "the one knows of its own nine"
        (key,) = client.keys("rollcall:limit:*")
        assert client.ttl(key) > 0, "it goes by itself"


def test_the_limit_holds_in_each_process_while_redis_is_away(database_url: str, tmp_path: Path) -> None:
    server = start_redis(tmp_path / "redis")
    settings = fakes.settings(database_url, server.url, API_RATE_LIMIT="3/1d", TRUSTED_PROXIES=PROXIES)
    with in_process(settings) as api:
        server.stop()
        answers = [of(api, "203.0.113.9").status_code for _ in range(5)]
        assert answers == [200, 200, 200, 429, 429]
        again = start_redis(tmp_path / "redis")
        try:
            with redis.Redis.from_url(again.url) as client:
                wait_for(lambda: client.keys("rollcall:limit:*"), "the counts in the Redis that is back")
        finally:
            again.stop()


def test_a_key_has_an_allowance_of_its_own_wherever_it_is_used(database_url: str, redis_url: str, token: str) -> None:
    settings = fakes.settings(
        database_url, redis_url, API_RATE_LIMIT="2/1d", API_RATE_LIMIT_KEY="6/1d", TRUSTED_PROXIES=PROXIES
    )
    mine = {"Authorization": f"Bearer {token}"}
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        answers = [of(api, f"203.0.113.{number % 2}", **mine) for number in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 2
        assert {answer.headers["ratelimit-limit"] for answer in answers} == {"6"}
        remaining = [int(of(api, "203.0.113.0").headers["ratelimit-remaining"]) for _ in range(2)]
        assert remaining == [1, 0], "the key's requests aren't its address's"


def test_guessing_keys_is_counted_by_address(database_url: str, redis_url: str, token: str) -> None:
    settings = fakes.settings(
        database_url,
        redis_url,
        API_RATE_LIMIT="3/1d",
        API_RATE_LIMIT_KEY="600/1m",
        API_REQUIRE_KEY="true",
        TRUSTED_PROXIES=PROXIES,
    )
    with in_process(settings) as api:
        guess = token[:-4] + "0000"
        guesses = [of(api, "203.0.113.9", Authorization=f"Bearer {guess}").status_code for _ in range(5)]
        assert guesses == [401, 401, 401, 429, 429]


def test_a_remembered_key_costs_no_query_and_ends_in_every_process_when_it_is_revoked(
    database_url: str, redis_url: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")
    monkeypatch.setattr(access, "REMEMBERED_S", 3600.0)
    with transaction(engine) as conn:
        add_account(conn, "x/agency")
        tokens = [keys.create(conn, name=f"board {number}", scopes=[]) for number in range(2)]
    mine, other_s = ({"Authorization": f"Bearer {token}"} for token in tokens)
    asked: list[str] = []
    find = keys.find
    monkeypatch.setattr(keys, "find", lambda conn, token: (asked.append(token), find(conn, token))[1])
    with in_process(settings) as one, in_process(settings) as other:
        for api in (one, other):
            api.wait_until_it_hears_purges()
            for _ in range(10):
                assert api.get("/api/summary", **mine).status_code == 200
                assert api.get("/api/summary", **other_s).status_code == 200
        assert sorted(asked) == sorted(tokens * 2)
        with transaction(engine) as conn:
            assert keys.revoke(conn, tokens[0].split("_")[1])
        purger(settings).purge({tags.key(tokens[0].split("_")[1])})
        for api in (one, other):
            wait_for(lambda api=api: api.get("/api/summary", **mine).status_code == 401, "the revocation", within_s=5)
            assert api.get("/api/summary", **other_s).status_code == 200


def test_a_key_is_asked_for_each_time_while_purges_cannot_be_heard(
    database_url: str, redis_url: str, engine: Engine, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "REMEMBERED_S", 3600.0)
    settings = fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true", BROKER_URL="redis://127.0.0.1:1/0")
    with in_process(settings) as api:
        assert api.get("/api/summary", Authorization=f"Bearer {token}").status_code == 200
        with transaction(engine) as conn:
            keys.revoke(conn, token.split("_")[1])
        assert api.get("/api/summary", Authorization=f"Bearer {token}").status_code == 401


def test_a_purge_that_was_lost_is_made_good_soon(
    database_url: str, redis_url: str, engine: Engine, token: str
) -> None:
    with in_process(fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")) as api:
        api.wait_until_it_hears_purges()
        assert api.get("/api/summary", Authorization=f"Bearer {token}").status_code == 200
        with transaction(engine) as conn:
            keys.revoke(conn, token.split("_")[1])
        wait_for(
            lambda: api.get("/api/summary", Authorization=f"Bearer {token}").status_code == 401,
            "the key to be asked for again",
            within_s=access.REMEMBERED_S + 5,
        )


def test_workers_of_one_server_share_a_limit(database_url: str, redis_url: str, tmp_path: Path) -> None:
    limit = {"API_RATE_LIMIT": "20/1d", "TRUSTED_PROXIES": "127.0.0.1"}
    with gunicorn(database_url, redis_url, tmp_path, workers=2, **limit) as server:
        mine = {"X_Forwarded_For": "203.0.113.9"}
        until = time.monotonic() + 15
        let_through = 0
        while (status := server.get("/api/summary", **mine)[0]) == 200:
            let_through += 1
            assert time.monotonic() < until
            time.sleep(0.05)  # slower than they settle, so that neither runs ahead of the other
        assert status == 429
        assert 20 <= let_through < 40
        for pid in server.workers:
            wait_for(lambda pid=pid: server.get("/api/summary", pid, **mine)[0] == 429, "both workers to refuse")
        problem = json.loads(server.get("/api/summary", **mine)[2])
        assert problem["status"] == 429


def test_a_count_whose_answer_was_lost_counts_once_when_it_is_told_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = Pipeline.execute

    async def lost(pipe: Pipeline) -> None:
        await execute(pipe)
        raise RedisTimeoutError

    async def scenario() -> None:
        client = shared.connect(redis_url)
        one, two = (Allowance("address", Rate.parse("10/1d")) for _ in range(2))
        for _ in range(4):
            one.spend("a")
        with monkeypatch.context() as broken, pytest.raises(RedisTimeoutError):
            broken.setattr(Pipeline, "execute", lost)
            await one.settle(client)
        await one.settle(client)
        two.spend("a")
        await two.settle(client)
        assert two.spend("a").remaining == 4, "of ten, four were another's and two its own"
        await client.aclose()

    asyncio.run(scenario())
