"""How much one process lets a caller have."""

import pytest

from api import limiting
from api.limiting import Allowance
from pipeline.limits import Rate


class Clock:
    now = 1_000_000_020.0  # 0:00:20 of a window of a minute

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def allowance(clock: Clock, rate: str = "3/1m") -> Allowance:
    return Allowance("address", Rate.parse(rate), clock=clock)


def test_a_caller_gets_so_many_and_no_more_until_the_window_ends(clock: Clock) -> None:
    mine = allowance(clock)
    assert [mine.spend("a").remaining for _ in range(3)] == [2, 1, 0]
    clock.now -= clock.now % 60
    clock.now += 60
    mine = allowance(clock)
    for _ in range(3):
        assert not mine.spend("a").is_over
    clock.now += 59
    over = mine.spend("a")
    assert (over.is_over, over.limit, over.remaining, over.reset_s) == (True, 3, 0, 1)
    assert not mine.spend("b").is_over, "another caller has its own"
    clock.now += 1
    again = mine.spend("a")
    assert (again.is_over, again.remaining, again.reset_s) == (False, 2, 60)


def test_what_was_another_s_is_given_back(clock: Clock) -> None:
    mine = allowance(clock)
    mine.spend("a")
    mine.give_back("a")
    assert [mine.spend("a").is_over for _ in range(4)] == [False, False, False, True]


def test_ever_more_callers_take_no_more_memory(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "MOST_CALLERS", 10)
    mine = allowance(clock)
    for number in range(100):
        assert not mine.spend(f"caller {number}").is_over
    assert len(mine._spent) == 10
    assert [mine.spend("caller 3").is_over for _ in range(3)] == [False, False, True], "known ones are counted on"
