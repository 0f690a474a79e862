"""The access token that a process holds for one platform's credentials."""

from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from threading import Lock

from pipeline.platforms import Token

# Renewed so long before its end that no request is on its way with a token that has just ended.
_MARGIN_S = 60.0
# Renewed by then however long it is said to last.
_LONGEST_S = 86_400.0


class TokenStore:
    """Keeps one token for all threads. It lives in memory only."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._value: str | None = None
        self._renew_at: datetime | None = None
        self._flight: Future[str] | None = None

    @property
    def value(self) -> str | None:
        """The token that requests are sent with now; None before the first."""
        return self._value

    def get(self, fetch: Callable[[], Token], now: Callable[[], datetime]) -> str:
        """Return the token, fetched first where none is held or its time is over.

        Threads that ask meanwhile wait for the one that fetches, and share its token or its error.
        """
        with self._lock:
            if self._value is not None and self._renew_at is not None and now() < self._renew_at:
                return self._value
            flight, is_mine = self._flight or Future(), self._flight is None
            self._flight = flight
        if is_mine:
            self._fetch(fetch, now, flight)
        return flight.result()

    def drop(self, value: str) -> None:
        """Fetch another one next time: this one was refused. One that is newer still holds."""
        with self._lock:
            if self._value == value:
                self._renew_at = None

    def _fetch(self, fetch: Callable[[], Token], now: Callable[[], datetime], flight: "Future[str]") -> None:
        asked_at = now()
        try:
            token = fetch()
        except BaseException as exc:
            with self._lock:
                self._flight = None
            flight.set_exception(exc)
            raise
        with self._lock:
            self._value, self._flight = token.value, None
            lasts_s = min(token.lasts_s, _LONGEST_S)
            # One that lasts hardly longer than the margin is used for half of its time.
            self._renew_at = asked_at + timedelta(seconds=max(lasts_s - _MARGIN_S, lasts_s / 2))
        flight.set_result(token.value)
