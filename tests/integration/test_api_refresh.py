"""POST /api/refresh: who may, what is refused, and that what is asked for reaches the queue."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select

from db import keys
from db.engine import Engine, reading, transaction
from db.models import scrape_job
from deploy.embedded import start_redis
from tests import fakes
from tests.serving import InProcess, add_account, in_process


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, SIMULATOR_URL="http://127.0.0.1:9")) as api:
        yield api


@pytest.fixture
def token(engine: Engine) -> str:
    with transaction(engine) as conn:
        return keys.create(conn, name="newsroom", scopes=["refresh"])


def refresh(api: InProcess, token: str | None, accounts: Any) -> Any:
    given = {"Authorization": f"Bearer {token}"} if token else {}
    return api.ask("POST", "/api/refresh", body=json.dumps({"accounts": accounts}), **given)


def enqueued(engine: Engine) -> list[Any]:
    with reading(engine) as conn:
        return list(conn.execute(select(scrape_job.c.job_id, scrape_job.c.lane, scrape_job.c.requested_by)))


def test_a_refresh_reaches_the_user_requested_queue(
    api: InProcess, engine: Engine, redis_url: str, token: str
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/one", external_id="1")
        add_account(conn, "x/two", external_id="2")
    answer = refresh(api, token, ["x/ONE", "x/two", "x/two"])
    assert answer.status_code == 202
    ((job_id, lane, requested_by),) = enqueued(engine)
    assert (lane, requested_by) == ("user_requested", "api:newsroom")
    href = f"/api/jobs/{job_id}"
    assert answer.json["jobs"] == [
        {"account": "x/ONE", "job_id": job_id, "href": href},
        {"account": "x/two", "job_id": job_id, "href": href},
    ]
    assert answer.headers["location"] == href
    assert api.get(href).json["state"] == "queued"
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("x.user_requested") == 1

    again = refresh(api, token, ["x/one"])
    assert again.json["jobs"][0]["job_id"] == job_id, "it is on its way already"
    assert len(enqueued(engine)) == 1


def test_an_unknown_account_is_named_with_the_nearest_ones_and_nothing_is_enqueued(
    api: InProcess, engine: Engine, token: str
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/harbour_news", external_id="1")
    answer = refresh(api, token, ["x/harbour_news", "x/harbor_news"])
    assert answer.status_code == 404
    assert answer.json["errors"] == [
        {"field": "x/harbor_news", "reason": "is not in the list; did you mean x/harbour_news?"}
    ]
    assert enqueued(engine) == []


def test_accounts_that_nothing_can_read_are_refused_each_with_its_reason(
    api: InProcess, engine: Engine, token: str, flickr_unread: None
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/good")
        add_account(conn, "x/paused", is_active=False)
        add_account(conn, "flickr/page")
    answer = refresh(api, token, ["x/good", "x/paused", "flickr/page"])
    assert answer.status_code == 422
    assert {error["field"]: error["reason"] for error in answer.json["errors"]} == {
        "x/paused": "paused",
        "flickr/page": "no reader yet",
    }
    assert enqueued(engine) == []


def test_a_key_with_the_right_scope_is_needed(api: InProcess, engine: Engine, token: str) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/one", external_id="1")
        reader = keys.create(conn, name="reader", scopes=[])
        admin = keys.create(conn, name="admin", scopes=["admin"])
    assert refresh(api, None, ["x/one"]).status_code == 401
    assert refresh(api, token[:-1] + "g", ["x/one"]).status_code == 401
    assert refresh(api, reader, ["x/one"]).status_code == 403
    assert enqueued(engine) == []
    assert refresh(api, admin, ["x/one"]).status_code == 202


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b'{"accounts": []}', 400),
        (b'{"accounts": "x/one"}', 400),
        (b'{"accounts": [1]}', 400),
        (b'{"accounts": [""]}', 400),
        (b'{"accounts": ["one"]}', 400),
        (b'{"accounts": ["orkut/one"]}', 400),
        (b'{"accounts": ["x/one\\u0000"]}', 400),
        (b'{"accounts": ["x/one\\ud800"]}', 400),
        (b'{"accounts": ["x/"]}', 404),
        (b'{"accounts": ["x/one/two"]}', 404),
        (b'{"accounts": ["x/one"], "force": true}', 400),
        (json.dumps({"accounts": [f"x/a{n}" for n in range(101)]}).encode(), 400),
        (json.dumps({"accounts": ["x/" + "a" * 400]}).encode(), 400),
        (b"[" * 100_000, 400),
        (b" " * ((1 << 20) + 1), 413),
    ],
)
def test_a_body_that_is_not_as_documented_is_refused(
    api: InProcess, engine: Engine, token: str, body: bytes, status: int
) -> None:
    answer = api.ask("POST", "/api/refresh", body=body, Authorization=f"Bearer {token}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert enqueued(engine) == []


def test_without_its_broker_a_refresh_says_so(database_url: str, engine: Engine, token: str, tmp_path: Path) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/one", external_id="1")
    server = start_redis(tmp_path / "redis")
    settings = fakes.settings(database_url, server.url, SIMULATOR_URL="http://127.0.0.1:9")
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        server.stop()
        answer = refresh(api, token, ["x/one"])
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
