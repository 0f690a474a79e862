"""What pages are told while accounts are read: what, how often, how many of them, and until when."""

import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import Struct

from api.streams import PULSE_S
from db.engine import Engine, transaction
from deploy.embedded import start_redis
from pipeline.messages import Purger
from tests import fakes
from tests.serving import (
    PATIENCE_S,
    Gunicorn,
    InProcess,
    add_account,
    gunicorn,
    in_process,
    keep,
    purger,
    stand,
    wait_for,
)

GRACEFUL_S = 3.0  # deploy/gunicorn.conf.py


class Event(Struct, frozen=True):
    name: str
    data: dict[str, int]
    at: float


class Client:
    """A page that listens."""

    def __init__(self, server: Gunicorn, query: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        self._connection.request("GET", f"/api/live{query}")
        self.answer = self._connection.getresponse()
        self.status = self.answer.status

    def next(self) -> Event | None:
        """Return the next event; None when the stream has ended."""
        name = ""
        while line := self.answer.readline().decode():
            field, _, value = line.strip().partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                return Event(name, json.loads(value), time.monotonic())
        return None

    def until(self, name: str) -> Event:
        while event := self.next():
            if event.name == name:
                return event
        raise AssertionError(f"the stream ended without {name}")

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


@pytest.fixture
def account(engine: Engine) -> int:
    """Return an account that is due: a reading is under way, until it is no more."""
    with transaction(engine) as conn:
        return add_account(conn, "x/agency")


@pytest.fixture
def purge(database_url: str, redis_url: str) -> Purger:
    return purger(fakes.settings(database_url, redis_url))


@pytest.fixture
def serve(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Gunicorn]]:
    running = []

    def serve(**environ: str) -> Gunicorn:
        manager = gunicorn(database_url, redis_url, tmp_path, workers=1, **environ)
        running.append(manager)
        return manager.__enter__()

    yield serve
    for manager in running:
        manager.__exit__(None, None, None)


def test_a_page_is_told_how_far_a_reading_is_and_what_changed_and_when_it_is_over(
    serve: Callable[..., Gunicorn], engine: Engine, account: int, purge: Purger
) -> None:
    server = serve()
    with transaction(engine) as conn:
        other = add_account(conn, "x/other")
    with closing(Client(server)) as page, closing(Client(server, f"?tag=account:{account}")) as of_account:
        assert page.answer.headers["Content-Type"] == "text/event-stream"
        assert page.answer.headers["Cache-Control"] == "no-store"
        assert page.answer.headers["X-Accel-Buffering"] == "no"
        assert page.until("progress").data == of_account.until("progress").data == {"wanted": 2, "done": 0}

        for key in (other, account):
            with transaction(engine) as conn:
                keep(conn, key, 5)
                stand(conn, key, next_due_at=datetime.now(UTC) + timedelta(days=1))
            purge.purge({"summary", f"account:{key}"})
            page.until("changed")
        assert of_account.until("changed")
        assert page.until("progress").data["wanted"] == 2
        assert page.until("idle").data == {"wanted": 2, "done": 2}
        assert page.next() is None


def test_nothing_is_said_and_no_stream_kept_while_nothing_is_read(serve: Callable[..., Gunicorn]) -> None:
    with closing(Client(serve())) as page:
        assert page.status == 200
        event = page.next()
        assert event and (event.name, event.data) == ("idle", {"wanted": 0, "done": 0})
        assert page.next() is None


def test_many_changes_are_one_message_every_two_seconds(
    serve: Callable[..., Gunicorn], account: int, purge: Purger
) -> None:
    with closing(Client(serve(LIVE_STREAM_S="7"))) as page:
        page.until("progress")
        began, heard = time.monotonic(), []
        while time.monotonic() - began < 3 * PULSE_S:
            purge.purge({"summary"})
        while event := page.next():
            heard.append(event)
    assert {event.name for event in heard} == {"changed"}
    # Written by one clock and read by another: a busy machine may bring two together, but not more of them.
    assert 2 <= len(heard) <= 4


def test_no_more_pages_than_may_are_told_and_who_goes_leaves_room(
    serve: Callable[..., Gunicorn], account: int
) -> None:
    server = serve(LIVE_STREAMS="2")
    first, second = Client(server), Client(server)
    assert (first.status, second.status) == (200, 200)
    with closing(Client(server)) as third:
        assert (third.status, third.answer.headers["Retry-After"]) == (503, "30")
        assert "LIVE_STREAMS" in json.loads(third.answer.read())["detail"]

    first.close()

    def is_let_in() -> bool:
        with closing(Client(server)) as page:
            return page.status == 200

    wait_for(is_let_in, "the place of who went")
    second.close()


def test_a_stream_ends_with_its_time(serve: Callable[..., Gunicorn], account: int) -> None:
    with closing(Client(serve(LIVE_STREAM_S="1"))) as page:
        assert page.until("progress").data == {"wanted": 1, "done": 0}
        assert page.next() is None


def test_a_process_that_is_told_to_stop_does_not_wait_for_streams(
    serve: Callable[..., Gunicorn], account: int, tmp_path: Path
) -> None:
    server = serve()
    pages = [Client(server) for _ in range(20)]
    for page in pages:
        page.until("progress")

    server.process.send_signal(signal.SIGTERM)

    for page in pages:
        assert page.answer.read().strip() == b""  # of a stream that was cut off: IncompleteRead
        page.close()
    assert server.process.wait(PATIENCE_S) == 0
    log = (tmp_path / "api.log").read_text()
    assert "Forcing close" not in log, log
    assert "Traceback" not in log, log


def test_without_redis_a_page_is_told_that_nothing_can_be_heard(
    database_url: str, engine: Engine, account: int, tmp_path: Path
) -> None:
    redis = start_redis(tmp_path / "redis")
    with gunicorn(database_url, redis.url, tmp_path, workers=1) as server:

        def is_said(path: str) -> bool:
            status, _, body = server.get(path)
            assert status == 200
            return b"Redis or the message broker is away" in body

        with closing(Client(server)) as page:
            page.until("progress")
            assert not is_said("/")
            redis.stop()
            while page.next():
                pass
        with closing(Client(server)) as page:
            assert page.status == 503
            assert json.loads(page.answer.read())["detail"] == "Changes can't be heard of at the moment."
        for path in ("/", "/accounts", "/accounts/x/agency", "/grid", "/compare"):
            wait_for(lambda path=path: is_said(path), f"{path} says what it can't do")
        redis = start_redis(tmp_path / "redis")
        wait_for(lambda: not is_said("/"), "a page that has forgotten it")
        with closing(Client(server)) as page:
            assert page.until("progress").data == {"wanted": 1, "done": 0}
    redis.stop()


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


@pytest.mark.parametrize("tag", ["grid", "account:", "account:x", "summary%20", "*", ""])
def test_a_tag_that_no_page_has_is_refused(api: InProcess, tag: str) -> None:
    answer = api.get(f"/api/live?tag={tag}")
    assert answer.status_code == 400
    assert answer.json["errors"][0]["field"] == "tag"


def test_a_stream_is_no_part_of_a_batch(api: InProcess) -> None:
    answer = api.ask("POST", "/api/batch", b'{"requests": [{"path": "/api/live"}, {"path": "/api/%6cive"}]}')
    assert [part["status"] for part in answer.json["responses"]] == [400, 400]
