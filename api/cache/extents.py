"""What is known of whole lists, as how long they are, kept in each process: to count all accounts costs several times as
much as to read a page of them.
"""

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from msgspec import Struct

from api.cache.tags import Purges

T = TypeVar("T")

# A status follows from the clock, too: a count by one is old by so much at most.
KEPT_S = 10.0
# Filters are as many as people think of.
MOST = 1_000


class _Kept(Struct, Generic[T], frozen=True):
    extent: T
    stamp: int
    until: float


class Extents(Generic[T]):
    """Extents of one list, by its filters. One holds until `tag` is purged: then what is read shows the same.

    Where answers are read from a replica, which may show less than has been heard of, nothing is kept.
    """

    def __init__(
        self, purges: Purges, tag: str, *, replicated: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._purges = purges
        self._tag = tag
        self._kept_s = 0.0 if replicated else KEPT_S
        self._clock = clock
        self._kept: dict[Hashable, _Kept[T]] = {}

    def get(self, filters: Hashable, read: Callable[[], T]) -> T:
        """Return the extent of these filters, read anew where none holds."""
        kept = self._kept.get(filters)
        if kept and self._clock() < kept.until and self._purges.hold((self._tag,), kept.stamp):
            return kept.extent
        # Taken before the read: a commit in between makes it invalid, not wrong.
        stamp = self._purges.stamp()
        extent = read()
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[filters] = _Kept(extent, stamp, self._clock() + self._kept_s)
        return extent
