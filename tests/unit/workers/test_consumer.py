"""Held messages: one timer, a person's first, and no guess while the allowance can't be asked."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis import ConnectionError as RedisGone

from workers.allowance import Slot
from workers.consumer import Bucket, Consumer, _interval_s
from workers.pauses import LONGEST_HOLD_S
from workers.turn import ASK_AGAIN_S

GO = Slot(credential="1")


def wait(seconds: float) -> Slot:
    return Slot(wait_s=seconds)


class Entry:
    """What a timer was armed with."""

    def __init__(self, wait_s: float, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.wait_s = wait_s
        self.function = function
        self.args = args
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Timer:
    """Records what it was armed with, and fires when told."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    @property
    def armed(self) -> list[Entry]:
        return [entry for entry in self._entries if not entry.is_cancelled]

    def call_after(self, wait_s: float, function: Callable[..., None], args: tuple[Any, ...]) -> Entry:
        self._entries.append(Entry(wait_s, function, args))
        return self._entries[-1]

    def fire(self) -> None:
        entry = self.armed[0]
        self._entries.remove(entry)
        entry.function(*entry.args)


class Allowance:
    """Gives these answers in turn."""

    rate = "5/s"
    credentials = ("1",)

    def __init__(self, answers: tuple[Slot | Exception, ...]) -> None:
        self._answers = iter(answers)

    def reserve(self, *, for_person: bool = False) -> Slot:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def held(*answers: Slot | Exception) -> tuple[Consumer, Bucket, Timer, list[tuple[str, str | None]]]:
    """Return a consumer whose allowance gives these answers in turn, and the messages it let go."""
    consumer = Consumer.__new__(Consumer)
    consumer.timer = timer = Timer()
    let_go: list[tuple[str, str | None]] = []
    consumer._limit_move_to_pool = lambda request: let_go.append(
        (request.id, request.request_dict["slot"].credential)
    )
    return consumer, Bucket(SimpleNamespace(allowance=Allowance(answers))), timer, let_go


class Message(SimpleNamespace):
    """A message as Celery hands it over; it knows whether it was acknowledged."""

    def __init__(self, name: str, lane: str = "core") -> None:
        super().__init__(id=name, delivery_info={"routing_key": f"x.{lane}"}, request_dict={}, is_done=False)

    def acknowledge(self) -> None:
        self.is_done = True


message = Message


def test_however_many_messages_wait_one_timer_is_armed() -> None:
    consumer, bucket, timer, let_go = held(GO, wait(0.5), GO, wait(0.5))

    for name in ("first", "second", "third"):
        consumer._limit_task(message(name), bucket, 1)

    assert let_go == [("first", "1")]
    assert [entry.wait_s for entry in timer.armed] == [0.5]

    timer.fire()
    assert let_go == [("first", "1"), ("second", "1")]
    assert len(timer.armed) == 1


def test_a_persons_message_goes_before_those_that_were_held_already() -> None:
    consumer, bucket, timer, let_go = held(wait(1), wait(0.5), GO, GO, GO)
    for name, lane in (("sweep", "core"), ("again", "retry"), ("person", "user_requested")):
        consumer._limit_task(message(name, lane), bucket, 1)
    assert [entry.wait_s for entry in timer.armed] == [0.5], "a person's message asks for the next slot at once"

    timer.fire()

    assert [name for name, _ in let_go] == ["person", "sweep", "again"]


def test_without_redis_nothing_is_let_go_and_it_asks_again() -> None:
    consumer, bucket, timer, let_go = held(RedisGone("gone"), GO)

    consumer._limit_task(message("first"), bucket, 1)
    assert (let_go, timer.armed[0].wait_s) == ([], ASK_AGAIN_S)

    timer.fire()
    assert let_go == [("first", "1")]


def test_while_the_platform_is_paused_jobs_are_let_go_to_give_themselves_back() -> None:
    consumer, bucket, timer, let_go = held(Slot())

    consumer._limit_task(message("first"), bucket, 1)

    assert (let_go, timer.armed) == ([("first", None)], [])


def test_a_lost_connection_forgets_what_was_held_since_it_comes_again() -> None:
    consumer, bucket, timer, let_go = held(wait(1), wait(1), GO)
    consumer._limit_task(message("first"), bucket, 1)

    bucket.clear_pending()
    assert (len(bucket), timer.armed) == (0, [])

    consumer._limit_task(message("first"), bucket, 1)
    assert len(timer.armed) == 1
    timer.fire()
    assert let_go == [("first", "1")]


def test_a_second_message_for_a_held_job_is_dropped_unless_it_is_nearer_to_its_turn() -> None:
    consumer, bucket, timer, let_go = held(wait(1), wait(1), GO, GO)
    first, second, persons = message("job"), message("job"), message("job", "user_requested")

    for one in (first, second, persons):
        consumer._limit_task(one, bucket, 1)
    assert [one.is_done for one in (first, second, persons)] == [False, True, False]

    timer.fire()
    assert let_go == [("job", "1"), ("job", "1")]
    assert persons.request_dict and not second.request_dict


def test_a_message_that_was_let_go_may_come_again() -> None:
    consumer, bucket, _, let_go = held(GO, GO)

    for _ in range(2):
        consumer._limit_task(message("job"), bucket, 1)

    assert len(let_go) == 2


def test_messages_whose_turn_is_far_away_go_back_and_the_nearest_stay() -> None:
    consumer, bucket, timer, let_go = held(wait(5), wait(5), Slot(wait_s=LONGEST_HOLD_S - 1, space_s=2.0))
    for name, lane in (("first", "core"), ("second", "core"), ("person", "user_requested")):
        consumer._limit_task(message(name, lane), bucket, 1)

    timer.fire()

    assert let_go == [("second", None), ("first", None)]
    assert (len(bucket), len(timer.armed)) == (1, 1)
    assert bucket.pop().id == "person"


def test_a_job_that_goes_back_knows_how_long_its_turn_is_away() -> None:
    consumer, bucket, timer, _ = held(Slot(wait_s=3600.0, space_s=3600.0))
    far = message("far")

    consumer._limit_task(far, bucket, 1)

    assert far.request_dict["slot"] == Slot(wait_s=3600.0)
    assert timer.armed == []


def test_while_redis_is_away_no_job_goes_back() -> None:
    consumer, bucket, timer, let_go = held(RedisGone("gone"))
    for n in range(100):
        bucket.add(message(str(n)))

    consumer._drain(bucket)

    assert (let_go, len(bucket), len(timer.armed)) == ([], 100, 1)


def test_the_rate_that_counts_is_shown_as_the_tasks_own() -> None:
    consumer, bucket, _, _ = held(Slot(credential="1", rate="2/m"), GO)

    consumer._limit_task(message("first"), bucket, 1)
    assert bucket.task.rate_limit == "2/m"

    consumer._limit_task(message("second"), bucket, 1)
    assert bucket.task.rate_limit == "5/s"


@pytest.mark.parametrize(
    ("written", "interval_s"), [("5/s", 0.2), ("300/15m", 3), ("0.5/m", 120), ("4", 0.25), ("0", 0), ("1000/d", 86.4)]
)
def test_a_rate_is_read_as_the_settings_or_celery_write_it(written: str, interval_s: float) -> None:
    assert _interval_s(written) == pytest.approx(interval_s)


@pytest.mark.parametrize("written", ["", "fast", "5/x", "-1/s", "nan/s", "inf", "5/0m", "None", "1e400/s"])
def test_what_is_no_rate_is_refused_with_how_to_write_one(written: str) -> None:
    with pytest.raises(ValueError, match="write it as 300/15m"):
        _interval_s(written)
