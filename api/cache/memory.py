"""The first level: answers in the memory of one process, the least recently used ones dropped first."""

import time
from collections import OrderedDict
from collections.abc import Callable

from api.cache.entries import Answer, Key
from api.cache.tags import Purges


class Memory:
    """Keeps up to `entries` answers, each for `kept_s` seconds at most. Used on the loop only."""

    def __init__(
        self, purges: Purges, *, entries: int, kept_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._purges = purges
        self._entries = entries
        self._kept_s = kept_s
        self._clock = clock
        self._kept: OrderedDict[Key, tuple[Answer, int, float]] = OrderedDict()

    def get(self, key: Key) -> Answer | None:
        """Return the answer if it still holds."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        answer, stamp, until = kept
        if self._clock() >= until or not self._purges.hold(answer.tags, stamp):
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return answer

    def put(self, key: Key, answer: Answer, stamp: int) -> None:
        """Keep an answer; `stamp` was taken before anything was read for it."""
        self._kept[key] = (answer, stamp, min(answer.expires_at, self._clock() + self._kept_s))
        self._kept.move_to_end(key)
        while len(self._kept) > self._entries:
            self._kept.popitem(last=False)
