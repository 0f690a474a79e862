"""The first level: answers in the memory of one process, the least recently used ones dropped first.

It also knows how new what this process has shown of each account is. A commit can be read before its purge is heard: who
has been shown it under one address must not be shown what was before under another.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from api.cache.entries import Answer, Kept, Key
from api.cache.tags import DEAF_S, STALE_S, Purges

# `fresh` shows every commit that was heard of; `stale` is an aggregate that doesn't, for no longer than STALE_S;
# `late` is one for longer: it may only be given out while its successor is being read.
State = Literal["fresh", "stale", "late"]

# Of so many accounts it is known what was shown, the latest ones: some 10 MB. By then the purges of the others were heard.
_MOST_SHOWN = 50_000


class Memory:
    """Keeps up to `entries` answers, each for `kept_s` seconds at most. Used on the loop only."""

    def __init__(
        self, purges: Purges, *, entries: int, kept_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._purges = purges
        self._entries = entries
        self._kept_s = kept_s
        self._clock = clock
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._shown: OrderedDict[str, datetime] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> tuple[Kept, State] | None:
        """Return the answer and how far it holds; None where there is none that may be given out."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        now = self._clock()
        if now >= kept.until or (not self._purges.listening and now - kept.read_at > DEAF_S):
            del self._kept[key]
            kept.counts.expired += 1
            return None
        state = self._state(kept, now)
        if state is None:
            del self._kept[key]
            kept.counts.purged += 1
            return None
        self._kept.move_to_end(key)
        return kept, state

    def peek(self, key: Key) -> Kept | None:
        """Return what is kept under a key, whether it may be given out or not."""
        return self._kept.get(key)

    def is_behind(self, answer: Answer) -> bool:
        """Tell whether something newer of its account was shown before."""
        newest = None if answer.account is None else self._shown.get(answer.account)
        return newest is not None and (answer.modified_at is None or answer.modified_at < newest)

    def _state(self, kept: Kept, now: float) -> State | None:
        if kept.answer.account is not None and self.is_behind(kept.answer):  # most hits are spared the call
            return None
        since = self._purges.unseen_since(kept.answer.tags, kept.stamp)
        if kept.unseen_since is not None:
            since = kept.unseen_since if since is None else min(since, kept.unseen_since)
        if since is None:
            return "fresh"
        if now - since <= STALE_S:
            kept.unseen_since = since  # it never becomes later
            return "stale"
        return "late" if now - since < float("inf") else None

    def put(self, key: Key, kept: Kept) -> None:
        """Keep an answer for as long as it may be kept at all; its stamp was taken before anything was read for it.

        It is what is shown of its account from now on, even if that is older than what was shown before.
        """
        if kept.answer.account is not None and kept.answer.modified_at is not None:
            self._shown[kept.answer.account] = kept.answer.modified_at
            self._shown.move_to_end(kept.answer.account)
            if len(self._shown) > _MOST_SHOWN:
                self._shown.popitem(last=False)
        kept.until = min(kept.until, self._clock() + self._kept_s)
        self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > self._entries:
            _, dropped = self._kept.popitem(last=False)
            dropped.counts.evicted += 1
