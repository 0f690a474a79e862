"""One read at a time per key, however many ask."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from api.cache.entries import Key

T = TypeVar("T")


class Flights(Generic[T]):
    """Lets the requests for one key share a read that has not begun yet.

    A read that is running takes nobody more: it may have begun before a commit that the newcomer knows of. The
    newcomers wait for it together and then take one flight of their own, which looks into the caches first.
    """

    def __init__(self) -> None:
        self._running: dict[Key, asyncio.Task[T]] = {}
        self._boarding: dict[Key, asyncio.Task[T]] = {}

    async def join(self, key: Key, read: Callable[[], Awaitable[T]]) -> T:
        """Return what the next flight brings. A caller that goes away doesn't end it for the others."""
        flight = self._boarding.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fly(key, read))
            self._boarding[key] = flight
            flight.add_done_callback(_seen)
        return await asyncio.shield(flight)

    async def close(self) -> None:
        """End what is in the air: whoever waits for it is told so."""
        flights = [*self._running.values(), *self._boarding.values()]
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fly(self, key: Key, read: Callable[[], Awaitable[T]]) -> T:
        if before := self._running.get(key):
            await asyncio.wait([before])
        flight = self._boarding.pop(key)
        self._running[key] = flight
        try:
            return await read()
        finally:
            del self._running[key]


def _seen(flight: "asyncio.Task[T]") -> None:
    """Take note of a failure that nobody is left to hear of."""
    if not flight.cancelled():
        flight.exception()
