"""That `./dev load` measures what it says, in small, and that every promise of a soak can be found broken."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import msgspec
import pytest

from tests.performance import facts
from tests.performance.load import checks, page, phases
from tests.performance.load.checks import Blow, Stale, Verdict
from tests.performance.load.generator import Client, Failure, Offered, Order, Second, Times
from tests.performance.load.ledger import Kept, Told, numbers
from tests.performance.load.phases import find_knee
from tests.performance.load.site import Sample
from tests.performance.load.soak import Soak
from tests.performance.load.traffic import Asked, mix
from tests.performance.load.watching import Progress

LEASE_S = 20.0
TOLD = [Told(100.0, "one", "x", 10), Told(120.0, "one", "x", 11), Told(121.0, "two", "bluesky", 7)]
KEPT = [Kept(100.1, "one", 10), Kept(120.1, "one", 11), Kept(121.1, "two", 7)]
KILLED = Blow("worker killed", "worker_x", at=100.05, back_at=100.1)
REDIS = Blow("Redis killed", "Redis", at=200.0, back_at=201.0)
POSTGRES = Blow("PostgreSQL restarted", "PostgreSQL", at=300.0, back_at=303.0, excuses=("5xx",))


def failure(at: float, what: str) -> Failure:
    return Failure(at, at + 0.1, what, "/api/summary")


def life(kind: str, gained_per_s: float, *, lasts_s: float = 400.0) -> list[Sample]:
    ages = [float(age) for age in range(0, int(lasts_s), 10)]
    return [Sample(1000 + age, kind, 1, age, int(1e8 + gained_per_s * age), 0.0) for age in ages]


@pytest.mark.parametrize(
    ("verdict", "is_met", "reason"),
    [
        (lambda: checks.readings(TOLD, KEPT, [], lease_s=LEASE_S), True, ""),
        (lambda: checks.readings(TOLD, KEPT[1:], [KILLED], lease_s=LEASE_S), True, ""),
        (lambda: checks.readings(TOLD, KEPT[1:], [], lease_s=LEASE_S), False, "no worker was killed then"),
        (lambda: checks.readings(TOLD, KEPT[2:], [KILLED], lease_s=LEASE_S), False, "no worker was killed then"),
        (
            lambda: checks.readings(TOLD[:1] + TOLD[2:], KEPT[2:], [KILLED], lease_s=LEASE_S),
            False,
            "never read again",
        ),
        (lambda: checks.readings(TOLD, [*KEPT, Kept(120.2, "one", 11)], [], lease_s=LEASE_S), False, "kept 2 times"),
        (
            lambda: checks.readings(TOLD, [*KEPT[:2], Kept(121.1, "two", 8)], [], lease_s=LEASE_S),
            False,
            "8 was kept, 7",
        ),
        (lambda: checks.readings(TOLD, [*KEPT, Kept(1.0, "three", 1)], [], lease_s=LEASE_S), False, "never told of"),
        (lambda: checks.snapshots(TOLD, {"one": 11, "two": 7}), True, ""),
        (lambda: checks.snapshots(TOLD, {"one": 10, "two": 7}), False, "says 10, the platform said 11"),
        (lambda: checks.snapshots(TOLD, {"one": 11}), False, "says None"),
        (lambda: checks.counts({"x": 9}, {"x": 9}, {}), True, ""),
        (lambda: checks.counts({"x": 9}, {"x": 7}, {"x": 2}), True, ""),
        (lambda: checks.counts({"x": 9}, {"x": 8}, {}), False, "8 counted, 9 seen"),
        (lambda: checks.counts({"x": 9}, {"x": 10}, {"x": 2}), False, "10 counted, 9 seen"),
        (lambda: checks.requests(9, [failure(301, "503"), failure(304, "500")], [POSTGRES], 0.0), True, ""),
        (lambda: checks.requests(9, [failure(306, "503")], [POSTGRES], 0.0), False, "503 for /api/summary"),
        (lambda: checks.requests(9, [failure(301, "broken")], [POSTGRES], 0.0), False, "broken"),
        (lambda: checks.requests(9, [failure(200.5, "503")], [REDIS], 0.0), False, "503"),
        (lambda: checks.requests(9, [failure(301, "404")], [POSTGRES], 0.0), False, "404"),
        (lambda: checks.memory(life("worker", 1e3)), True, ""),
        (lambda: checks.memory(life("worker", 3e4)), False, "worker gains 17.2 MiB"),
        (lambda: checks.memory(life("worker", 3e4, lasts_s=200)), None, ""),
        (lambda: checks.leftovers({"open jobs": 0}), True, ""),
        (lambda: checks.leftovers({"open jobs": 2}), False, "2 open jobs"),
        (lambda: checks.caches(9, [Stale(201.5, "one", 2.0)], [], [REDIS], 4, 0.0), True, ""),
        (lambda: checks.caches(9, [Stale(250.0, "one", 2.0)], [], [REDIS], 4, 0.0), False, "2.0 s behind"),
        (lambda: checks.caches(9, [], ["one: summary says 1, 2 was kept"], [], 4, 0.0), False, "summary says 1"),
        (lambda: checks.sweeps(KEPT, 2, least=1), True, ""),
        (lambda: checks.sweeps(KEPT, 2, least=2), False, "read 1 times"),
        (lambda: checks.sweeps(KEPT, 3, least=1), False, "read 0 times"),
        (lambda: checks.struck([REDIS], ["Redis killed"]), True, ""),
        (lambda: checks.struck([REDIS], ["Redis killed", "API killed"]), False, "never: API killed (make it longer)"),
        (lambda: checks.returns([REDIS]), True, ""),
        (
            lambda: checks.returns([REDIS, Blow("API killed", "api", at=400.0, back_at=448.0)]),
            False,
            "away for 48.0 s",
        ),
    ],
)
def test_a_promise_is_held_or_broken_for_a_reason(
    verdict: Callable[[], Verdict], is_met: bool | None, reason: str
) -> None:
    found = verdict()

    assert found.is_met is is_met, found
    assert reason in " ".join(found.reasons)
    assert bool(found.reasons) is (is_met is False)


@contextmanager
def standing_still(first_s: float) -> Iterator[int]:
    """Yield the port of a server that answers nothing for a time, counted from its first request, and then everything."""
    loop = asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal free_at
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                free_at = free_at or loop.time() + first_s
                await asyncio.sleep(max(0.0, free_at - loop.time()))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Cache: l1\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    free_at = 0.0
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.call_later, 0.2, loop.stop)
        thread.join()
        loop.close()


def test_a_server_that_stands_still_is_seen_by_every_request_of_that_time() -> None:
    """One that waited for each answer before it asks again would see it once per connection."""

    async def ask(port: int) -> Offered:
        client = Client(port, [Asked("/", 1.0)], Random(1))
        found = await client.offer(Order([(400, 1.0)]))
        client.close()
        await asyncio.sleep(0.1)  # until its connections have heard of it
        return found

    with standing_still(0.5) as port:
        found = asyncio.run(ask(port))

    assert found.failed == {}
    assert found.answered == found.asked > 300
    assert found.levels == {"l1": found.asked}
    # Of the 200 of its first half second, half wait for longer than 250 ms, and no later one is asked less often.
    assert found.times.p90 is not None
    assert found.times.p90 > 250 * 0.8
    assert found.times.most is not None
    assert found.times.most > 400


def offered(p99: float, failed: int = 0) -> Offered:
    return Offered(
        Times(p99 / 5, p99 / 2, p99, p99, p99), 100, 100, {"503": failed} if failed else {}, {}, 0.1, 0.1, [], []
    )


def test_the_knee_is_closed_in_from_both_sides() -> None:
    knee = find_knee(lambda rate: offered(5 if rate <= 1000 else 400), 100, say=lambda _: None)

    assert knee.held is not None
    assert knee.left is not None
    assert knee.held <= 1000 < knee.left < knee.held * 1.2
    assert [step.left for step in knee.steps].count(False) >= 5


@pytest.mark.parametrize(
    ("offer", "held", "left"),
    [
        (lambda rate: offered(5), 100 * phases.GROWTH ** (phases.MOST_STEPS - 1), None),
        (lambda rate: offered(5, failed=1), None, 100),
    ],
    ids=["never left", "failed at once"],
)
def test_a_knee_that_is_not_there_is_not_made_up(
    offer: Callable[[float], Offered], held: float | None, left: float | None
) -> None:
    knee = find_knee(offer, 100, say=lambda _: None)

    assert (knee.held and round(knee.held), knee.left) == (held and round(held), left)


def test_some_accounts_are_asked_for_far_more_than_others() -> None:
    asked = mix(["x/a", "x/b", "x/c"], Random(1))

    assert sum(one.weight for one in asked) == pytest.approx(100)
    of_accounts = sorted(one.weight for one in asked if one.path.startswith("/api/history/"))
    assert of_accounts[-1] > 2 * of_accounts[0]


def test_numbers_are_found_in_an_answer_whatever_stands_around_them() -> None:
    said = {"data": [{"username": "a", "public_metrics": {"followers_count": 1}}, {"error": {"title": "gone"}}]}

    assert list(numbers(said)) == [("a", 1)]


def test_a_small_load_goes_through_every_phase_and_has_a_page() -> None:
    found = phases.run(
        seed=1,
        rate=40,
        seconds=1.0,
        step_s=0.5,
        most_steps=2,
        accounts={"bluesky": 25},
        flower=False,
        say=lambda _: None,
    )

    assert [phase.name for phase in found.phases] == ["steady", "spike", "sweep", "cold cache"]
    assert all(phase.offered.asked > 0 for phase in found.phases)
    assert sum(phase.cores["API"] for phase in found.phases) > 0
    assert all(phase.offered.answered > 0 for phase in found.phases)
    assert found.progress[-1].told > 25  # the first reading, and those of the sweep
    assert len(found.knee.steps) > 0
    text = page.of_load(found, facts.look())
    for part in ("Time of an answer", "Requests", "Answers from a cache", "Readings", "Time by rate", "cold cache"):
        assert part in text
    assert text.count("<svg") == 5
    assert "http://" not in text
    assert msgspec.json.decode(msgspec.json.encode(found))["phases"][0]["name"] == "steady"


def test_the_page_of_a_soak_shows_what_was_struck_and_what_did_not_hold() -> None:
    seconds = [
        Second(1000.0 + n, 10, Times(1, 2, 3, 4, 5), {"503": 1} if n == 5 else {}, {"l1": 8, "miss": 1})
        for n in range(20)
    ]
    answers = Offered(Times(1, 2, 3, 4, 5), 200, 199, {"503": 1}, {"l1": 160, "miss": 20}, 0.2, 0.1, seconds, [])
    blow = Blow("Redis killed", "Redis", at=1004.0, back_at=1006.0)
    found = Soak(
        seed=1,
        began_at=1000.0,
        minutes=1,
        rate=10,
        accounts={"x": 5},
        offered=answers,
        blows=[blow],
        samples=[*life("worker", 1e3), *life("Redis", 0)],
        progress=[Progress(1001.0, 5, 5), Progress(1003.0, 10, None), Progress(1005.0, 15, 15)],
        verdicts=[checks.leftovers({"open jobs": 2}), checks.memory([])],
    )

    text = page.of_soak(found, facts.look())

    for part in (
        "a promise didn&#x27;t hold",
        "2 open jobs",
        "not judged",
        "Redis killed",
        "told by the platforms",
        "2.0 s",
    ):
        assert part in text
    assert text.count("<svg") == 4 + 2
