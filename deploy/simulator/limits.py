"""Windows of requests, as the platforms publish them: how many a window gives, when it begins, what is left of it."""

from collections import Counter, deque
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
    rolling: bool = False
    """Each request counts for the length of a window from its own moment on (Meta)."""

    def window_end(self, now_s: float) -> float:
        """Return when a window that is opened now is renewed (epoch seconds)."""
        if self.midnight_in:
            zone = ZoneInfo(self.midnight_in)
            tomorrow = datetime.fromtimestamp(now_s, zone).date() + timedelta(days=1)
            return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone).timestamp()
        begun_s = now_s - now_s % self.window_s if self.on_the_clock else now_s
        return begun_s + self.window_s


class Allowance(NamedTuple):
    """What a window has left after one request. `granted` is False when there was nothing left for it.

    There is more at `resets_at_s`; from `ends_at_s` on, which is later for a rolling window, nothing counts any more.
    """

    limit: Limit
    remaining: int
    resets_at_s: float
    ends_at_s: float
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
        self._rolling: dict[tuple[str, str], deque[float]] = {}
        self._own: dict[str, Limit] = {}
        self._sweep_at = _MANY_WINDOWS

    def take(self, platform: str, bucket: str, published: Limit, now_s: float) -> Allowance:
        """Count one request against its window, and open the window if need be."""
        limit = self._own.get(platform, published)
        window = self._windows.get((platform, bucket))
        if window is None or window.ends_at_s <= now_s:
            self._forget_ended(now_s)
            end_s = limit.window_end(now_s)
            window = Allowance(limit, limit.requests, end_s, end_s, wait_s=0, granted=True)
        if limit.rolling:
            window = self._rolled(window, self._rolling.setdefault((platform, bucket), deque()), now_s)
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
        self._rolling = {key: taken for key, taken in self._rolling.items() if key in self._windows}

    def open_windows(self, now_s: float) -> Iterator[tuple[str, str, Allowance]]:
        """Yield platform, bucket and what is left."""
        for (platform, bucket), window in self._windows.items():
            if window.ends_at_s > now_s:
                yield platform, bucket, window

    def _rolled(self, window: Allowance, taken: deque[float], now_s: float) -> Allowance:
        """Return a rolling window before a request, and enter the request where there is room for it."""
        length_s = window.limit.window_s
        while taken and taken[0] + length_s <= now_s:
            taken.popleft()
        remaining = window.limit.requests - len(taken)
        if remaining > 0:
            taken.append(now_s)
        return window._replace(remaining=remaining, resets_at_s=taken[0] + length_s, ends_at_s=taken[-1] + length_s)

    def _forget_ended(self, now_s: float) -> None:
        """Keep memory flat where buckets come without end (one per Mastodon server or credential)."""
        if len(self._windows) >= self._sweep_at:
            self._windows = {key: window for key, window in self._windows.items() if window.ends_at_s > now_s}
            self._rolling = {key: taken for key, taken in self._rolling.items() if key in self._windows}
            self._sweep_at = max(_MANY_WINDOWS, 2 * len(self._windows))  # seldom enough to cost nothing
