"""The terms on which platforms are read: what each wants, what it gives, and what a day of today's list takes."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import ceil

from msgspec import Struct, structs

from db.health import Alike
from pipeline import estimate
from pipeline.estimate import Estimate, estimates, unreadable
from pipeline.limits import Rate
from pipeline.platforms import Platform
from pipeline.records import Kind
from pipeline.settings import Settings

_DAY_S = 86_400


class CallTerms(Struct, frozen=True, kw_only=True):
    """One kind of call: its limit as set, the most accounts that it carries, and what a day of the list takes of it.

    A day's posts are the most that they can be: POSTS_PAGES for each account.
    """

    kind: Kind
    limit: Rate
    batch: int
    accounts: int
    calls_a_day: int
    usd_a_day: float


class Terms(Struct, frozen=True, kw_only=True):
    """One platform. `why_not` says why it can't be read now, `not_offered` why a number can't be had, by its name.

    Credentials stand by name with whether they are set: those that it needs, those of which one does alone, those
    that only help.
    """

    platform: str
    why_not: str | None
    needs: Mapping[str, bool]
    instead: Mapping[str, bool]
    uses: Mapping[str, bool]
    not_offered: Mapping[str, str]
    quota_a_day: int | None
    calls: Sequence[CallTerms]


def terms(platform: Platform, accounts: Sequence[Alike], settings: Settings) -> Terms:
    """Return the terms of a platform; `accounts` are its own that aren't paused (`db.health.alike`)."""
    takes = _a_day(platform, accounts, settings)
    return Terms(
        platform=platform.name,
        why_not=unreadable(platform, settings),
        needs=_are_set(platform.needs, settings),
        instead=_are_set(platform.instead, settings),
        uses=_are_set(platform.uses, settings),
        not_offered=platform.not_offered.reasons,
        quota_a_day=platform.quota.per_day if platform.quota else None,
        calls=[_call_terms(platform, kind, takes.get(kind), settings) for kind in platform.calls],
    )


def _call_terms(platform: Platform, kind: Kind, takes: Estimate | None, settings: Settings) -> CallTerms:
    return CallTerms(
        kind=kind,
        limit=settings.rate(platform, kind),
        batch=platform.calls[kind].batch,
        accounts=takes.accounts if takes else 0,
        calls_a_day=takes.calls if takes else 0,
        usd_a_day=takes.costs_usd if takes else 0.0,
    )


def _a_day(platform: Platform, accounts: Sequence[Alike], settings: Settings) -> Mapping[Kind, Estimate]:
    """Return what each kind of call takes in a day, whether or not the credentials are there.

    An account that is looked up by its name today is read by its id from then on: it is counted at today's kind.
    """
    if not platform.calls:
        return {}
    usual_s = settings.interval_s(platform, "profiles")
    profiles: defaultdict[int, Counter[estimate.Alike]] = defaultdict(Counter)
    posts = Counter[estimate.Alike]()
    for one in accounts:
        profiles[one.read_interval_s or usual_s][one.platform, one.kind, one.host] += one.accounts
        posts[one.platform, "posts", one.host] += one.accounts
    wanted = [(alike, _DAY_S / interval_s) for interval_s, alike in profiles.items()]
    if "posts" in platform.calls:
        wanted.append((posts, settings.posts_pages * _DAY_S / settings.interval_s(platform, "posts")))
    found: dict[Kind, Estimate] = {}
    for alike, factor in wanted:
        for part in estimates(alike, settings, {platform.name: platform}):
            found[part.kind] = _and(found.get(part.kind), _times(part, factor))
    return found


def _times(estimate: Estimate, factor: float) -> Estimate:
    return structs.replace(
        estimate, calls=ceil(estimate.calls * factor), costs_usd=round(estimate.costs_usd * factor, 4)
    )


def _and(one: Estimate | None, other: Estimate) -> Estimate:
    """Return what both take together; the time of a day's calls is nobody's concern."""
    if one is None:
        return other
    sums = {name: getattr(one, name) + getattr(other, name) for name in ("accounts", "calls", "costs_usd")}
    return structs.replace(other, **sums)


def _are_set(names: Sequence[str], settings: Settings) -> Mapping[str, bool]:
    return {name: name in settings.platforms for name in names}
