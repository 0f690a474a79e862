import asyncio

import pytest

from api.cache.entries import Key
from api.cache.flights import Flights

KEY = Key("/api/summary", (), "application/json")
OTHER = Key("/api/accounts", (), "application/json")


class Reads:
    """Reads that end when told to; each returns its number."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Event] = []

    async def __call__(self) -> int:
        number, end = len(self.begun), asyncio.Event()
        self.begun.append(end)
        await end.wait()
        return number


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_requests_that_come_together_share_one_read() -> None:
    async def scenario() -> None:
        flights, reads = Flights[int](), Reads()
        passengers = [asyncio.create_task(flights.join(KEY, reads)) for _ in range(50)]
        await settle()
        assert len(reads.begun) == 1
        reads.begun[0].set()
        assert await asyncio.gather(*passengers) == [0] * 50

    asyncio.run(scenario())


def test_a_request_never_joins_a_read_that_is_already_running() -> None:
    async def scenario() -> None:
        flights, reads = Flights[int](), Reads()
        first = asyncio.create_task(flights.join(KEY, reads))
        await settle()
        late = [asyncio.create_task(flights.join(KEY, reads)) for _ in range(20)]
        await settle()
        assert len(reads.begun) == 1, "one at a time"
        reads.begun[0].set()
        assert await first == 0
        await settle()
        reads.begun[1].set()
        assert await asyncio.gather(*late) == [1] * 20

    asyncio.run(scenario())


def test_keys_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        flights, reads = Flights[int](), Reads()
        both = [asyncio.create_task(flights.join(key, reads)) for key in (KEY, OTHER)]
        await settle()
        assert len(reads.begun) == 2
        for end in reads.begun:
            end.set()
        assert await asyncio.gather(*both) == [0, 1]

    asyncio.run(scenario())


def test_a_caller_that_goes_away_does_not_end_the_read_of_the_others() -> None:
    async def scenario() -> None:
        flights, reads = Flights[int](), Reads()
        gone = asyncio.create_task(flights.join(KEY, reads))
        stays = asyncio.create_task(flights.join(KEY, reads))
        await settle()
        gone.cancel()
        await settle()
        reads.begun[0].set()
        assert await stays == 0
        assert gone.cancelled()

    asyncio.run(scenario())


def test_a_failed_read_fails_its_passengers_and_nobody_after_them() -> None:
    async def fails() -> int:
        raise LookupError("no such account")

    async def works() -> int:
        return 7

    async def scenario() -> None:
        flights = Flights[int]()
        with pytest.raises(LookupError):
            await flights.join(KEY, fails)
        assert await flights.join(KEY, works) == 7

    asyncio.run(scenario())
