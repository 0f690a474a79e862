"""Every reader against answers in its platform's documented shapes, through the real client and a real socket.

A file in `recorded/<platform>/` holds one call: its accounts (numbered from 1), the exchanges it makes in order, and
what must come of it: a list with one Profile or Missing per account, one page of posts, or an error. Requests are
compared in the parameters that the file names, results in every field that is not None.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipeline import platforms
from pipeline.errors import ScrapeError
from pipeline.records import Account, Missing
from workers.deadline import make_pool
from workers.http import HttpClient

RECORDED = Path(__file__).parent / "recorded"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
FILES = sorted(RECORDED.glob("*/*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_documented_answer_is_read_as_what_it_says(file: Path, httpserver: HTTPServer) -> None:
    recorded = json.loads(file.read_text())
    asked = play(httpserver, recorded["exchanges"])
    platform = platforms.load()[file.parent.name]
    accounts = [account(platform, key, **said) for key, said in enumerate(recorded["accounts"], 1)]

    assert outcome_of(platform, client(platform, httpserver), recorded, accounts) == expected(recorded["expect"])

    assert [request.path for request in asked] == [one["request"]["path"] for one in recorded["exchanges"]]
    for request, exchange in zip(asked, recorded["exchanges"], strict=True):
        for name, value in exchange["request"]["query"].items():
            assert request.args.getlist(name) == ([value] if isinstance(value, str) else value), name


def test_every_reader_is_held_to_recorded_answers_of_each_of_its_calls() -> None:
    held = {(file.parent.name, json.loads(file.read_text())["kind"]) for file in FILES}
    assert held >= {(name, kind) for name, platform in platforms.load().items() for kind in platform.calls}


def play(server: HTTPServer, exchanges: list[dict[str, Any]]) -> list[Request]:
    """Let the server give the answers in order; return the list that the requests are going to fill."""
    asked: list[Request] = []

    def answer(exchange: dict[str, Any]) -> Callable[[Request], Response]:
        def give(request: Request) -> Response:
            asked.append(request)
            content = exchange["text"] if "text" in exchange else json.dumps(exchange["body"])
            return Response(content, exchange["status"], exchange["headers"])

        return give

    for exchange in exchanges:
        server.expect_ordered_request(exchange["request"]["path"]).respond_with_handler(answer(exchange))
    return asked


def account(
    platform: Any, key: int, handle: str, host: str = "", url: str = "", external_id: str | None = None
) -> Account:
    return Account(key, platform.name, handle, url or platform.profile_url(handle, host), host, external_id)


def client(platform: Any, server: HTTPServer) -> HttpClient:
    suffix = "/{host}" if "{host}" in platform.base_url else ""
    return HttpClient(
        platform,
        pool=make_pool(),
        base_url=server.url_for("").rstrip("/") + suffix,
        credentials=dict.fromkeys(platform.needs, SecretStr("river")),
        deadline_s=10,
        user_agent="rollcall-tests",
        now=lambda: NOON,
        heed=lambda allowance: None,
    )


def outcome_of(platform: Any, http: HttpClient, recorded: dict[str, Any], accounts: list[Account]) -> Any:
    try:
        if recorded["kind"] == "posts":
            page = platform.fetch_posts(accounts[0], http, recorded.get("cursor"))
            found = platform.parse_posts(page, accounts[0])
            return plain([found]) if isinstance(found, Missing) else plain(found)
        fetch, parse = (getattr(platform, f"{step}_{recorded['kind']}") for step in ("fetch", "parse"))
        return plain(list(parse(fetch(accounts, http), accounts)))
    except ScrapeError as exc:
        more = {name: getattr(exc, name) for name in ("retry_at", "bad") if hasattr(exc, name)}
        return plain({"error": type(exc).__name__, "reason": exc.reason} | more)


def expected(said: Any) -> Any:
    """Give each result in a file the key of its account."""
    if isinstance(said, list):
        return [{"account_key": key} | one for key, one in enumerate(said, 1)]
    return said if "error" in said else {"account_key": 1} | said


def plain(value: Any) -> Any:
    """Return records as JSON has them, without the fields that are None."""
    return without_none(json.loads(msgspec.json.encode(value)))


def without_none(value: Any) -> Any:
    if isinstance(value, list):
        return [without_none(one) for one in value]
    if isinstance(value, dict):
        return {name: without_none(one) for name, one in value.items() if one is not None}
    return value
