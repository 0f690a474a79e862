"""The purges that this process has heard of. Pure bookkeeping: which answers in its memory still hold.

An answer is stamped before the database is read for it. It shows every commit whose purge was heard before that stamp:
a purge follows its commit. Of aggregates' tags it is also known since when a commit is missing from an answer.
"""

import threading
import time
from collections.abc import Callable, Iterable

from db.tags import EVERYTHING, is_aggregate

# At this many tags everything is forgotten at once, answers included: some 10 MB.
MOST_TAGS = 50_000
# An aggregate is given out for so long after the purge of the first commit that it doesn't show.
STALE_S = 2.0
# So old may an answer be that is given out while purges can't be heard.
DEAF_S = 2.0
NEVER = float("-inf")
# Purges of one tag within this time count as one, at the time of the first.
_TOGETHER_S = 0.1

_Recent = tuple[tuple[int, float], ...]


class Purges:
    """Counts purges by tag. Read on the loop, every step one atomic operation; written by one thread at a time."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._writing = threading.RLock()
        self._heard = 0
        self._purged: dict[str, int] = {}
        self._recent: dict[str, _Recent] = {}
        self._floor = 0
        self.listening = False
        # Before the first connection nobody knows yet whether there'll be one.
        self.is_deaf = False

    def stamp(self) -> int:
        """Return the stamp of an answer whose read begins now."""
        return self._heard

    def hold(self, tags: Iterable[str], stamp: int) -> bool:
        """Tell whether an answer is surely up to date. None is while purges can't be heard."""
        return self.listening and self.unseen_since(tags, stamp) is None

    def unseen_since(self, tags: Iterable[str], stamp: int) -> float | None:
        """Return when the first commit was purged that an answer doesn't show; None: it shows all that were heard of.

        NEVER for one that may not be given out at all: of an account, or older than what is remembered.
        """
        if stamp < self._floor:
            return NEVER
        since = None
        for tag in tags:
            if self._purged.get(tag, 0) > stamp:
                first = next((at for heard, at in self._recent.get(tag, ()) if heard > stamp), NEVER)
                since = first if since is None else min(since, first)
        return since

    def purge(self, tags: Iterable[str]) -> None:
        """Note that a commit changed what these tags stand for."""
        with self._writing:
            # The count goes first: a read that takes the new stamp began after the purge, and shows the commit.
            self._heard = heard = self._heard + 1
            for tag in tags:
                if tag == EVERYTHING:
                    self._forget()
                    return
                if is_aggregate(tag):  # before the tag's count, by which it is looked up
                    self._recent[tag] = _with(self._recent.get(tag, ()), heard, self._clock())
                self._purged[tag] = heard
            if len(self._purged) > MOST_TAGS:
                self._forget()

    def connected(self) -> None:
        """Begin anew: purges may have been missed."""
        self._forget()
        self.listening, self.is_deaf = True, False

    def disconnected(self) -> None:
        self.listening, self.is_deaf = False, True

    def _forget(self) -> None:
        with self._writing:
            # The floor rises before the tags go: at no moment does an answer hold that a forgotten purge had ended.
            self._heard = self._floor = self._heard + 1
            self._purged = {}
            self._recent = {}


def _with(recent: _Recent, heard: int, now: float) -> _Recent:
    """Add a purge. The oldest that stays is one that no answer may be given out without."""
    if recent and now - recent[-1][1] < _TOGETHER_S:
        return (*recent[:-1], (heard, recent[-1][1]))
    first = 0
    while first + 1 < len(recent) and now - recent[first + 1][1] > STALE_S:
        first += 1
    return (*recent[first:], (heard, now))
