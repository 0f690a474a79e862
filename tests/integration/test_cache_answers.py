"""What is kept: one body in several encodings, compressed well when it is hot; and that there is no such account."""

import gzip
import json
import random
import string
from collections.abc import Callable, Iterator
from typing import Any

import brotli
import pytest
import zstandard
from click.testing import Result
from redis import Redis
from sqlalchemy import event

from api.cache import answers
from api.cache.shared import VALUE_KEY
from db import keys
from db.engine import Engine, transaction
from tests import fakes
from tests.jobs import listed, requested, said, saved
from tests.serving import InProcess, add_account, in_process, keep, purger, wait_for

WAYS = ("zstd", "br", "gzip", "identity")


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        api.wait_until_it_hears_purges()
        yield api


@pytest.fixture
def statements(api: InProcess) -> list[str]:
    """Return the statements that the API sends, as they come."""
    sent: list[str] = []
    event.listen(api.engine, "before_cursor_execute", lambda _conn, _cursor, sql, *_: sent.append(sql))
    return sent


@pytest.fixture
def many(engine: Engine) -> None:
    with transaction(engine) as conn:
        chance = random.Random(1)
        for number in range(60):
            name = "".join(chance.choices(string.ascii_lowercase, k=12))
            keep(conn, add_account(conn, f"x/{name}", org_name=f"Office {number % 7}"), chance.randrange(10**6))


def body_of(answer: Any) -> bytes:
    """Return what an answer says, whatever its encoding."""
    content: bytes = answer.content
    coding = answer.headers.get("content-encoding", "identity")
    unpacked: bytes = {
        "zstd": zstandard.decompress,
        "br": brotli.decompress,
        "gzip": gzip.decompress,
        "identity": bytes,
    }[coding](content)
    return unpacked


@pytest.mark.usefixtures("many")
def test_another_encoding_of_what_is_cached_asks_the_database_for_nothing(
    api: InProcess, statements: list[str], database_url: str, redis_url: str
) -> None:
    first = api.get("/api/summary", Accept_Encoding="zstd")
    asked = len(statements)
    assert first.headers["x-cache"] == "miss"
    assert asked > 0
    others = [api.get("/api/summary", Accept_Encoding=coding) for coding in WAYS]
    with in_process(fakes.settings(database_url, redis_url)) as process:  # another process, from Redis
        process.wait_until_it_hears_purges()
        others += [process.get("/api/summary", Accept_Encoding=coding) for coding in reversed(WAYS)]
    assert {answer.headers["x-cache"] for answer in others} <= {"l1", "l2"}
    assert {body_of(answer) for answer in others} == {body_of(first)}
    assert len({answer.headers["etag"] for answer in others}) == len(WAYS)
    assert len(statements) == asked


@pytest.mark.usefixtures("many")
def test_a_hot_answer_is_compressed_better_and_an_etag_still_names_the_same_bytes(api: InProcess) -> None:
    for coding in WAYS[:-1]:
        bytes_by_etag: dict[str, bytes] = {}

        def ask(coding: str = coding, seen: dict[str, bytes] = bytes_by_etag) -> int:
            answer = api.get("/api/summary", Accept_Encoding=coding)
            assert seen.setdefault(answer.headers["etag"], answer.content) == answer.content
            return len(seen)

        first = api.get("/api/summary", Accept_Encoding=coding)
        assert ask() == 1
        for _ in range(2 * answers.HOT_HITS):
            ask()
        wait_for(lambda ask=ask: ask() == 2, f"better {coding}")
        quick, best = bytes_by_etag.values()
        assert len(best) < len(quick)
        now = api.get("/api/summary", Accept_Encoding=coding)
        assert body_of(now) == body_of(first)
        # Whoever has the first bytes still has what there is to say, and is told so of the bytes that he has.
        for one in bytes_by_etag:
            again = api.get("/api/summary", Accept_Encoding=coding, If_None_Match=one)
            assert (again.status_code, again.headers["etag"]) == (304, one)
        assert api.get("/api/summary", Accept_Encoding="identity", If_None_Match=one).status_code == 200


@pytest.mark.usefixtures("many")
def test_a_long_answer_is_kept_in_few_bytes_and_comes_back_as_it_was(
    api: InProcess, database_url: str, redis_url: str
) -> None:
    first = api.get("/api/summary", Accept_Encoding="identity")
    with Redis.from_url(redis_url) as client:
        wait_for(lambda: bool(client.keys(f"{VALUE_KEY}*")), "the answer in Redis")
        (name,) = client.scan_iter(f"{VALUE_KEY}*")
        assert client.hstrlen(name, "identity") < len(first.content) / 3
    with in_process(fakes.settings(database_url, redis_url)) as process:
        process.wait_until_it_hears_purges()
        again = process.get("/api/summary", Accept_Encoding="identity")
    assert again.headers["x-cache"] == "l2"
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])


@pytest.mark.usefixtures("many")
def test_who_walks_through_a_list_puts_nothing_into_redis_and_others_still_get_their_own(
    api: InProcess, database_url: str, redis_url: str
) -> None:
    path = "/api/summary?per_page=7"
    first = api.get(path)
    assert first.headers["x-cache"] == "miss"
    seen, cursor = len(first.json["items"]), first.json["next_cursor"]
    walked = []
    while cursor:
        walked.append(f"{path}&cursor={cursor}")
        answer = api.get(walked[-1])
        assert answer.headers["x-cache"] == "miss"
        seen, cursor = seen + len(answer.json["items"]), answer.json["next_cursor"]
    assert seen == 60
    assert {api.get(url).headers["x-cache"] for url in walked} == {"l1"}
    with Redis.from_url(redis_url) as client:
        wait_for(lambda: bool(client.keys(f"{VALUE_KEY}*")), "the first page in Redis")
        assert len(client.keys("rollcall:cache:value:*")) == 1
        assert not client.keys("rollcall:cache:flight:*")
    with in_process(fakes.settings(database_url, redis_url)) as process:
        process.wait_until_it_hears_purges()
        assert process.get(path).headers["x-cache"] == "l2"
        for url in walked:
            again = process.get(url)
            assert (again.headers["x-cache"], again.content) == ("miss", api.get(url).content)


@pytest.mark.usefixtures("many")
def test_a_page_behind_a_cursor_shows_a_commit_as_the_first_one_does(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    path = f"/api/summary?per_page=7&cursor={api.get('/api/summary?per_page=7').json['next_cursor']}"
    key = api.get(path).json["items"][0]["account_key"]
    with transaction(engine) as conn:
        keep(conn, key, 123_456_789)
    purger(fakes.settings(database_url, redis_url)).purge({"summary"})
    wait_for(lambda: api.get(path).json["items"][0]["followers"] == 123_456_789, "the new number")


def test_headers_that_a_page_gives_are_the_same_from_memory(api: InProcess) -> None:
    first, again = api.get("/"), api.get("/")
    assert again.headers["x-cache"] == "l1"
    kept = {name: value for name, value in first.headers.items() if name not in ("x-cache", "x-request-id")}
    assert kept.items() <= again.headers.items()
    assert "content-security-policy" in kept


def test_a_query_is_told_from_another_however_it_is_written(api: InProcess) -> None:
    assert api.get("/api/summary?sort=-followers&page=1").headers["x-cache"] == "miss"
    assert api.get("/api/summary?page=1&sort=-followers").headers["x-cache"] == "l1"
    assert api.get("/api/summary?page=1&sort=followers").headers["x-cache"] == "miss"
    assert api.get("/api/summary?page=1&sort=-followers&nonsense=1").status_code == 400


def test_no_answer_is_given_to_whoever_has_no_key(database_url: str, redis_url: str, engine: Engine) -> None:
    settings = fakes.settings(database_url, redis_url)
    closed = fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        assert api.get("/api/summary").status_code == 200
    with transaction(engine) as conn:
        token = keys.create(conn, name="a test", scopes=[])
    with in_process(closed) as api:
        api.wait_until_it_hears_purges()
        for _ in range(2):
            assert api.get("/api/summary").status_code == 401
            assert api.get("/api/summary", Authorization=f"Bearer {token}").status_code == 200
        assert api.get("/api/summary", Authorization=f"Bearer {token}").headers["x-cache"] == "l1"


def test_that_there_is_no_such_account_is_remembered_until_one_is_added(
    api: InProcess, rollcall: Callable[..., Result]
) -> None:
    path = "/api/history/x/agency"
    first, again = api.get(path), api.get(path)
    assert (first.status_code, first.headers["x-cache"]) == (404, "miss")
    assert (again.status_code, again.headers["x-cache"], again.json) == (404, "l1", first.json)
    assert again.headers["content-type"] == "application/problem+json"
    assert api.get(path, If_None_Match=again.headers["etag"]).status_code == 404
    assert rollcall("accounts", "import", "-", stdin="url\nhttps://x.com/agency\n").exit_code == 0
    wait_for(lambda: api.get(path).status_code == 200, "the account", 5)


def test_a_name_that_an_account_takes_on_is_found_at_once(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    """A reading says that an account is called otherwise now: what said that there is nobody of that name ends."""
    with transaction(engine) as conn:
        (key,) = listed(conn, "agency", external_id="1")
    assert api.get("/api/accounts/x/renamed").status_code == 404
    with transaction(engine) as conn:
        job = requested(conn, [key])
        changes = saved(conn, job, said(job, handle="renamed", external_id="1"))
    assert changes is not None
    purger(fakes.settings(database_url, redis_url)).purge(changes.tags)
    wait_for(lambda: api.get("/api/accounts/x/renamed").status_code == 200, "the new name", 5)


def test_a_past_name_shows_whoever_takes_it_on(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    """Nothing changes with the account that left the name: its own tag isn't purged when another takes that."""

    def rename(key: int, handle: str, external_id: str) -> None:
        with transaction(engine) as conn:
            job = requested(conn, [key])
            changes = saved(conn, job, said(job, handle=handle, external_id=external_id))
        assert changes is not None
        purger(fakes.settings(database_url, redis_url)).purge(changes.tags)

    def shown(path: str) -> tuple[str, str]:
        answer = api.get(path)
        return json.loads(body_of(answer))["account"]["handle"], answer.headers["surrogate-key"]

    with transaction(engine) as conn:
        goose, swan = listed(conn, "goose", "swan")
    rename(goose, "gander", "1")
    wait_for(lambda: shown("/api/history/x/goose")[0] == "gander", "the new name", 5)
    api.get("/api/accounts/x/GOOSE")
    api.get("/api/posts/x/goose")
    assert api.get("/api/posts/x/goose").headers["x-cache"] == "l1"
    assert {"names", f"account:{goose}"} <= set(shown("/api/history/x/goose")[1].split())
    assert "names" not in shown("/api/history/x/@Gander")[1].split(), "no other takes the name it bears today"

    rename(swan, "goose", "2")
    wait_for(lambda: shown("/api/history/x/goose")[0] == "goose", "the one that has the name today", 5)
    assert api.get("/api/accounts/x/GOOSE").json["account_key"] == swan
    assert f"account:{swan}" in api.get("/api/posts/x/goose").headers["surrogate-key"].split()
