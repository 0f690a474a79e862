"""POST /api/batch: each part is answered as if it had come by itself, in order, and bad ones fail alone."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard
from falcon.asgi import Request, Response

from api.resources import batch
from db import keys
from db.engine import Engine, transaction
from tests import fakes
from tests.serving import InProcess, add_account, in_process, keep


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


def send(api: InProcess, *parts: Any, **headers: str) -> Any:
    requests = [{"path": part} if isinstance(part, str) else part for part in parts]
    return api.ask("POST", "/api/batch", body=json.dumps({"requests": requests}), **headers)


def test_parts_come_back_in_order_each_as_it_would_by_itself(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        for number in range(15):
            keep(conn, add_account(conn, f"x/agency{number}"), number)
    api.wait_until_it_hears_purges()
    paths = [f"/api/history/x/agency{number}?fields=followers,account" for number in range(15)]
    paths += ["/api/summary?q=agency1&fields=handle", "/api/accounts/x/agency%33?fields=handle"]
    alone = [api.get(path) for path in paths]
    answer = send(api, *({"id": f"part {i}", "method": "GET", "path": path} for i, path in enumerate(paths)))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    responses = answer.json["responses"]
    assert [part["id"] for part in responses] == [f"part {i}" for i in range(len(paths))]
    for part, by_itself in zip(responses, alone, strict=True):
        assert (part["status"], part["body"]) == (200, by_itself.json)
        assert part["headers"]["x-cache"] == "l1", "the caches are the same"
        for name in ("etag", "content-type", "surrogate-key", "cache-control", "last-modified"):
            assert part["headers"][name] == by_itself.headers[name]
        assert "content-length" not in part["headers"]


def test_a_bad_part_fails_alone(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    parts = [
        ("/api/summary", "GET", 200),
        ("/api/summary?page=0", "GET", 400),
        ("/api/history/x/nobody", "GET", 404),
        ("/api/nothing", "GET", 404),
        ("/api/summary", "POST", 405),
        ("/api/annotations", "get", 405),
        ("/api/batch", "GET", 405),
        ("/api/refresh", "GET", 405),
        ("/", "GET", 400),
        ("/metrics", "GET", 400),
        ("/healthz", "GET", 400),
        ("//evil.example/api/summary", "GET", 400),
        ("http://evil.example/api/summary", "GET", 400),
        ("api/summary", "GET", 400),
        ("/api/../healthz", "GET", 404),
        ("/api/%2e%2e/healthz", "GET", 404),
        ("/api/summary?q=\r\nX-Evil: 1", "GET", 400),
        ("/api/accounts/x/%00", "GET", 404),
        ("/api/accounts/x/%ff", "GET", 404),
        ("/api/accounts/x/agency#top", "GET", 404),
    ]
    answer = send(api, *({"path": path, "method": method} for path, method, _ in parts))
    got = [(part["status"], part["headers"]["content-type"]) for part in answer.json["responses"]]
    for (path, method, status), (found, kind) in zip(parts, got, strict=True):
        assert found == status, f"{method} {path}: {found}"
        assert kind == ("application/json" if status == 200 else "application/problem+json")
    for part in answer.json["responses"][1:]:
        assert part["body"]["status"] == part["status"]
        assert part["body"]["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"requests": []}',
        b'{"requests": [{}]}',
        b'{"requests": ["/api/summary"]}',
        b'{"requests": [{"path": 1}]}',
        b'{"requests": [{"path": "/api/summary", "body": {}}]}',
        b'{"requests": [{"path": "/api/summary", "id": {}}]}',
        b'{"requests": [{"path": "/api/summary", "path": "/api/totals"}]}',
        json.dumps({"requests": [{"path": "/api/summary"}] * 21}).encode(),
        json.dumps({"requests": [{"path": "/api/" + "a" * 4000}]}).encode(),
        b'{"requests": ' + b"[" * 100_000,
    ],
)
def test_a_batch_that_is_not_as_documented_is_refused_as_a_whole(api: InProcess, body: bytes) -> None:
    answer = api.ask("POST", "/api/batch", body=body)
    assert answer.status_code == 400, answer.text
    assert answer.json["errors"][0]["reason"]


def test_each_part_has_the_rights_of_the_caller(database_url: str, redis_url: str, engine: Engine) -> None:
    with transaction(engine) as conn:
        token = keys.create(conn, name="reader", scopes=[])
    with in_process(fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")) as api:
        assert send(api, "/api/summary").status_code == 401
        answer = send(api, "/api/summary", "/api/accounts", Authorization=f"Bearer {token}")
        assert [part["status"] for part in answer.json["responses"]] == [200, 200]


def test_each_part_counts(database_url: str, redis_url: str) -> None:
    with in_process(fakes.settings(database_url, redis_url, API_RATE_LIMIT="4/1d")) as api:
        answer = send(api, *["/api/summary"] * 5)
        assert answer.status_code == 200
        statuses = [part["status"] for part in answer.json["responses"]]
        assert sorted(statuses) == [200, 200, 200, 429, 429]
        assert send(api, "/api/summary").status_code == 429


def test_the_answer_is_packed_as_the_client_takes_it(api: InProcess) -> None:
    answer = send(api, "/api/summary", Accept_Encoding="zstd", If_None_Match="*")
    assert answer.headers["content-encoding"] == "zstd"
    (part,) = json.loads(zstandard.decompress(answer.content))["responses"]
    assert (part["status"], part["body"]["total"]) == (200, 0), (
        "what the batch says of its own answer isn't its parts'"
    )
    assert "content-encoding" not in part["headers"]


def test_what_is_too_much_for_one_answer_is_refused_part_by_part(
    api: InProcess, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LARGEST_ANSWER_BYTES", 1000)
    with transaction(engine) as conn:
        for number in range(20):
            keep(conn, add_account(conn, f"x/agency{number:02}"), number)
    answer = send(api, "/api/summary", "/api/summary?per_page=1&fields=handle", "/api/accounts")
    assert [part["status"] for part in answer.json["responses"]] == [413, 200, 413]


def test_a_stream_is_no_part(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(self: Any, req: Request, resp: Response) -> None:
        async def chunks() -> Any:
            while True:
                yield b"a" * 1000

        resp.stream = chunks()

    monkeypatch.setattr("api.resources.summary.Summary.on_get", endless)
    with in_process(fakes.settings(database_url, redis_url)) as api:
        first, second = send(api, "/api/summary", "/api/accounts").json["responses"]
    assert (first["status"], second["status"]) == (400, 200)
    assert "stream" in first["body"]["detail"]


def test_an_export_is_no_part_even_where_its_length_is_known(api: InProcess) -> None:
    paths = ("/api/export/summary", "/api/export/accounts?format=xlsx", "/api/%65xport/accounts?format=xlsx")
    for part in send(api, *paths).json["responses"]:
        assert (part["status"], "stream" in part["body"]["detail"]) == (400, True)


def test_parts_are_told_apart_in_the_log(api: InProcess) -> None:
    answer = send(api, "/api/summary", "/api/accounts", X_Request_ID="board-7")
    assert answer.headers["x-request-id"] == "board-7"
    ids = [part["headers"]["x-request-id"] for part in answer.json["responses"]]
    assert ids == ["board-7/1", "board-7/2"]
