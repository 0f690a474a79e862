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
from pipeline.slots import Override, Slots, next_key
from workers.allowance import BLOCK_KEY, LEAD_S, MARGIN, PAUSE_KEY, SharedAllowance, Slot

X = platforms.load()["x"]
YOUTUBE = platforms.load()["youtube"]
TASK = "scrape.x.profiles"


def is_paused(slot: Slot) -> bool:
    return slot.credential is None and slot.wait_s == 0


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_two_calls_of_a_task_keep_their_distance_and_other_tasks_have_their_own(redis: Redis) -> None:
    allowance = SharedAllowance(redis)

    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=30, requests=1).credential == "1"
    assert 29 < allowance.reserve("scrape.x.profiles", X, ["1"], space_s=30, requests=1).wait_s <= 30 * (1 + MARGIN)
    assert allowance.reserve("scrape.x.posts", X, ["1"], space_s=30, requests=1).credential == "1"


def test_the_next_slot_is_a_person_s_whichever_worker_asks_first(redis: Redis) -> None:
    allowance = SharedAllowance(redis)

    def ask(*, for_person: bool = False) -> Slot:
        return allowance.reserve(TASK, X, ["1"], space_s=0.3, requests=1, for_person=for_person)

    assert ask().credential == "1"
    person = ask(for_person=True)
    core = ask()
    time.sleep(person.wait_s)  # told by Redis, no guess

    assert core.wait_s == pytest.approx(person.wait_s + 0.3, abs=0.05)
    assert ask().credential is None
    assert ask(for_person=True).credential == "1"
    assert ask().wait_s < 0.3 * (1 + MARGIN), "the slot after a person's is anybody's again"


def test_behind_a_person_nobody_waits_longer_than_until_the_slot_of_the_next_credential(redis: Redis) -> None:
    allowance = SharedAllowance(redis)

    def ask(credentials: str = "12", *, for_person: bool = False) -> Slot:
        return allowance.reserve(TASK, X, list(credentials), space_s=10, requests=1, for_person=for_person)

    assert {ask("1").credential, ask("2").credential} == {"1", "2"}
    person = ask(for_person=True)

    assert ask().wait_s == pytest.approx(person.wait_s + 10 / 2, abs=0.5)


def test_a_person_whose_worker_died_keeps_nobody_from_the_slots_for_long(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.reserve(TASK, X, ["1"], space_s=0.2, requests=1)
    allowance.reserve(TASK, X, ["1"], space_s=0.2, requests=1, for_person=True)  # and never again

    deadline = time.monotonic() + 2
    while (slot := allowance.reserve(TASK, X, ["1"], space_s=0.2, requests=1)).credential is None:
        assert time.monotonic() < deadline
        time.sleep(slot.wait_s)


def test_many_workers_together_take_no_more_than_the_limit(redis_url: str) -> None:
    taken: list[float] = []
    stop = threading.Event()

    def work() -> None:
        with Redis.from_url(redis_url) as own:
            allowance = SharedAllowance(own)
            while not stop.is_set():
                slot = allowance.reserve("scrape.x.profiles", X, ["1"], space_s=0.05, requests=1)
                if slot.receipt:
                    taken.append(float(slot.receipt.at))
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
    assert min(b - a for a, b in pairwise(moments)) >= 0.05
    assert len(moments) >= 10


def test_unused_time_never_becomes_a_burst(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.reserve("scrape.x.profiles", X, ["1"], space_s=0.01, requests=1)
    deadline = time.monotonic() + 5
    while redis.exists(next_key(TASK, "1")) and time.monotonic() < deadline:
        time.sleep(0.05)  # the slot lies far behind

    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=10, requests=1).credential == "1"
    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=10, requests=1).wait_s > 9


def test_a_redis_that_forgot_the_last_calls_gives_the_next_slot_a_space_later(redis: Redis) -> None:
    workers = [SharedAllowance(redis), SharedAllowance(redis)]

    def ask(worker: SharedAllowance, credential: str = "1") -> Slot:
        return worker.reserve(TASK, X, [credential], space_s=2, requests=1)

    assert ask(workers[0]).credential == "1"
    assert ask(workers[1], "2").credential == "2"
    redis.flushall()
    slots = [ask(worker, credential) for worker in workers for credential in "12"]

    assert [slot.credential for slot in slots] == [None] * 4
    waits = [slot.wait_s for slot in slots]
    assert waits[0] == pytest.approx(2 * (1 + MARGIN) - LEAD_S, abs=0.001)
    assert waits == sorted(waits, reverse=True), "not counted anew for those who ask later"
    time.sleep(slots[-1].wait_s)
    assert ask(workers[0]).credential == "1"
    assert SharedAllowance(redis).reserve("scrape.x.posts", X, ["1"], space_s=30, requests=1).credential == "1"


def test_a_spent_day_pauses_the_platform_until_midnight_where_it_lives(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    quota = YOUTUBE.quota
    assert quota is not None

    first = allowance.reserve("scrape.youtube.posts", YOUTUBE, ["1"], space_s=0.001, requests=quota.per_day - 1)
    time.sleep(0.002)
    refused = allowance.reserve("scrape.youtube.posts", YOUTUBE, ["1"], space_s=0.001, requests=2)

    assert first.credential == "1"
    assert is_paused(refused)
    pause = allowance.paused("youtube", "1")
    assert pause is not None
    assert pause.result == "quota"
    assert pause.until == platforms.midnight_after(datetime.now(UTC), "America/Los_Angeles")
    assert is_paused(allowance.reserve("scrape.youtube.profiles", YOUTUBE, ["1"], space_s=0.001, requests=1))


def test_a_pause_holds_for_every_task_of_its_platform_and_ends_by_itself(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.pause(Pause("x", "1", datetime.now(UTC) + timedelta(seconds=60), "too many requests", "limited"))

    assert is_paused(allowance.reserve("scrape.x.profiles", X, ["1"], space_s=1, requests=1))
    assert is_paused(allowance.reserve("scrape.x.posts", X, ["1"], space_s=1, requests=1))
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
    assert 29 < taken[3].wait_s <= 30 * (1 + MARGIN)


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
    assert 29 < slots[1].wait_s <= 30 * (1 + MARGIN)
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
    assert slots[0].credential == "1"
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
    assert is_paused(slots[2])


def test_a_slot_is_given_a_little_ahead_and_says_when_its_call_may_leave(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    for attempt in range(10):
        task = f"{TASK}.{attempt}"
        first = allowance.reserve(task, X, ["1"], space_s=1, requests=1)
        refused = allowance.reserve(task, X, ["1"], space_s=1, requests=1)
        told_at = time.monotonic()
        time.sleep(refused.wait_s)

        second = allowance.reserve(task, X, ["1"], space_s=1, requests=1)

        if time.monotonic() - told_at < refused.wait_s + LEAD_S / 2:
            break  # else it overslept, and the slot's own time had come

    assert second.credential == "1"
    assert second.starts_at - first.starts_at == pytest.approx(1 + MARGIN, abs=0.01)
    assert refused.wait_s == pytest.approx(1 + MARGIN - LEAD_S, abs=0.01)


def test_a_call_that_leaves_late_pushes_the_next_one(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    late = allowance.reserve(TASK, X, ["1"], space_s=10, requests=1)
    assert late.receipt
    redis.set(next_key(TASK, "1"), late.receipt.at)  # as if the call had left a whole space after its slot

    allowance.push(late.receipt, for_s=10)

    assert allowance.reserve(TASK, X, ["1"], space_s=10, requests=1).wait_s == pytest.approx(10 - LEAD_S, abs=0.5)


def test_a_slot_given_back_is_given_again_with_its_share_of_the_day(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    quota = YOUTUBE.quota
    assert quota is not None
    slot = allowance.reserve("scrape.youtube.posts", YOUTUBE, ["1"], space_s=30, requests=quota.per_day)
    assert slot.receipt

    allowance.give_back(slot.receipt)

    again = allowance.reserve("scrape.youtube.posts", YOUTUBE, ["1"], space_s=30, requests=quota.per_day)
    assert again.credential == "1"


def test_a_slot_given_back_leaves_the_ones_that_were_given_after_it(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    first, *_ = [
        allowance.reserve(TASK, X, ["1"], space_s=0.004, requests=1) for _ in range(2) if not time.sleep(0.01)
    ]
    after = redis.get(next_key(TASK, "1"))
    assert first.receipt

    allowance.give_back(first.receipt)

    assert redis.get(next_key(TASK, "1")) == after


def test_a_rate_set_while_running_counts_for_every_worker_until_it_is_taken_back(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.set_rate(TASK, ["1"], Override(60, "1/m"), space_s=60)

    slot = allowance.reserve(TASK, X, ["1"], space_s=1, requests=1)
    assert (slot.space_s, slot.rate) == (60, "1/m")
    assert allowance.reserve(TASK, X, ["1"], space_s=1, requests=1).wait_s > 50
    assert (Slots(redis).spaces(), allowance.rate_set(TASK)) == ({TASK: 60}, "1/m")

    allowance.set_rate(TASK, ["1"], None, space_s=1)
    assert allowance.reserve(TASK, X, ["1"], space_s=1, requests=1).wait_s <= 1 + LEAD_S
    assert (Slots(redis).spaces(), allowance.rate_set(TASK)) == ({}, None)


def test_a_rate_of_none_spaces_nothing_but_pauses_hold(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.set_rate(TASK, ["1"], Override(0, "0"), space_s=0)

    assert [allowance.reserve(TASK, X, ["1"], space_s=60, requests=1).credential for _ in range(5)] == ["1"] * 5

    allowance.pause(Pause("x", "1", datetime.now(UTC) + timedelta(seconds=60), "too many requests", "limited"))
    assert is_paused(allowance.reserve(TASK, X, ["1"], space_s=60, requests=1))


def test_those_who_look_ahead_see_when_each_next_call_may_go(redis: Redis) -> None:
    allowance = SharedAllowance(redis)
    allowance.reserve(TASK, X, ["1"], space_s=30, requests=1)

    opens = Slots(redis).opens_in_s([(TASK, "1"), (TASK, "2")])

    assert opens[TASK, "1"] == pytest.approx(30 * (1 + MARGIN), abs=0.5)
    assert opens[TASK, "2"] == 0
    assert Slots(redis).opens_in_s([]) == {}
