"""What a request for readings leaves out, and what the rest takes: calls, time at the limits, money."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil

from msgspec import Struct

from db.overview import Candidate
from pipeline.accounts import NO_READER
from pipeline.platforms import Platform
from pipeline.records import Kind
from pipeline.settings import Settings

_DAY_S = 86_400


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


def sorted_out(
    asked: Sequence[Candidate], settings: Settings, platforms: Mapping[str, Platform]
) -> tuple[list[Candidate], list[LeftOut]]:
    """Part the accounts that can be read now from those that can't."""
    wanted, left_out = [], []
    for candidate in asked:
        if reason := _why_not(candidate, settings, platforms.get(candidate.platform)):
            left_out.append(LeftOut(candidate.name, reason))
        else:
            wanted.append(candidate)
    return wanted, left_out


def _why_not(candidate: Candidate, settings: Settings, platform: Platform | None) -> str | None:
    return unreadable(platform, settings) or (None if candidate.is_active else "paused")


def unreadable(platform: Platform | None, settings: Settings) -> str | None:
    """Say why no account of a platform can be read, None where they can."""
    if platform is None or not platform.calls:
        return NO_READER
    lacking = settings.lacks(platform)
    return f"needs {' and '.join(lacking)}" if lacking else None


def estimates(
    candidates: Sequence[Candidate], settings: Settings, platforms: Mapping[str, Platform]
) -> list[Estimate]:
    """Return what reading these accounts takes, per platform and kind of call. All of them must be readable."""
    # A call asks one host.
    batches = Counter((c.platform, c.kind, c.host) for c in candidates)
    found = []
    for name, kind in sorted({(platform, kind) for platform, kind, _ in batches}):
        platform = platforms[name]
        call = platform.calls[kind]
        sizes = [count for (p, k, _), count in batches.items() if (p, k) == (name, kind)]
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
