"""Recorded answers as values, and a local server that plays them to the real client.

A file in `recorded/<platform>/` holds one call: its accounts (numbered from 1), the exchanges it makes in order, and
what must come of it: a list with one Profile or Missing per account, one page of posts, or an error. Requests are
compared in the parameters that the file names, results in every field that is not None.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct, structs
from pydantic import SecretStr
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipeline import platforms
from pipeline.errors import ScrapeError
from pipeline.platforms import Client, Platform, Reader
from pipeline.records import Account, Kind, Missing, Page, Posts, Profile
from workers.deadline import make_pool
from workers.http import HttpClient

RECORDED = Path(__file__).parent / "recorded"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
READERS: Mapping[str, Reader] = {
    name: cast(Reader, platform) for name, platform in platforms.load().items() if platform.calls
}
CALLS: list[tuple[str, Kind]] = [(name, kind) for name, platform in READERS.items() for kind in platform.calls]

Handler = Callable[[Request], Response]
Said = list[Profile | Missing]


class Recording(Struct, frozen=True, kw_only=True):
    """One call. `expect` is a list by account, a page of posts (a Missing, if there are none), or an error."""

    platform: str
    name: str
    kind: Kind
    accounts: list[dict[str, Any]]
    exchanges: list[dict[str, Any]]
    expect: Any
    cursor: str | None = None

    @property
    def error(self) -> str | None:
        return self.expect.get("error") if isinstance(self.expect, dict) else None

    @property
    def results(self) -> list[dict[str, Any]]:
        """Return what must come of each account; nothing after an error or for a page of posts."""
        if isinstance(self.expect, list):
            return self.expect
        return [self.expect] if "result" in self.expect else []

    @property
    def profiles(self) -> list[dict[str, Any]]:
        return [one for one in self.results if "external_id" in one]

    @property
    def posts(self) -> list[dict[str, Any]] | None:
        """Return the page of posts, None where there is none (an empty list is a page)."""
        return self.expect.get("posts") if isinstance(self.expect, dict) else None

    @property
    def is_good(self) -> bool:
        """Tell whether numbers come of it."""
        return bool(self.profiles or self.posts)

    def asked(self) -> list[Account]:
        return [self._account(key, **said) for key, said in enumerate(self.accounts, 1)]

    def _account(
        self, key: int, handle: str, host: str = "", url: str = "", external_id: str | None = None
    ) -> Account:
        url = url or platforms.load()[self.platform].profile_url(handle, host)
        return Account(key, self.platform, handle, url, host, external_id)


@cache
def load() -> tuple[Recording, ...]:
    return tuple(msgspec.convert(_read(file), Recording) for file in sorted(RECORDED.glob("*/*.json")))


def _read(file: Path) -> dict[str, Any]:
    return {"platform": file.parent.name, "name": file.stem} | json.loads(file.read_text())


def shortest_good(platform: str, kind: Kind) -> Recording:
    """Return the good answer that takes the fewest requests."""
    good = [one for one in load() if (one.platform, one.kind) == (platform, kind) and one.is_good]
    assert good, f"{platform} has no recorded good answer of {kind}"
    return min(good, key=lambda one: len(one.exchanges))


def client(
    platform: Platform,
    server: HTTPServer,
    *,
    credentials: Sequence[str] | None = None,
    deadline_s: float = 10.0,
) -> HttpClient:
    """Return the real client, which reads a platform from the local server with what it needs, or what is given."""
    suffix = "/{host}" if "{host}" in platform.base_url else ""
    return HttpClient(
        platform,
        pool=make_pool(),
        base_url=server.url_for("").rstrip("/") + suffix,
        credentials=dict.fromkeys(platform.needs if credentials is None else credentials, SecretStr("river")),
        deadline_s=deadline_s,
        user_agent="rollcall-tests",
        now=lambda: NOON,
        heed=lambda allowance: None,
    )


def play(server: HTTPServer, exchanges: Sequence[dict[str, Any]]) -> list[Request]:
    """Let the server give the answers in order; return the list that the requests are going to fill."""
    asked: list[Request] = []

    def noting(exchange: dict[str, Any]) -> Handler:
        def give(request: Request) -> Response:
            asked.append(request)
            return recorded_answer(exchange)

        return give

    for exchange in exchanges:
        server.expect_ordered_request(exchange["request"]["path"]).respond_with_handler(noting(exchange))
    return asked


def play_spoilt(server: HTTPServer, recording: Recording, spoil: Callable[[Response], Response]) -> None:
    """Let the server give the last answer of a recording spoilt, those before it as they were, any number of times."""

    def give(request: Request) -> Response:
        (exchange,) = [one for one in recording.exchanges if _is_asked(one["request"], request)]
        answer = recorded_answer(exchange)
        return spoil(answer) if exchange is recording.exchanges[-1] else answer

    server.expect_request(re.compile(".*")).respond_with_handler(give)


def _is_asked(recorded: Mapping[str, Any], request: Request) -> bool:
    query = recorded["query"].items()
    return request.path == recorded["path"] and all(
        request.args.get(name) == value for name, value in query if isinstance(value, str)
    )


def recorded_answer(exchange: dict[str, Any]) -> Response:
    content = exchange["text"] if "text" in exchange else json.dumps(exchange["body"])
    return Response(content, exchange["status"], exchange["headers"])


class Answer(Struct, frozen=True):
    """A recorded good call that was made: what its reader got, and reads again as often as wanted."""

    recording: Recording
    page: Page

    def read(self, body: Any, accounts: Sequence[Account] | None = None) -> Said | Posts | Missing:
        """Read the page with another body in the place of its own, for accounts that are those of the recording."""
        page, asked = structs.replace(self.page, body=body), accounts or self.recording.asked()
        return parse(self.recording.platform, self.recording.kind, page, asked)

    def asked_again(self) -> list[Account]:
        """Return the accounts as they are asked for the next time: by the ids that the answer gives."""
        asked, found = self.recording.asked(), self.read(self.page.body)
        if self.recording.kind == "resolve" or not isinstance(found, list):
            return asked
        given = {one.account_key: one.external_id for one in found if isinstance(one, Profile)}
        return [
            structs.replace(account, external_id=given.get(account.account_key, account.external_id))
            for account in asked
        ]


class GoodAnswers:
    """Every recorded good call, made once through the real client."""

    def __init__(self, server: HTTPServer) -> None:
        self._found: dict[tuple[str, str], Answer] = {}
        for one in load():
            if one.is_good:
                play(server, one.exchanges)
                page = fetch(one, client(READERS[one.platform], server))
                self._found[one.platform, one.name] = Answer(one, page)
                server.clear()

    def __getitem__(self, good: tuple[str, str]) -> Answer:
        """Return the answer of a platform and the name of a recording."""
        return self._found[good]

    def of(self, platform: str) -> list[Answer]:
        return [answer for answer in self._found.values() if answer.recording.platform == platform]


def fetch(recording: Recording, http: Client) -> Page:
    platform, accounts = READERS[recording.platform], recording.asked()
    if recording.kind == "posts":
        return platform.fetch_posts(accounts[0], http, recording.cursor)
    return (
        platform.fetch_resolve(accounts, http)
        if recording.kind == "resolve"
        else platform.fetch_profiles(accounts, http)
    )


def parse(platform: str, kind: Kind, page: Page, accounts: Sequence[Account]) -> Said | Posts | Missing:
    reader = READERS[platform]
    if kind == "posts":
        return reader.parse_posts(page, accounts[0])
    return list(reader.parse_resolve(page, accounts) if kind == "resolve" else reader.parse_profiles(page, accounts))


def read(recording: Recording, http: Client) -> Said | Posts | Missing:
    """Make a recording's call. Raises what comes of it."""
    return parse(recording.platform, recording.kind, fetch(recording, http), recording.asked())


def outcome_of(recording: Recording, http: Client) -> Any:
    """Make a recording's call; return what comes of it as JSON has it."""
    try:
        found = read(recording, http)
        return plain([found] if isinstance(found, Missing) else found)
    except ScrapeError as exc:
        more = {name: getattr(exc, name) for name in ("retry_at", "bad") if hasattr(exc, name)}
        return plain({"error": type(exc).__name__, "reason": exc.reason} | more)


def plain(value: Any) -> Any:
    """Return records as JSON has them, without the fields that are None."""
    return without_none(json.loads(msgspec.json.encode(value)))


def without_none(value: Any) -> Any:
    if isinstance(value, list):
        return [without_none(one) for one in value]
    if isinstance(value, dict):
        return {name: without_none(one) for name, one in value.items() if one is not None}
    return value
