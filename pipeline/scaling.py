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


class Cost(Struct, frozen=True):
    """What a call costs, and so much more each account that it carries."""

    per_call: float
    per_account: float

    def of(self, calls: Sequence[CallTerms]) -> float:
        """Return what a day's calls cost; all of them are full."""
        return sum(
            call.calls_a_day * (self.per_call + self.per_account * min(call.batch, call.accounts)) for call in calls
        )


# CPU seconds, measured by `./dev bench pipeline` in batches of 1 and of 100.
WORKER_S = Cost(0.0122, 0.00009)
POSTGRES_S = Cost(0.0090, 0.00022)
OTHERS_S = Cost(0.0037, 0.00005)
# Bytes on disk, indexes included; a test measures those of a day's numbers.
JOB_BYTES = Cost(400, 18)
SNAPSHOT_BYTES = 184
ACCOUNT_BYTES = 1_350
POST_BYTES = 460
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
    """What all of it takes. Cores are processors busy on average over the day; disk and memory are PostgreSQL's.

    `disk_gb` is there from the first days on; `disk_gb_a_year` comes with each year of numbers and posts, one a day per
    account. `memory_gb` holds what a day's work and the pages go through: the accounts and a month of numbers.
    """

    accounts: int
    demands: Sequence[Demand]
    calls: int
    worker_cores: float
    postgres_cores: float
    other_cores: float
    disk_gb: float
    disk_gb_a_year: float
    memory_gb: float
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
    jobs_bytes = settings.job_retention_days * JOB_BYTES.of(calls)
    return Scale(
        accounts=total,
        demands=demands,
        calls=made,
        worker_cores=WORKER_S.of(calls) / _DAY_S,
        postgres_cores=POSTGRES_S.of(calls) / _DAY_S,
        other_cores=OTHERS_S.of(calls) / _DAY_S,
        disk_gb=(total * ACCOUNT_BYTES + jobs_bytes) / _GB,
        disk_gb_a_year=total * 365 * (SNAPSHOT_BYTES + _POSTS_A_DAY * POST_BYTES) / _GB,
        memory_gb=total * (ACCOUNT_BYTES + 30 * SNAPSHOT_BYTES) / _GB,
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
