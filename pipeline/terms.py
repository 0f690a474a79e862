"""The terms on which platforms are read: what each wants, what it gives, and what a day of today's list takes."""

from collections.abc import Mapping, Sequence
from math import ceil

from msgspec import Struct, structs

from db.overview import Candidate
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


def terms(platform: Platform, candidates: Sequence[Candidate], settings: Settings) -> Terms:
    """Return the terms of a platform; `candidates` are its accounts that aren't paused."""
    offers = structs.asdict(platform.not_offered)
    takes = _a_day(platform, candidates, settings)
    return Terms(
        platform=platform.name,
        why_not=unreadable(platform, settings),
        needs=_are_set(platform.needs, settings),
        instead=_are_set(platform.instead, settings),
        uses=_are_set(platform.uses, settings),
        not_offered={name: reason for name, reason in offers.items() if reason},
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


def _a_day(platform: Platform, candidates: Sequence[Candidate], settings: Settings) -> Mapping[Kind, Estimate]:
    """Return what each kind of call takes in a day, whether or not the credentials are there."""
    if not platform.calls:
        return {}
    wanted = [(candidates, _DAY_S / settings.read_interval_s)]
    if "posts" in platform.calls:
        posts: list[Candidate] = [structs.replace(one, kind="posts") for one in candidates]
        wanted.append((posts, settings.posts_pages * _DAY_S / settings.posts_interval_s))
    return {
        one.kind: _times(one, factor)
        for accounts, factor in wanted
        for one in estimates(accounts, settings, {platform.name: platform})
    }


def _times(estimate: Estimate, factor: float) -> Estimate:
    return structs.replace(
        estimate, calls=ceil(estimate.calls * factor), costs_usd=round(estimate.costs_usd * factor, 4)
    )


def _are_set(names: Sequence[str], settings: Settings) -> Mapping[str, bool]:
    return {name: name in settings.platforms for name in names}
