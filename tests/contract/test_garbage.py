"""Whatever arrives, a reader gives records of what the answer says, or an error of the taxonomy: never anything else."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Response

from pipeline.errors import BatchRefused, ScrapeError
from pipeline.records import Account, Kind, Missing, Page, Posts, Profile
from tests.contract.counts import KEYED, SUMS, counts
from tests.contract.parts import changed, replaced, walk, without
from tests.contract.playback import (
    CALLS,
    NOON,
    READERS,
    GoodAnswers,
    client,
    parse,
    play_spoilt,
    read,
    shortest_good,
)

Found = list[Profile | Missing] | Posts | Missing

# The same examples in every run, of a number that leaves time for the other tests.
repeatable = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Python's json reads NaN, Infinity and halves of surrogate pairs, so they may arrive.
TEXTS = st.text(max_size=20) | st.sampled_from(["", "\ud83d", "\0", "12", "-1", "1e9", "٣", "2026-03-01T00:00:00Z"])
NUMBERS = st.integers() | st.sampled_from([2**53 + 1, 2**63, 10**400, -1]) | st.floats()
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"data": value}
    return value


def names(answers: GoodAnswers, platform: str) -> list[str]:
    """Return the names of the fields of a platform's answers."""
    pages = (answer.page.body for answer in answers.of(platform))
    return sorted({str(key) for body in pages for path, _ in walk(body) for key in path[-1:] if isinstance(key, str)})


CHANGES = ("drop", "replace", "retype", "rename", "repeat", "turn", "nest")
# What is done, to which part of the body (of as many as there are), and with what.
MUTATIONS = st.lists(
    st.tuples(st.sampled_from(CHANGES), st.integers(0, 10_000), VALUES, st.integers(0, 10_000)),
    min_size=1,
    max_size=4,
)


def mutant(body: Any, mutations: Sequence[tuple[str, int, Any, int]], fields: Sequence[str]) -> Any:
    """Return a body with parts dropped, replaced, turned into another type, renamed, repeated, turned around or buried."""
    for change, place, value, choice in mutations:
        parts = list(walk(body))
        path, part = parts[place % len(parts)]
        if not path or change == "replace":
            body = replaced(body, path, value)
        elif change == "drop":
            body = without(body, path)
        elif change == "retype":
            body = replaced(body, path, (str(part), [part], {"data": part}, part == 1)[choice % 4])
        elif change == "nest":
            body = replaced(body, path, nested(50))
        elif change == "rename" and isinstance(path[-1], str):
            body = replaced(without(body, path), (*path[:-1], fields[choice % len(fields)]), part)
        elif change == "repeat" and isinstance(path[-1], int):
            body = changed(body, path, lambda container, key: container.insert(key, container[key]))
        elif change == "turn" and isinstance(part, list):
            body = replaced(body, path, part[::-1])
    return body


@pytest.mark.parametrize(("name", "kind"), CALLS)
@repeatable
@given(which=st.integers(0, 100), mutations=MUTATIONS)
def test_a_good_answer_gone_wrong_gives_no_made_up_records(
    name: str, kind: Kind, which: int, mutations: list[tuple[str, int, Any, int]], good_answers: GoodAnswers
) -> None:
    good = [answer for answer in good_answers.of(name) if answer.recording.kind == kind]
    answer = good[which % len(good)]
    body = mutant(answer.page.body, mutations, names(good_answers, name))
    check(name, kind, Page(200, answer.page.headers, body, NOON), answer.asked_again())


@pytest.mark.parametrize(("name", "kind"), CALLS)
@repeatable
@given(body=VALUES, status=st.sampled_from([200, 400, 401, 403, 404]))
def test_an_answer_of_any_shape_gives_no_made_up_records(name: str, kind: Kind, body: Any, status: int) -> None:
    check(name, kind, Page(status, {}, body, NOON), shortest_good(name, kind).asked())


def check(name: str, kind: Kind, page: Page, asked: Sequence[Account]) -> None:
    """Explain and read a page, as the client and the job do; hold what comes of it to the page."""
    try:
        error = READERS[name].explain(page)
    except ScrapeError:
        error = None  # the client takes it for an error that isn't as documented
    assert error is None or isinstance(error, ScrapeError)
    try:
        found = parse(name, kind, page, asked)
    except BatchRefused as refused:
        assert set(refused.bad) <= {account.account_key for account in asked}
    except ScrapeError as other:
        assert other.platform == name
    else:
        speaks_of_each_once(found, asked)
        says_only_what_stands_there(name, found, page.body, asked)


def speaks_of_each_once(found: Found, asked: Sequence[Account]) -> None:
    said = found if isinstance(found, list) else [found]
    assert [one.account_key for one in said] == [account.account_key for account in asked]
    for one, account in zip(said, asked, strict=True):
        if isinstance(one, Profile) and account.platform not in KEYED and account.external_id is not None:
            assert one.external_id == account.external_id, "somebody else's numbers"


def says_only_what_stands_there(name: str, found: Found, body: Any, asked: Sequence[Account]) -> None:
    there = {count for _, part in walk(body) for count in as_counts(part)}
    sums = {one + other for one in there for other in there}
    for (_, field), count in counts(found).items():
        assert count is None or (type(count) is int and count >= 0)
        is_sum = field in SUMS.get(name, ()) and count in sums
        assert count is None or count in there or is_sum, f"{field} = {count} is made up"
    texts = [keepable(str(part)) for _, part in walk(body)] + [account.handle for account in asked]
    known = {account.account_key: account.external_id for account in asked}
    for one in found if isinstance(found, list) else []:
        if isinstance(one, Profile) and one.external_id != known[one.account_key]:
            # Reddit's ids begin with the kind of account.
            assert any(text and one.external_id.lower().endswith(text.lower()) for text in texts), "a made-up id"


def keepable(text: str) -> str:
    """Return a text as PostgreSQL can keep it."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def as_counts(part: Any) -> Iterator[int]:
    if isinstance(part, str):
        try:
            yield int(part)
        except ValueError:
            return
    elif isinstance(part, int) and not isinstance(part, bool):
        yield part


# Through the client: bytes, any status, any header


@pytest.mark.parametrize(("name", "kind"), CALLS)
@settings(repeatable, max_examples=15)
@given(
    content=st.binary(max_size=200)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b"[" * 100_000, b"\xff\xfe{", b'{"data":', b"NaN", b"<html>", b'"\\ud83d"', b"1" * 5_000]),
    status=st.sampled_from([200, 200, 204, 301, 400, 401, 403, 404, 410, 418, 429, 500, 503, 599]),
    headers=st.dictionaries(
        st.sampled_from(["Retry-After", "X-RateLimit-Reset", "x-rate-limit-remaining", "X-App-Usage", "Link"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20) | st.integers().map(str),
    ),
)
def test_bytes_of_any_kind_end_in_records_or_an_error_that_says_what_it_is(
    name: str, kind: Kind, content: bytes, status: int, headers: dict[str, str], httpserver: HTTPServer
) -> None:
    recording = shortest_good(name, kind)
    httpserver.clear()
    play_spoilt(httpserver, recording, lambda _: Response(content, status, headers))
    try:
        found = read(recording, client(READERS[name], httpserver))
    except ScrapeError as exc:
        assert exc.reason
    else:
        speaks_of_each_once(found, recording.asked())
