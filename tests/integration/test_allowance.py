"""One allowance for every worker: the shared bucket in a real Redis."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from redis import Redis

from db.pauses import Pause
from pipeline import platforms
from workers.allowance import BLOCK_KEY, NEXT_KEY, PAUSE_KEY, SharedAllowance, Slot

X = platforms.load()["x"]
YOUTUBE = platforms.load()["youtube"]
GO, PAUSED = Slot(credential="1"), Slot()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_two_calls_of_a_task_keep_their_distance_and_other_tasks_have_their_own(redis: Redis) -> None:
    allowance = SharedAllowance(redis)

    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=30, requests=1) == GO
    assert 29 < allowance.reserve("scrape.x.profiles", X, ["1"], space_s=30, requests=1).wait_s <= 30
    assert allowance.reserve("scrape.x.posts", X, ["1"], space_s=30, requests=1) == GO


def test_many_workers_together_take_no_more_than_the_limit(redis_url: str) -> None:
    taken: list[float] = []
    stop = threading.Event()

    def work() -> None:
        with Redis.from_url(redis_url) as own:
            allowance = SharedAllowance(own)
            while not stop.is_set():
                slot = allowance.reserve("scrape.x.profiles", X, ["1"], space_s=0.05, requests=1)
                if slot.credential:
                    taken.append(time.monotonic())
                else:
                    stop.wait(slot.wait_s)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    stop.wait(1.5)
    stop.set()
    for worker in workers:
        worker.join()

    moments = sorted(taken)
    # Gaps are measured where the calls are, a moment after Redis gave the slot: 10 ms for the way.
    assert min(b - a for a, b in pairwise(moments)) > 0.04
    assert len(moments) >= 10


def test_unused_time_never_becomes_a_burst(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.reserve("scrape.x.profiles", X, ["1"], space_s=0.01, requests=1)
    deadline = time.monotonic() + 5
    while redis.exists(f"{NEXT_KEY}scrape.x.profiles:1") and time.monotonic() < deadline:
        time.sleep(0.05)  # the slot lies far behind

    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=10, requests=1) == GO
    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=10, requests=1).wait_s > 9


def test_a_spent_day_pauses_the_platform_until_midnight_where_it_lives(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    quota = YOUTUBE.quota
    assert quota is not None

    first = allowance.reserve("scrape.youtube.posts", YOUTUBE, ["1"], space_s=0.001, requests=quota.per_day - 1)
    time.sleep(0.002)
    refused = allowance.reserve("scrape.youtube.posts", YOUTUBE, ["1"], space_s=0.001, requests=2)

    assert (first, refused) == (GO, PAUSED)
    pause = allowance.paused("youtube", "1")
    assert pause is not None
    assert pause.result == "quota"
    assert pause.until == platforms.midnight_after(datetime.now(UTC), "America/Los_Angeles")
    assert allowance.reserve("scrape.youtube.profiles", YOUTUBE, ["1"], space_s=0.001, requests=1) == PAUSED


def test_a_pause_holds_for_every_task_of_its_platform_and_ends_by_itself(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.pause(Pause("x", "1", datetime.now(UTC) + timedelta(seconds=60), "too many requests", "limited"))

    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=1, requests=1) == PAUSED
    assert allowance.reserve("scrape.x.posts", X, ["1"], space_s=1, requests=1) == PAUSED
    assert 0 < redis.pttl(f"{PAUSE_KEY}x:1") <= 60_000
    assert allowance.paused("youtube", "1") is None


def test_headers_only_ever_slow_a_task_down(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.slow("scrape.x.profiles", "1", for_s=20)
    allowance.slow("scrape.x.profiles", "1", for_s=1)

    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=1, requests=1).wait_s > 18


def test_each_credential_has_an_allowance_of_its_own_and_the_rested_one_goes(redis: Redis) -> None:
    allowance = SharedAllowance(redis)

    taken = [allowance.reserve("scrape.x.profiles", X, ["1", "2", "3"], space_s=30, requests=1) for _ in range(4)]

    assert [slot.credential for slot in taken] == ["1", "2", "3", None]
    assert 29 < taken[3].wait_s <= 30


def test_a_paused_credential_leaves_the_work_to_the_others(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.pause(Pause("x", "1", datetime.now(UTC) + timedelta(seconds=60), "too many requests", "limited"))

    slots = [allowance.reserve("scrape.x.posts", X, ["1", "2"], space_s=30, requests=1) for _ in range(2)]

    assert slots[0].credential == "2"
    assert slots[1].wait_s > 29


def block(allowance: SharedAllowance, credential: str) -> None:
    until = datetime.now(UTC) + timedelta(seconds=60)
    allowance.pause(Pause("x", credential, until, "refused (401)", "blocked"))


def test_a_refused_credential_gets_no_slot_while_another_may_be_used(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    block(allowance, "1")

    slots = [allowance.reserve("scrape.x.posts", X, ["1", "2"], space_s=30, requests=1) for _ in range(2)]

    assert slots[0].credential == "2"
    assert 29 < slots[1].wait_s <= 30
    assert 0 < redis.pttl(f"{BLOCK_KEY}x:1") <= 60_000


def test_where_none_is_left_but_refused_credentials_they_take_turns(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.pause(Pause("x", "1", datetime.now(UTC) + timedelta(seconds=60), "too many requests", "limited"))
    for credential in "23":
        block(allowance, credential)

    slots = [allowance.reserve("scrape.x.posts", X, ["1", "2", "3"], space_s=30, requests=1) for _ in range(3)]

    assert [slot.credential for slot in slots] == ["2", "3", None]


def test_a_credential_that_works_again_gets_slots_at_once_unless_it_is_limited(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    for credential in "12":
        block(allowance, credential)
    allowance.pause(Pause("x", "2", datetime.now(UTC) + timedelta(seconds=60), "too many requests", "limited"))

    for credential in "12":
        allowance.unblock("x", credential)

    slots = [allowance.reserve("scrape.x.posts", X, ["1", "2"], space_s=30, requests=1) for _ in range(2)]
    assert slots[0] == GO
    assert slots[1].wait_s > 29


def test_the_day_of_each_credential_is_counted_for_itself(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    quota = YOUTUBE.quota
    assert quota is not None

    slots = [
        allowance.reserve(task, YOUTUBE, ["1", "2"], space_s=30, requests=quota.per_day)
        for task in ("scrape.youtube.posts", "scrape.youtube.profiles", "scrape.youtube.resolve")
    ]

    assert [slot.credential for slot in slots] == ["1", "2", None]
    assert slots[2] == PAUSED
