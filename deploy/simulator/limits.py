"""Windows of requests, as the platforms publish them: how many a window gives, when it begins, what is left of it."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

_MANY_WINDOWS = 1000


class Limit(NamedTuple):
    """So many requests per window, which begins with its first request unless something else is said."""

    requests: int
    window_s: float
    on_the_clock: bool = False
    """Windows begin at multiples of their length (Mastodon: at :00, :05, :10 …)."""
    midnight_in: str | None = None
    """The window is a day of this time zone (YouTube)."""

    def window_end(self, now_s: float) -> float:
        """Return when a window that is opened now is renewed (epoch seconds)."""
        if self.midnight_in:
            zone = ZoneInfo(self.midnight_in)
            tomorrow = datetime.fromtimestamp(now_s, zone).date() + timedelta(days=1)
            return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone).timestamp()
        begun_s = now_s - now_s % self.window_s if self.on_the_clock else now_s
        return begun_s + self.window_s


class Allowance(NamedTuple):
    """What a window has left after one request. `granted` is False when there was nothing left for it."""

    limit: Limit
    remaining: int
    resets_at_s: float
    wait_s: float
    granted: bool

    @property
    def resets_at(self) -> datetime:
        return datetime.fromtimestamp(self.resets_at_s, UTC)


class Limits:
    """The open windows by platform and bucket, and the violations: requests sent while nothing was left."""

    def __init__(self) -> None:
        self.violations: Counter[str] = Counter()
        self._windows: dict[tuple[str, str], Allowance] = {}
        self._own: dict[str, Limit] = {}
        self._sweep_at = _MANY_WINDOWS

    def take(self, platform: str, bucket: str, published: Limit, now_s: float) -> Allowance:
        """Count one request against its window, and open the window if need be."""
        limit = self._own.get(platform, published)
        window = self._windows.get((platform, bucket))
        if window is None or window.resets_at_s <= now_s:
            self._forget_ended(now_s)
            window = Allowance(limit, limit.requests, limit.window_end(now_s), wait_s=0, granted=True)
        granted = window.remaining > 0
        if not granted:
            self.violations[platform] += 1
        left = max(0, window.remaining - 1)
        window = window._replace(remaining=left, wait_s=window.resets_at_s - now_s, granted=granted)
        self._windows[platform, bucket] = window
        return window

    def replace(self, platform: str, limit: Limit) -> None:
        """Put a limit in the place of what a platform publishes, with fresh windows."""
        self._own[platform] = limit
        self._windows = {key: window for key, window in self._windows.items() if key[0] != platform}

    def open_windows(self, now_s: float) -> Iterator[tuple[str, str, Allowance]]:
        """Yield platform, bucket and what is left."""
        for (platform, bucket), window in self._windows.items():
            if window.resets_at_s > now_s:
                yield platform, bucket, window

    def _forget_ended(self, now_s: float) -> None:
        """Keep memory flat where buckets come without end (one per Mastodon server)."""
        if len(self._windows) >= self._sweep_at:
            self._windows = {key: window for key, window in self._windows.items() if window.resets_at_s > now_s}
            self._sweep_at = max(_MANY_WINDOWS, 2 * len(self._windows))  # seldom enough to cost nothing
