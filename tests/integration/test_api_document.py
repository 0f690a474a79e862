"""The OpenAPI document and its page: valid, whole, true of what is served, and always of the code that runs."""

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from falcon.inspect import inspect_routes
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from redis.asyncio import Redis

from api.app import create_app
from api.dashboard.look import NAVIGATION
from api.operations import operation_of
from db.engine import make_engine
from tests import fakes
from tests.serving import InProcess, in_process

NO_SERVER = ("postgresql:///nowhere", "redis://nowhere")


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


@pytest.fixture
def told(api: InProcess) -> Mapping[str, Any]:
    document: Mapping[str, Any] = api.get("/openapi.json").json
    return document


def operations(told: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_valid(told: Mapping[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(told).iter_errors()) == []


def test_every_method_of_every_address_is_described_except_pages(told: Mapping[str, Any]) -> None:
    engine = make_engine("postgresql+psycopg2:///nowhere")
    app = create_app(fakes.settings(*NO_SERVER), engine, Redis.from_url("redis://nowhere"), lambda *_, **__: None)
    served = set()
    for route in inspect_routes(app):
        resource, *_ = app._router.find(re.sub("{[^}]*}", "a", route.path))
        for method in {method.method for method in route.methods if not method.internal} - {"HEAD"}:
            operation = operation_of(resource, method)
            assert operation is not None, f"{method} {route.path} declares nothing"
            if not type(resource).__module__.startswith("api.dashboard."):
                served.add(f"{method} {route.path.replace(':path', '')}")
    assert {name for name, _ in operations(told)} == served


def test_all_that_a_request_may_say_is_explained_and_named_once(told: Mapping[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(told)]
    assert len(set(ids)) == len(ids)
    for name, operation in operations(told):
        assert operation["summary"] and operation["description"], name
        given = [parameter for parameter in operation["parameters"] if "name" in parameter]
        assert all(parameter["description"] for parameter in given), name
        # Nothing is asked that the server would refuse for a parameter it doesn't know.
        assert {p["in"] for p in given} <= {"query", "path"}, name


def test_known_values_are_named(told: Mapping[str, Any]) -> None:
    given = {p["name"]: p for p in told["paths"]["/api/summary"]["get"]["parameters"] if "name" in p}
    assert {"x", "mastodon"} <= set(given["platform"]["schema"]["enum"])
    assert {"followers", "-followers"} <= set(given["sort"]["schema"]["enum"])
    assert "delta_7d" in given["fields"]["schema"]["items"]["enum"]
    assert (given["fields"]["style"], given["fields"]["explode"]) == ("form", False)
    assert given["per_page"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
    assert set(given["status"]["schema"]["enum"]) >= {"fresh", "stale", "gone"}
    named = told["components"]["schemas"]["RefreshBody"]["properties"]["accounts"]["items"]
    assert re.match(named["pattern"], "x/hhsgov") and not re.match(named["pattern"], "orkut/hhsgov")


def test_every_example_is_what_its_schema_says(told: Mapping[str, Any]) -> None:
    shown = 0
    for name, operation in operations(told):
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                if "example" in content:
                    schema = {**content["schema"], "components": told["components"]}
                    faults = [error.message for error in OAS31Validator(schema).iter_errors(content["example"])]
                    assert faults == [], name
                    shown += 1
    assert shown >= 9


def test_answers_lead_on_by_links(told: Mapping[str, Any]) -> None:
    links = told["paths"]["/api/summary"]["get"]["responses"]["200"]["links"]
    assert links["getHistoryByPlatformAndHandle"]["parameters"] == {
        "platform": "$response.body#/items/0/platform",
        "handle": "$response.body#/items/0/handle",
    }
    links = told["paths"]["/api/refresh"]["post"]["responses"]["202"]["links"]
    assert links["getJobsByJobId"]["parameters"] == {"job_id": "$response.body#/jobs/0/job_id"}


def test_only_what_needs_a_key_says_so(database_url: str, redis_url: str, told: Mapping[str, Any]) -> None:
    assert {name for name, operation in operations(told) if "401" in operation["responses"]} == {
        name for name, operation in operations(told) if "security" in operation
    }
    assert "security" not in told["paths"]["/api/summary"]["get"]
    assert told["paths"]["/api/refresh"]["post"]["security"] == [{"key": ["refresh"]}]
    with in_process(fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")) as closed:
        told = closed.get("/openapi.json").json  # which itself is open: it says how to get in
    assert told["paths"]["/api/summary"]["get"]["security"] == [{"key": []}]
    assert "security" not in told["paths"]["/healthz"]["get"]


def test_limits_are_described_where_they_are_set(database_url: str, redis_url: str, told: Mapping[str, Any]) -> None:
    assert not any("429" in operation["responses"] for _, operation in operations(told))
    assert "RateLimit-Limit" not in told["components"]["headers"]
    with in_process(fakes.settings(database_url, redis_url, API_RATE_LIMIT_KEY="600/1m")) as limited:
        told = limited.get("/openapi.json").json
    responses = told["paths"]["/api/summary"]["get"]["responses"]
    assert "Retry-After" in responses["429"]["headers"]
    assert all(
        "RateLimit-Remaining" in responses[status]["headers"] for status in ("200", "304", "400", "429", "503")
    )
    assert not {"429", "RateLimit-Limit"} & told["paths"]["/readyz"]["get"]["responses"]["200"]["headers"].keys()
    assert "429" not in told["paths"]["/healthz"]["get"]["responses"]


def test_a_body_is_described_with_all_that_is_refused_of_it(told: Mapping[str, Any]) -> None:
    with_body = [operation for _, operation in operations(told) if "requestBody" in operation]
    assert len(with_body) >= 4
    assert all({"400", "408", "413", "415"} <= operation["responses"].keys() for operation in with_body)
    note = {"components": told["components"], **content(told, "/api/annotations", "post")}
    kept = {"from": "2026-03-01", "note": "Campaign"}
    good = ({"all": True}, {"account": "x/hhsgov"}, {"org": "HHS", "all": None, "account": None})
    bad = (
        *({}, {"all": None}, {"all": True, "org": "HHS"}, {"account": "orkut/hhsgov"}, {"all": True, "note": " \n"}),
        *({"all": True, "from": "1999-12-31"}, {"account": "x/hhsgov", "org": "HHS"}),
    )
    assert [one for one in good if not OAS31Validator(note).is_valid(kept | one)] == []
    assert [one for one in bad if OAS31Validator(note).is_valid(kept | one)] == []
    account = {"components": told["components"], **content(told, "/api/accounts/{platform}/{handle}", "patch")}
    assert OAS31Validator(account).is_valid({"org_name": "Centers for Disease Control", "owner_team": None})
    for text in ("", " a", "a ", "a\tb", "a\x85b"):
        assert not OAS31Validator(account).is_valid({"org_name": text}), repr(text)


def content(told: Mapping[str, Any], path: str, method: str) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = told["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
    return schema


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_both_are_kept_by_their_etag_in_every_coding(api: InProcess, path: str) -> None:
    first = api.get(path)
    assert (first.headers["x-cache"], api.get(path).headers["x-cache"]) == ("miss", "l1")
    etags = {coding: api.get(path, Accept_Encoding=coding).headers["etag"] for coding in ("identity", "gzip", "br")}
    assert len(set(etags.values())) == 3
    again = api.get(path, Accept_Encoding="gzip", If_None_Match=etags["gzip"])
    assert (again.status_code, again.content) == (304, b"")
    assert api.get(path, Accept_Encoding="gzip", If_None_Match=etags["br"]).status_code == 200
    assert api.get(f"{path}?x=1").status_code == 400


def test_the_page_shows_everything_and_runs_nothing_of_others(api: InProcess, told: Mapping[str, Any]) -> None:
    answer = api.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'"
    )
    page = Page(answer.text)
    assert page.tags.isdisjoint({"style", "iframe", "form"})
    for field in (
        "since_start.endpoints[].p95_ms",
        "since_start.scraping[].limit_used_pct",
        "queries[].slowest.rows",
    ):
        assert field in page.text, "null or not, what is in it is named"
    for name, operation in operations(told):
        assert operation["operationId"] in page.ids, name
        for parameter in operation["parameters"]:
            assert parameter.get("name", "") in page.text
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= page.ids
    pages = {path for path, _ in NAVIGATION}
    assert {link for link in page.links if not link.startswith("#")} == {*pages, "/docs", "/openapi.json", "/sign-in"}


class Page(HTMLParser):
    """What is in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(f"{tag} rel={given['rel']}" if "rel" in given else tag)
        self.ids.add(given.get("id") or "")
        if tag == "a":
            self.links.add(given.get("href") or "")
        assert not any(name.startswith("on") or name == "style" for name in given), (tag, given)

    def handle_data(self, data: str) -> None:
        self.text += data
