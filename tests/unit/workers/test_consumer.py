"""Held messages: one timer, a person's first, and no guess while the allowance can't be asked."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from redis import ConnectionError as RedisGone

from workers.allowance import Slot
from workers.consumer import ASK_AGAIN_S, Bucket, Consumer

GO = Slot(credential="1")


def wait(seconds: float) -> Slot:
    return Slot(wait_s=seconds)


class Timer:
    """Records what it was armed with, and fires when told."""

    def __init__(self) -> None:
        self.armed: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def call_after(self, wait_s: float, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.armed.append((wait_s, function, args))

    def fire(self) -> None:
        _, function, args = self.armed.pop(0)
        function(*args)


def held(*answers: Slot | Exception) -> tuple[Consumer, Bucket, Timer, list[tuple[str, str | None]]]:
    """Return a consumer whose allowance gives these answers in turn, and the messages it let go."""
    waiting = iter(answers)

    def reserve() -> Slot:
        answer = next(waiting)
        if isinstance(answer, Exception):
            raise answer
        return answer

    consumer = Consumer.__new__(Consumer)
    consumer.timer = timer = Timer()
    let_go: list[tuple[str, str | None]] = []
    consumer._limit_move_to_pool = lambda request: let_go.append((request.name, request.request_dict["credential"]))
    return consumer, Bucket(reserve), timer, let_go


def message(name: str, lane: str = "core") -> Any:
    return SimpleNamespace(name=name, delivery_info={"routing_key": f"x.{lane}", "priority": 0}, request_dict={})


def test_however_many_messages_wait_one_timer_is_armed() -> None:
    consumer, bucket, timer, let_go = held(GO, wait(0.5), GO, wait(0.5))

    for name in ("first", "second", "third"):
        consumer._limit_task(message(name), bucket, 1)

    assert let_go == [("first", "1")]
    assert [wait_s for wait_s, *_ in timer.armed] == [0.5]

    timer.fire()
    assert let_go == [("first", "1"), ("second", "1")]
    assert len(timer.armed) == 1


def test_a_persons_message_goes_before_those_that_were_held_already() -> None:
    consumer, bucket, timer, let_go = held(wait(1), GO, GO, GO)
    for name, lane in (("sweep", "core"), ("again", "retry"), ("person", "user_requested")):
        consumer._limit_task(message(name, lane), bucket, 1)

    timer.fire()

    assert [name for name, _ in let_go] == ["person", "sweep", "again"]


def test_without_redis_nothing_is_let_go_and_it_asks_again() -> None:
    consumer, bucket, timer, let_go = held(RedisGone("gone"), GO)

    consumer._limit_task(message("first"), bucket, 1)
    assert (let_go, timer.armed[0][0]) == ([], ASK_AGAIN_S)

    timer.fire()
    assert let_go == [("first", "1")]


def test_while_the_platform_is_paused_jobs_are_let_go_to_give_themselves_back() -> None:
    consumer, bucket, timer, let_go = held(Slot())

    consumer._limit_task(message("first"), bucket, 1)

    assert (let_go, timer.armed) == ([("first", None)], [])


def test_a_lost_connection_forgets_what_was_held_since_it_comes_again() -> None:
    consumer, bucket, timer, let_go = held(wait(1))
    consumer._limit_task(message("first"), bucket, 1)

    bucket.clear_pending()
    timer.fire()

    assert let_go == []
