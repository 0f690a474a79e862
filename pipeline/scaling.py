"""What an account list of any size takes each day: calls and credentials, processors, disk and money.

Limits and prices are the platforms' as set, and the rest follows from what was measured (docs/scaling.md says how).
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil

from msgspec import Struct, structs

from db.health import Alike
from pipeline.estimate import estimates
from pipeline.platforms import Platform, first_kind
from pipeline.settings import Settings
from pipeline.terms import CallTerms, terms

_DAY_S = 86_400
# CPU seconds of a call, and of each account that it carries; measured by `./dev bench pipeline` in batches of 1 and 100.
_WORKER_S = (0.0122, 0.00009)
_POSTGRES_S = (0.0090, 0.00022)
_OTHERS_S = (0.0037, 0.00005)
# Bytes on disk, indexes included; tests/performance/baseline.json holds the first two.
SNAPSHOT_BYTES = 184
ACCOUNT_BYTES = 1_350
_POST_BYTES = 460
_JOB_BYTES = (400, 18)
_POSTS_A_DAY = 1
_GB = 1e9


class Demand(Struct, frozen=True, kw_only=True):
    """What a day takes of one platform.

    `limit_used` is the part of one set of credentials' limit, of the kind of call that uses most of it; `credentials` are
    the sets that carry the day. `first_days` is how long one set takes to look up every account by its name, once.
    `posts_usd` is the most that posts can cost.
    """

    platform: str
    accounts: int
    calls: int
    limit_used: float
    credentials: int
    first_days: float
    profiles_usd: float
    posts_usd: float


class Scale(Struct, frozen=True, kw_only=True):
    """What all of it takes. Cores are processors busy on average over the day; disk is that of PostgreSQL.

    `disk_gb` is there after a day, without posts; `disk_gb_a_year` comes with each year of numbers and posts, one a day per
    account.
    """

    accounts: int
    demands: Sequence[Demand]
    calls: int
    worker_cores: float
    postgres_cores: float
    other_cores: float
    disk_gb: float
    disk_gb_a_year: float
    profiles_usd: float
    posts_usd: float


def grown(accounts: Sequence[Alike], total: int) -> list[Alike]:
    """Return a list of `total` accounts, of the same kinds in the same proportion."""
    listed = sum(one.accounts for one in accounts)
    counted, given, found = 0, 0, []
    for one in accounts:
        counted += one.accounts
        upto = total * counted // listed  # so that what is rounded off isn't lost
        found.append(structs.replace(one, accounts=upto - given))
        given = upto
    return [one for one in found if one.accounts]


def scale(accounts: Sequence[Alike], settings: Settings, platforms: Mapping[str, Platform]) -> Scale:
    """Return what reading these accounts in their intervals takes, once the id of each is known."""
    by_id = [structs.replace(one, kind="profiles") for one in accounts]
    days = {name: _day(platforms[name], by_id, settings) for name in sorted({one.platform for one in accounts})}
    calls = [call for day in days.values() for call in day]
    total, made = sum(one.accounts for one in accounts), sum(call.calls_a_day for call in calls)
    demands = [_demand(platforms[name], by_id, day, settings) for name, day in days.items()]
    jobs_bytes = settings.job_retention_days * _linear(_JOB_BYTES, calls)
    return Scale(
        accounts=total,
        demands=demands,
        calls=made,
        worker_cores=_linear(_WORKER_S, calls) / _DAY_S,
        postgres_cores=_linear(_POSTGRES_S, calls) / _DAY_S,
        other_cores=_linear(_OTHERS_S, calls) / _DAY_S,
        disk_gb=(total * ACCOUNT_BYTES + jobs_bytes) / _GB,
        disk_gb_a_year=total * 365 * (SNAPSHOT_BYTES + _POSTS_A_DAY * _POST_BYTES) / _GB,
        profiles_usd=sum(one.profiles_usd for one in demands),
        posts_usd=sum(one.posts_usd for one in demands),
    )


def _day(platform: Platform, accounts: Sequence[Alike], settings: Settings) -> Sequence[CallTerms]:
    return terms(platform, [one for one in accounts if one.platform == platform.name], settings).calls


def _demand(platform: Platform, accounts: Sequence[Alike], day: Sequence[CallTerms], settings: Settings) -> Demand:
    own = [one for one in accounts if one.platform == platform.name]
    used = max(_parts_used(platform, day), default=0.0)
    posts_usd = sum(call.usd_a_day for call in day if call.kind == "posts")
    return Demand(
        platform=platform.name,
        accounts=sum(one.accounts for one in own),
        calls=sum(call.calls_a_day for call in day),
        limit_used=used,
        credentials=ceil(used) if platform.calls else 0,
        first_days=_first_days(platform, own, settings),
        profiles_usd=sum(call.usd_a_day for call in day) - posts_usd,
        posts_usd=posts_usd,
    )


def _parts_used(platform: Platform, day: Sequence[CallTerms]) -> Iterator[float]:
    """Yield what a day takes of each limit of one set of credentials: per kind of call, and of all kinds together."""
    requests = {call.kind: call.calls_a_day * platform.calls[call.kind].requests for call in day}
    for call in day:
        yield requests[call.kind] * call.limit.interval_s / _DAY_S
    if platform.quota:
        yield sum(requests.values()) / platform.quota.per_day


def _first_days(platform: Platform, accounts: Sequence[Alike], settings: Settings) -> float:
    if not platform.calls:
        return 0.0
    kind = first_kind(platform, external_id=None)
    by_name = {(one.platform, kind, one.host): one.accounts for one in accounts}
    return sum(one.takes_s for one in estimates(by_name, settings, {platform.name: platform})) / _DAY_S


def _linear(cost: tuple[float, float], calls: Sequence[CallTerms]) -> float:
    """Return what a day's calls cost, each so much and so much more for each account that it carries: all are full."""
    per_call, per_account = cost
    return sum(call.calls_a_day * (per_call + per_account * min(call.batch, call.accounts)) for call in calls)
