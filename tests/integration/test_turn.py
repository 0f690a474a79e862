"""A job's turn: its request leaves on time, late ones push the next or get another slot, unused slots go back."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from redis import Redis
from urllib3 import Timeout
from werkzeug import Request, Response

from deploy.embedded import start_redis
from pipeline import platforms
from pipeline.slots import Slots, next_key
from workers.allowance import LEAD_S, MARGIN, SharedAllowance, Slot, TaskAllowance
from workers.deadline import gated, make_pool
from workers.turn import NoSlot, Turn

TASK = "scrape.x.posts"


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def allowed(redis: Redis, *, space_s: float, requests: int = 1) -> TaskAllowance:
    return TaskAllowance(
        SharedAllowance(redis),
        task=TASK,
        platform=platforms.load()["x"],
        credentials=("1",),
        rate="any",
        space_s=space_s,
        requests=requests,
    )


def opens_in_s(redis: Redis) -> float:
    return Slots(redis).opens_in_s([(TASK, "1")])[TASK, "1"]


def test_a_request_leaves_at_its_slot_however_early_the_job_is_ready(redis: Redis) -> None:
    allowance = allowed(redis, space_s=0.2)
    allowance.reserve()
    time.sleep(allowance.reserve().wait_s)
    slot = allowance.reserve()
    ready_at = time.monotonic()

    Turn(allowance, slot).wait()

    assert ready_at < slot.starts_at <= time.monotonic() < slot.starts_at + 0.05


def test_the_next_slot_counts_from_when_the_request_left(redis: Redis) -> None:
    allowance = allowed(redis, space_s=10)
    turn = Turn(allowance, allowance.reserve())
    time.sleep(0.5)  # the database was slow

    turn.wait()
    turn.sent()

    assert 9.9 < opens_in_s(redis) <= 10
    # On time it would have been ten seconds from the slot, half a second ago.


def test_further_requests_of_a_call_leave_at_once_and_keep_their_own_share(redis: Redis) -> None:
    allowance = allowed(redis, space_s=9, requests=3)
    turn = Turn(allowance, allowance.reserve())
    for _ in range(3):
        turn.wait()
        turn.sent()

    assert opens_in_s(redis) == pytest.approx(9 * (1 + MARGIN), abs=0.2)


def test_a_call_that_missed_its_slot_goes_after_the_one_that_took_the_next(redis: Redis) -> None:
    allowance = allowed(redis, space_s=0.2)
    late = Turn(allowance, allowance.reserve())
    while (other := allowance.reserve()).credential is None:
        time.sleep(other.wait_s)
    Turn(allowance, other).wait()

    late.wait()

    # What Redis took to answer makes the other's slot seem that much later than it was.
    assert time.monotonic() >= other.starts_at + 0.2 - 0.05


def test_a_call_whose_process_was_stopped_while_it_waited_for_its_slot_does_not_use_it_late(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowance = allowed(redis, space_s=0.2)
    allowance.reserve()
    time.sleep(allowance.reserve().wait_s)
    turn = Turn(allowance, allowance.reserve())
    sleep, taken = time.sleep, list[Slot]()

    def stopped(seconds: float) -> None:
        monkeypatch.setattr(time, "sleep", sleep)
        sleep(seconds + 0.2)
        taken.append(allowance.reserve())

    monkeypatch.setattr(time, "sleep", stopped)
    turn.wait()

    (other,) = taken
    assert other.credential is not None
    # What Redis took to answer makes the other's slot seem that much later than it was.
    assert time.monotonic() >= other.starts_at + 0.2 - 0.05


def test_a_job_does_not_wait_long_for_another_slot(redis: Redis) -> None:
    allowance = allowed(redis, space_s=0.1)
    turn = Turn(allowance, allowance.reserve())
    time.sleep(0.1)
    allowance.shared.slow(TASK, "1", for_s=60)  # the platform's headers, meanwhile

    with pytest.raises(NoSlot) as refused:
        turn.wait()

    assert refused.value.wait_s == pytest.approx(60 - LEAD_S, abs=1)


def test_a_slot_that_no_request_used_goes_back_once(redis: Redis) -> None:
    allowance = allowed(redis, space_s=30)
    turn = Turn(allowance, allowance.reserve())
    turn.end()
    assert opens_in_s(redis) == 0

    used = Turn(allowance, allowance.reserve())
    used.wait()
    used.end()
    turn.end()
    assert opens_in_s(redis) > 29


def test_without_redis_a_call_that_missed_its_slot_is_not_made(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    with Redis.from_url(server.url, socket_timeout=1) as redis:
        allowance = allowed(redis, space_s=0.02)
        turn = Turn(allowance, allowance.reserve())
        server.stop()
        time.sleep(0.05)

        with pytest.raises(NoSlot):
            turn.wait()
        turn.end()


def test_a_call_that_is_somewhat_late_says_so_before_it_leaves(redis: Redis) -> None:
    allowance = allowed(redis, space_s=10)
    turn = Turn(allowance, allowance.reserve())
    time.sleep(0.5)

    turn.wait()

    assert 9.7 < opens_in_s(redis) <= 10


def test_a_call_that_is_somewhat_late_and_cannot_say_so_is_not_made(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    with Redis.from_url(server.url, socket_timeout=1) as redis:
        allowance = allowed(redis, space_s=10)
        turn = Turn(allowance, allowance.reserve())
        server.stop()
        time.sleep(0.05)

        with pytest.raises(NoSlot):
            turn.wait()
        turn.end()


class Noting:
    """A gate that notes what happens at it."""

    def __init__(self, wait_s: float = 0) -> None:
        self.notes: list[tuple[str, float]] = []
        self._wait_s = wait_s

    def wait(self) -> None:
        time.sleep(self._wait_s)
        self.notes.append(("wait", time.monotonic()))

    def sent(self) -> None:
        self.notes.append(("sent", time.monotonic()))


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"{}")])
def test_a_request_arrives_between_waiting_at_the_gate_and_the_word_that_it_left(
    httpserver: HTTPServer, method: str, body: bytes | None
) -> None:
    arrived: list[float] = []
    told = threading.Event()

    def answer(request: Request) -> Response:
        arrived.append(time.monotonic())
        assert told.wait(5), "nobody said that the request had left, before its answer came"
        return Response("{}")

    httpserver.expect_request("/").respond_with_handler(answer)
    gate = Noting(wait_s=0.1)
    gate_sent = gate.sent
    gate.sent = lambda: (gate_sent(), told.set())  # type: ignore[method-assign,assignment]

    with gated(gate):
        ask(httpserver, method, body)

    assert [what for what, _ in gate.notes] == ["wait", "sent"]
    assert gate.notes[0][1] <= arrived[0]


def test_what_a_gate_raises_comes_out_and_nothing_is_sent(httpserver: HTTPServer) -> None:
    class Closed(Noting):
        def wait(self) -> None:
            raise NoSlot(3)

    gate = Closed()
    with pytest.raises(NoSlot), gated(gate):
        ask(httpserver)

    assert (gate.notes, httpserver.log) == ([], [])


def test_other_threads_and_later_requests_pass_no_gate(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_data("{}")
    gate = Noting()
    with gated(gate):
        other = threading.Thread(target=ask, args=(httpserver,))
        other.start()
        other.join()
        with gated(None):
            ask(httpserver)
    ask(httpserver)

    assert gate.notes == []


def ask(server: HTTPServer, method: str = "GET", body: Any = None) -> None:
    with make_pool().request(
        method, server.url_for("/"), body=body, timeout=Timeout(total=10), retries=False, preload_content=False
    ) as answer:
        answer.read()


def test_the_next_time_ends_by_itself(redis: Redis) -> None:
    """A task that is never called again leaves nothing behind."""
    allowed(redis, space_s=30).reserve()

    assert 30 < redis.ttl(next_key(TASK, "1")) <= 33
