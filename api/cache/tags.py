"""The purges that this process has heard of. Pure bookkeeping: which answers in its memory still hold.

An answer is stamped before the database is read for it. It holds as long as none of its tags was purged after that
stamp: a purge follows its commit, so what was read after hearing of it shows the commit.
"""

from collections.abc import Iterable

# At this many tags everything is forgotten at once, answers included: some 10 MB.
MOST_TAGS = 50_000


class Purges:
    """Counts purges by tag. Written by the listener's thread, read on the loop; every step is one atomic operation."""

    def __init__(self) -> None:
        self._heard = 0
        self._purged: dict[str, int] = {}
        self._floor = 0
        self.listening = False

    def stamp(self) -> int:
        """Return the stamp of an answer whose read begins now."""
        return self._heard

    def hold(self, tags: Iterable[str], stamp: int) -> bool:
        """Tell whether an answer still holds. None does while purges can't be heard."""
        if not self.listening or stamp < self._floor:
            return False
        return all(self._purged.get(tag, 0) <= stamp for tag in tags)

    def purge(self, tags: Iterable[str]) -> None:
        """Note that a commit changed what these tags stand for."""
        # The count goes first: a read that takes the new stamp began after the purge, and shows the commit.
        self._heard = heard = self._heard + 1
        for tag in tags:
            self._purged[tag] = heard
        if len(self._purged) > MOST_TAGS:
            self._forget()

    def connected(self) -> None:
        """Begin anew: purges may have been missed."""
        self._forget()
        self.listening = True

    def disconnected(self) -> None:
        self.listening = False

    def _forget(self) -> None:
        # The floor rises before the tags go: at no moment does an answer hold that a forgotten purge had ended.
        self._heard = self._floor = self._heard + 1
        self._purged = {}
