"""What browsers and other caches are told with every answer, whichever it is."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from falcon.inspect import inspect_routes

from db.engine import Engine, transaction
from pipeline.settings import SettingsError
from tests import fakes
from tests.serving import InProcess, add_account, in_process, keep, stand

SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, TRUSTED_PROXIES="127.0.0.1")) as api:
        yield api


def test_every_answer_says_what_it_may_not_be_used_for(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    etag = api.get("/api/summary").headers["etag"]
    answers = [
        api.get("/api/summary"),
        api.get("/api/summary", If_None_Match=etag),
        api.get("/api/summary?page=0"),
        api.get("/api/summary?q=%ff"),
        api.get("/api/nothing"),
        api.get("/healthz"),
        api.ask("DELETE", "/api/summary"),
        api.ask("OPTIONS", "/api/summary"),
        api.ask("POST", "/api/refresh"),
        api.ask("POST", "/api/refresh", body=b" " * ((1 << 20) + 1)),
    ]
    assert [answer.status_code for answer in answers] == [200, 304, 400, 400, 404, 200, 405, 200, 401, 413]
    for answer in answers:
        assert SAFE.items() <= dict(answer.headers).items()
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "strict-transport-security" not in answer.headers
        assert answer.headers["x-request-id"]


def test_a_page_has_a_policy_of_its_own_and_is_framed_nowhere(api: InProcess) -> None:
    page = api.get("/")
    assert SAFE.items() <= dict(page.headers).items()
    assert "style-src" in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY"
    assert "camera=()" in page.headers["permissions-policy"]
    assert "permissions-policy" not in api.get("/api/summary").headers


def test_only_who_came_by_https_is_held_to_it(database_url: str, redis_url: str, api: InProcess) -> None:
    secure = {"X_Forwarded_Proto": "https"}
    assert "max-age=" in api.get("/api/summary", **secure).headers["strict-transport-security"]
    assert "strict-transport-security" not in api.get("/api/summary", X_Forwarded_Proto="http").headers
    with in_process(fakes.settings(database_url, redis_url)) as trusting_nobody:
        assert "strict-transport-security" not in trusting_nobody.get("/api/summary", **secure).headers


def test_options_tells_and_head_answers_as_get_on_every_address(
    api: InProcess, engine: Engine, monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 5)
        # Nothing is due: a stream that waits for readings would go on for minutes.
        stand(conn, key, next_due_at=datetime.now(UTC) + timedelta(days=1))
    named = {"platform": "x", "handle:path": "agency", "handle": "agency"}
    routes = inspect_routes(api.app)
    assert len(routes) > 8
    for route in routes:
        path = route.path
        for name, value in named.items():
            path = path.replace(f"{{{name}}}", value)
        methods = {method.method for method in route.methods if not method.internal}
        allowed = set(api.ask("OPTIONS", path).headers["allow"].split(", "))
        assert allowed == methods | {"OPTIONS"} or allowed == methods, path
        assert ("HEAD" in methods) == ("GET" in methods), path
        if "GET" in methods and "{" not in path:
            got, head = api.get(path), api.ask("HEAD", path)
            assert head.status_code == got.status_code, path
            assert head.content == b""


def cross(api: InProcess, method: str, path: str, **headers: str) -> Any:
    return api.ask(method, path, Origin="https://board.example", **headers)


def test_any_origin_may_read_where_the_setting_says_so(database_url: str, redis_url: str) -> None:
    settings = fakes.settings(database_url, redis_url, CORS_ORIGINS="*", API_RATE_LIMIT="100/1d")
    with in_process(settings) as api:
        for path in ("/api/summary", "/api/summary?page=0", "/api/nothing"):
            answer = cross(api, "GET", path)
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "Origin" not in answer.headers.get("vary", ""), "it is the same for all"
            assert "access-control-allow-credentials" not in answer.headers
            exposed = answer.headers["access-control-expose-headers"]
            for name in (
                "Link",
                "Content-Disposition",
                "Retry-After",
                "X-Total-Count",
                "RateLimit-Remaining",
                "ETag",
                "X-Request-ID",
            ):
                assert name in exposed
        preflight = cross(
            api,
            "OPTIONS",
            "/api/summary",
            Access_Control_Request_Method="GET",
            Access_Control_Request_Headers="authorization",
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-methods"] == "GET, HEAD"
        assert "Authorization" in preflight.headers["access-control-allow-headers"]


def test_no_origin_may_read_where_none_is_named(api: InProcess) -> None:
    for origin in ("https://board.example", "null", "https://board.example\x00"):
        answer = api.get("/api/summary", Origin=origin)
        assert "access-control-allow-origin" not in answer.headers


def test_an_origin_is_matched_whole(database_url: str, redis_url: str) -> None:
    with in_process(fakes.settings(database_url, redis_url, CORS_ORIGINS="https://board.example")) as api:
        for origin in (
            "https://board.example.evil",
            "http://board.example",
            "https://board.example:8443",
            "null",
            "",
        ):
            assert "access-control-allow-origin" not in api.get("/api/summary", Origin=origin).headers
        closed = cross(api, "OPTIONS", "/api/refresh", Access_Control_Request_Method="POST")
        assert closed.headers["access-control-allow-methods"] == "GET, HEAD"


def test_wrong_settings_of_the_edge_are_named(database_url: str, redis_url: str) -> None:
    for name, value in {
        "API_RATE_LIMIT": "many",
        "API_RATE_LIMIT_KEY": "600/minute",
        "TRUSTED_PROXIES": "localhost",
        "CORS_ORIGINS": "https://board.example/",
        "EMBED_ORIGINS": "https://a.example; script-src *",
    }.items():
        with pytest.raises(SettingsError, match=name):
            fakes.settings(database_url, redis_url, **{name: value})
