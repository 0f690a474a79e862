"""What response headers say of a limit: how much is left, when it is renewed, when to come back. Pure.

Platforms write the moment of renewal in four ways: epoch seconds (X, Bluesky), seconds to go (Reddit, Retry-After),
ISO 8601 (Mastodon, Truth Social) and HTTP dates (Retry-After). All are read wherever they stand, and whatever is none
of them is treated as not said. Meta says in JSON how much is used, in percent, and the minutes to wait; the platforms
whose quota is renewed at midnight say nothing (`pipeline.platforms.midnight_after` tells when that is).
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import msgspec
from msgspec import Struct

# A 429 that doesn't say for how long, or names a moment that has passed: without a wait it would be asked again at
# once, for ever.
DEFAULT_WAIT = timedelta(seconds=60)
# No window of these platforms is longer than a day, so a later moment is a mistake.
LONGEST_WAIT = timedelta(days=1)
_LONGEST_WAIT_MINUTES = LONGEST_WAIT / timedelta(minutes=1)

_FAMILIES = ("x-rate-limit", "x-ratelimit", "ratelimit")
# Seconds to go never reach this, epoch seconds have been above it since 2001.
_EPOCH_FROM = 1_000_000_000


class Allowance(Struct, frozen=True):
    """What a limit still gives: calls left in the window, and when the window is renewed. None: not said.

    `used_percent` is how much of it is used where a platform says that and not what is left: 100 and more is all.
    """

    remaining: float | None
    reset_at: datetime | None
    used_percent: float | None = None


class _Usage(Struct, frozen=True):
    """What Meta counts, each in percent of what it gives; and the minutes until it gives again, 0 if it gives now."""

    call_count: float = 0
    total_cputime: float = 0
    total_time: float = 0
    estimated_time_to_regain_access: float = 0


def allowance(headers: Mapping[str, str], now: datetime) -> Allowance | None:
    """Return what the headers (lower-case names) say of the window, or None when they say nothing of it."""
    for family in _FAMILIES:
        remaining = _number(headers.get(f"{family}-remaining", ""))
        reset_at = _moment(headers.get(f"{family}-reset", ""), now)
        if reset_at is not None and not now < reset_at <= now + LONGEST_WAIT:
            reset_at = None
        if remaining is not None or reset_at is not None:
            return Allowance(remaining, reset_at)
    return _metas_allowance(headers, now)


def _metas_allowance(headers: Mapping[str, str], now: datetime) -> Allowance | None:
    """Read the fullest of Meta's limits: each counts for itself, and the first that is full refuses the call."""
    usages = list(_usages(headers))
    if not usages:
        return None
    used = max(max(usage.call_count, usage.total_cputime, usage.total_time) for usage in usages)
    minutes = max(usage.estimated_time_to_regain_access for usage in usages)
    reset_at = now + timedelta(minutes=min(minutes, _LONGEST_WAIT_MINUTES)) if minutes > 0 else None
    return Allowance(None, reset_at, used)


def _usages(headers: Mapping[str, str]) -> Iterator[_Usage]:
    """Yield the limit of the app, and those of each business that its token is for.

    Source: https://developers.facebook.com/docs/graph-api/overview/rate-limiting
    """
    with suppress(msgspec.MsgspecError):
        yield msgspec.json.decode(headers.get("x-app-usage", ""), type=_Usage)
    with suppress(msgspec.MsgspecError):
        of_businesses = msgspec.json.decode(
            headers.get("x-business-use-case-usage", ""), type=dict[str, list[_Usage]]
        )
        for usages in of_businesses.values():
            yield from usages


def retry_at(headers: Mapping[str, str], now: datetime, unsaid: timedelta = DEFAULT_WAIT) -> datetime:
    """Return when a platform that answered 429 may be asked again: always later than `now`, within a day.

    `unsaid` is the wait where the headers don't say.
    """
    for moment in _moments(headers, now):
        if moment > now:
            return min(moment, now + LONGEST_WAIT)
    return now + unsaid


def _moments(headers: Mapping[str, str], now: datetime) -> Iterator[datetime]:
    """Yield the moments named, the plainest first: Retry-After is meant for this very answer."""
    if (moment := _moment(headers.get("retry-after", ""), now)) is not None:
        yield moment
    window = allowance(headers, now)
    if window is not None and window.reset_at is not None:
        yield window.reset_at


def _moment(text: str, now: datetime) -> datetime | None:
    """Read a moment in any of the four ways, or None. It may lie in the past."""
    number = _number(text)
    try:
        if number is not None:
            return datetime.fromtimestamp(number, UTC) if number >= _EPOCH_FROM else now + timedelta(seconds=number)
        return _aware(datetime.fromisoformat(text))
    except (ValueError, OverflowError, OSError):  # OSError: an epoch that the C library can't convert
        return _http_date(text)


def _http_date(text: str) -> datetime | None:
    try:
        return _aware(parsedate_to_datetime(text))
    except (ValueError, OverflowError):
        return None


def _aware(moment: datetime) -> datetime:
    """Return a moment in UTC; one without a time zone is meant as UTC by every header that we know."""
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)


def _number(text: str) -> float | None:
    """Read a number that is finite and not negative, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
