"""What a request for readings leaves out, and what the rest takes: calls, time at the limits, money."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import ceil

from msgspec import Struct

from db.overview import Candidate
from pipeline.accounts import NO_READER
from pipeline.platforms import Platform
from pipeline.records import Kind
from pipeline.settings import Settings

_DAY_S = 86_400
Alike = tuple[str, Kind, str]
"""Platform, kind of call and host: accounts that one call may ask for together."""


class LeftOut(Struct, frozen=True):
    """An account that was asked for and can't be read now."""

    account: str
    reason: str


class Estimate(Struct, frozen=True):
    """The calls of one platform and kind. `takes_s` is what the limits alone make of it."""

    platform: str
    kind: Kind
    accounts: int
    calls: int
    takes_s: float
    costs_usd: float


class Wanted:
    """Accounts to read, by what one call may ask for: a few bytes each, so that there may be very many.

    `left_out` counts those that can't be read by the reason, `first_left_out` names a few of each.
    """

    FEW = 5

    def __init__(self, settings: Settings, platforms: Mapping[str, Platform]) -> None:
        self._settings = settings
        self._platforms = platforms
        self.keys: dict[Alike, array[int]] = {}
        self.left_out = Counter[str]()
        self.first_left_out: dict[str, list[str]] = {}

    def sort(self, asked: Iterable[Candidate]) -> Iterator[LeftOut]:
        """Take in the accounts that can be read; yield the others."""
        for one in asked:
            reason = why_not(one, self._settings, self._platforms.get(one.platform))
            if reason is None:
                self.keys.setdefault(alike(one), array("q")).append(one.account_key)
                continue
            self.left_out[reason] += 1
            if self.left_out[reason] <= self.FEW:
                self.first_left_out.setdefault(reason, []).append(one.name)
            yield LeftOut(one.name, reason)

    @property
    def total(self) -> int:
        return sum(map(len, self.keys.values()))

    def estimates(self) -> list[Estimate]:
        """Return what reading them takes, per platform and kind of call."""
        sizes = {one: len(keys) for one, keys in self.keys.items()}
        return estimates(sizes, self._settings, self._platforms)


def sorted_out(
    asked: Iterable[Candidate], settings: Settings, platforms: Mapping[str, Platform]
) -> tuple[list[Candidate], list[LeftOut]]:
    """Part the accounts that can be read now from those that can't."""
    wanted, left_out = [], []
    for candidate in asked:
        if reason := why_not(candidate, settings, platforms.get(candidate.platform)):
            left_out.append(LeftOut(candidate.name, reason))
        else:
            wanted.append(candidate)
    return wanted, left_out


def why_not(candidate: Candidate, settings: Settings, platform: Platform | None) -> str | None:
    """Say why an account can't be read now, None where it can."""
    return unreadable(platform, settings) or (None if candidate.is_active else "paused")


def unreadable(platform: Platform | None, settings: Settings) -> str | None:
    """Say why no account of a platform can be read, None where they can."""
    if platform is None or not platform.calls:
        return NO_READER
    lacking = settings.lacks(platform)
    return f"needs {' and '.join(lacking)}" if lacking else None


def alike(candidate: Candidate) -> Alike:
    return candidate.platform, candidate.kind, candidate.host


def estimates(accounts: Mapping[Alike, int], settings: Settings, platforms: Mapping[str, Platform]) -> list[Estimate]:
    """Return what reading so many accounts takes, per platform and kind of call. All of them must be readable."""
    found = []
    for name, kind in sorted({(platform, kind) for platform, kind, _ in accounts}):
        platform = platforms[name]
        call = platform.calls[kind]
        sizes = [count for (p, k, _), count in accounts.items() if (p, k) == (name, kind)]
        calls = sum(ceil(size / call.batch) for size in sizes)
        found.append(
            Estimate(
                platform=name,
                kind=kind,
                accounts=sum(sizes),
                calls=calls,
                takes_s=_takes_s(calls * call.requests, platform, settings.rate(platform, kind).interval_s),
                costs_usd=round(sum(sizes) * call.price_usd, 4),
            )
        )
    return found


def _takes_s(requests: int, platform: Platform, interval_s: float) -> float:
    """Return the seconds until the last request may go out: the first goes at once."""
    days = (requests - 1) // platform.quota.per_day if platform.quota else 0
    return max((requests - 1) * interval_s, days * _DAY_S)
