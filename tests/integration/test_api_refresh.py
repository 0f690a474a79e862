"""POST /api/refresh: who may, what is refused, and that what is asked for reaches the queue."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import select
from structlog.testing import capture_logs

from db import keys
from db.engine import Engine, reading, transaction
from db.models import scrape_job
from pipeline.app import make_celery
from pipeline.plan import Planner
from pipeline.settings import Settings
from pipeline.slots import Slots
from tests import fakes
from tests.brokers import Broker, received
from tests.serving import InProcess, add_account, in_process, purger


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, SIMULATOR_URL="http://127.0.0.1:9")) as api:
        yield api


@pytest.fixture
def found(database_url: str, redis_url: str, broker: Broker) -> Settings:
    return fakes.settings(database_url, redis_url, BROKER_URL=broker.url, SIMULATOR_URL="http://127.0.0.1:9")


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
    found: Settings, engine: Engine, broker: Broker, token: str
) -> None:
    with in_process(found) as api:
        _reaches_the_user_requested_queue(api, engine, broker, token)


def _reaches_the_user_requested_queue(api: InProcess, engine: Engine, broker: Broker, token: str) -> None:
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
    assert broker.waiting("x.user_requested") == 1

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
        {"field": "accounts", "reason": "'x/harbor_news' is not in the list; did you mean x/harbour_news?"}
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
    assert [error["field"] for error in answer.json["errors"]] == ["accounts", "accounts"]
    assert {error["reason"] for error in answer.json["errors"]} == {
        "'x/paused' can't be read: paused",
        "'flickr/page' can't be read: no reader yet",
    }
    assert enqueued(engine) == []


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["x/good", "x/paused", "x/nosuch", "nope/a", "bare"], 400),
        (["x/good", "x/paused", "x/nosuch"], 404),
        (["x/good", "x/paused"], 422),
    ],
)
def test_every_account_at_fault_is_named_in_one_answer(
    api: InProcess, engine: Engine, token: str, names: list[str], status: int
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/good")
        add_account(conn, "x/paused", is_active=False)
    answer = refresh(api, token, names)
    assert answer.status_code == status
    named = {error["reason"].split("'")[1] for error in answer.json["errors"]}
    assert named == set(names) - {"x/good"}
    assert {error["field"] for error in answer.json["errors"]} == {"accounts"}
    assert all(name in answer.json["detail"] for name in named)
    assert enqueued(engine) == []


def test_accounts_of_several_jobs_are_located_at_the_first(api: InProcess, engine: Engine, token: str) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/one", external_id="1")
        add_account(conn, "bluesky/two.example", external_id="did:plc:two")
    answer = refresh(api, token, ["bluesky/two.example", "x/one"])
    first, second = answer.json["jobs"]
    assert first["job_id"] != second["job_id"]
    assert answer.headers["location"] == first["href"]
    assert api.get(answer.headers["location"]).json["accounts"][0]["account"] == "bluesky/two.example"


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
        (b'{"accounts": ["x/one\\u0000"]}', 404),
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


@pytest.mark.parametrize("used_before", [False, True], ids=["unconnected", "connected before"])
def test_a_refresh_without_its_broker_is_kept_and_goes_out_when_its_lease_ends(
    found: Settings, engine: Engine, token: str, redis_url: str, broker: Broker, used_before: bool
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/one", external_id="1")
        add_account(conn, "x/two", external_id="2")
    with in_process(found) as api:
        api.wait_until_it_hears_purges()
        if used_before:
            assert refresh(api, token, ["x/two"]).status_code == 202
        broker.stop()
        with capture_logs() as logged:
            answer = refresh(api, token, ["x/one"])
            again = refresh(api, token, ["x/one"])
        assert (answer.status_code, again.status_code) == (202, 202)
        assert again.json == answer.json, "it waits already"
        assert [line["log_level"] for line in logged if line["event"] == "broker_unreachable"] == ["warning"]
    (job,) = answer.json["jobs"]
    broker.start()
    celery = make_celery(found)
    with redis.Redis.from_url(redis_url) as client:
        planner = Planner(found, engine, celery, purger(found), Slots(client))
        planner.tick(datetime.now(UTC) + timedelta(seconds=found.job_lease_s + 1))
    assert job["job_id"] in received(celery, "user_requested", broker.waiting("x.user_requested"))
