"""What can go wrong while reading a platform. The class decides what happens next (see `decide`)."""

from collections.abc import Sequence
from datetime import datetime


class ScrapeError(Exception):
    """Any failed call. `str()` is the reason that people read; it holds no secret and no response body."""

    def __init__(self, platform: str, reason: str) -> None:
        super().__init__(reason)
        self.platform = platform
        self.reason = reason


class Transient(ScrapeError):
    """No usable answer this time: try again in the retry lane, with backoff."""


class TimedOut(Transient):
    """The call's deadline passed, or no connection could be made."""


class PlatformDown(Transient):
    """5xx, or an answer that broke off."""


class RateLimited(ScrapeError):
    """The platform says to come back later. It pauses as a whole; no attempt is spent."""

    def __init__(self, platform: str, reason: str, *, retry_at: datetime) -> None:
        super().__init__(platform, reason)
        self.retry_at = retry_at


class QuotaSpent(RateLimited):
    """The day's quota is gone; `retry_at` is when it is renewed."""


class NotAllowed(ScrapeError):
    """401, 403, a missing credential, a login wall or a bot page: the platform waits until a person acts.

    `reason` names what it needs.
    """


class Gone(ScrapeError):
    """The account asked for was not found, deleted, suspended or is private. Its history stays."""


class BatchRefused(ScrapeError):
    """The platform refused a whole batch for some of its accounts: the others are asked for again without them.

    `bad` are the accounts that it named, by account_key; none when it didn't say which.
    """

    def __init__(self, platform: str, reason: str, *, bad: Sequence[int] = ()) -> None:
        super().__init__(platform, reason)
        self.bad = tuple(bad)


class BadPage(ScrapeError):
    """The answer was not as documented; `path` names the part that was missing or wrong."""

    def __init__(self, platform: str, path: str) -> None:
        super().__init__(platform, f"not as documented: {path}")
        self.path = path
