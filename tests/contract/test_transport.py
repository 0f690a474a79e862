"""What can happen to any answer on its way, for every kind of call of every platform, through the real client.

A recorded good call is made; its last answer arrives spoilt.
"""

import re
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from pipeline import errors
from pipeline.errors import ScrapeError
from pipeline.records import Kind, Missing
from tests.contract.playback import CALLS, NOON, READERS, client, play_spoilt, read, shortest_good

MAINTENANCE = "<!DOCTYPE html><html><head><title>Maintenance</title></head><body>Back soon.</body></html>"
BOT_CHECK = "<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>"
LOGIN = "<!DOCTYPE html><html><body><form><input type='password' name='pass'></form></body></html>"
HTML = "text/html; charset=utf-8"
JSON = "application/json"


SPOILT: list[tuple[str, Callable[[Response], Response], type[ScrapeError]]] = [
    ("500", lambda _: Response("{}", 500, content_type=JSON), errors.PlatformDown),
    ("502 in HTML", lambda _: Response(MAINTENANCE, 502, content_type=HTML), errors.PlatformDown),
    ("503 without a body", lambda _: Response("", 503), errors.PlatformDown),
    ("empty", lambda _: Response("", 200, content_type=JSON), errors.PlatformDown),
    ("truncated", lambda answer: Response(answer.get_data()[:-2], 200, content_type=JSON), errors.PlatformDown),
    ("HTML instead of JSON", lambda _: Response(MAINTENANCE, 200, content_type=HTML), errors.BadPage),
    ("a bot check", lambda _: Response(BOT_CHECK, 200, content_type=HTML), errors.NotAllowed),
    ("a bot check that refuses", lambda _: Response(BOT_CHECK, 403, content_type=HTML), errors.NotAllowed),
    ("a bot check as 503", lambda _: Response(BOT_CHECK, 503, content_type=HTML), errors.NotAllowed),
    ("a login page", lambda _: Response(LOGIN, 200, content_type=HTML), errors.NotAllowed),
]


@pytest.mark.parametrize(("name", "kind"), CALLS)
@pytest.mark.parametrize(("spoil", "error"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_an_answer_that_is_spoilt_on_its_way_is_an_error_of_its_own_kind(
    name: str, kind: Kind, spoil: Callable[[Response], Response], error: type[ScrapeError], httpserver: HTTPServer
) -> None:
    assert type(failure(name, kind, spoil, httpserver)) is error


@pytest.mark.parametrize(("name", "kind"), CALLS)
@pytest.mark.parametrize(
    "refusal",
    [Response(MAINTENANCE, status, content_type=HTML) for status in (401, 403)]
    + [Response("{}", status, content_type=JSON) for status in (401, 403)],
    ids=["401 in HTML", "403 in HTML", "401", "403"],
)
def test_a_refusal_names_the_credential_to_check(
    name: str, kind: Kind, refusal: Response, httpserver: HTTPServer
) -> None:
    platform = READERS[name]
    names = (*platform.needs, *platform.instead, *platform.uses) or ("refused",)
    found = failure(name, kind, lambda _: refusal, httpserver)
    assert isinstance(found, errors.NotAllowed) or found.result == "blocked"
    assert re.search("|".join(names), found.reason)


@pytest.mark.parametrize(("name", "kind"), CALLS)
def test_a_429_of_no_known_shape_is_taken_at_its_word(name: str, kind: Kind, httpserver: HTTPServer) -> None:
    limited = Response(MAINTENANCE, 429, {"Retry-After": "120"}, content_type=HTML)
    found = failure(name, kind, lambda _: limited, httpserver)
    assert isinstance(found, errors.RateLimited)
    assert found.retry_at == NOON + timedelta(seconds=120)


@pytest.mark.parametrize(("name", "kind"), CALLS)
def test_an_answer_that_does_not_come_in_time_is_given_up(name: str, kind: Kind, httpserver: HTTPServer) -> None:
    given_up = threading.Event()

    def wait(answer: Response) -> Response:
        given_up.wait(10)
        return answer

    found = failure(name, kind, wait, httpserver, deadline_s=0.15)
    given_up.set()
    assert type(found) is errors.TimedOut


def failure(
    name: str, kind: Kind, spoil: Callable[[Response], Response], server: HTTPServer, *, deadline_s: float = 10
) -> Any:
    """Return the error that a good call ends in when its last answer is spoilt, or what it says of its one account."""
    recording = shortest_good(name, kind)
    play_spoilt(server, recording, spoil)
    try:
        found = read(recording, client(READERS[name], server, deadline_s=deadline_s))
    except ScrapeError as exc:
        return exc
    finally:
        server.check()  # a fault of the test's own server isn't taken for the one that it plays
    said = found if isinstance(found, list) else [found]
    assert all(isinstance(one, Missing) for one in said), found
    return said[0]
