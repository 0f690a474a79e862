"""GET /api/health/data: how complete today is, what stands in the way, what quotas still give, what a day costs."""

# A field is named day, and its type date.
import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import get_args

import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import Struct
from redis.exceptions import RedisError

from api.cache.entries import Content
from api.lists import picked
from api.operations import Operation, Operations
from api.patient import redis_of
from api.room import Room
from api.routes import Route
from api.schemas import ObjectQuery, chosen_fields, parse
from db import health, pauses, tags
from db.engine import Connection
from db.health import Standing
from db.pauses import Pause
from db.reads import Clock
from db.standing import Status
from pipeline import costs
from pipeline.estimate import unreadable
from pipeline.platforms import Platform, midnight_after, midnight_before
from pipeline.records import Kind
from pipeline.slots import Slots, Units

log = structlog.get_logger()

TTL_S = 60
MOST_REASONS = 100
_UNKNOWN = Units(None, {})
QUOTA_UNKNOWN = "Redis, which counts what is used of the quotas, can't be reached."


class Coverage(Struct, frozen=True):
    """How many of the accounts that should be read on a day (UTC) have been. `pct` is null where there are none."""

    day: dt.date
    expected: int
    read: int
    pct: float | None


class Reason(Struct, frozen=True):
    """Why so many accounts of a platform have no fresh number."""

    status: Status
    platform: str
    reason: str
    accounts: int


class CallLimit(Struct, frozen=True):
    """How often a kind of call may be made with one credential, as `300/15m`, and how many accounts one carries."""

    kind: Kind
    limit: str
    batch: int


class CredentialQuota(Struct, frozen=True):
    """What one credential has used of the day's quota since `counted_since`, and what is left; null is unknown."""

    credential: str
    used: int | None
    left: int | None


class Quota(Struct, frozen=True, kw_only=True):
    """A quota per day and credential, and when it is renewed. `used` and `left` are of all credentials together.

    `left` is null where the count doesn't go back to the day's begin.
    """

    per_day: int
    renewed_at: dt.datetime
    counted_since: dt.datetime | None
    used: int | None
    left: int | None
    credentials: list[CredentialQuota]


class PlatformHealth(Struct, frozen=True, kw_only=True):
    """One platform that has accounts. `quota` is null where the platform publishes none by the day.

    `why_not` says why it can't be read at all; `pauses` are the credentials that wait.
    """

    platform: str
    accounts: int
    expected: int
    read: int
    why_not: str | None
    limits: list[CallLimit]
    quota: Quota | None
    pauses: list[Pause]
    usd_per_day: float | None


class DataHealth(Struct, frozen=True, kw_only=True):
    """`by_reason` has the most frequent reasons; `other_reasons` are the accounts that have others.

    `usd_per_day` is what reading the list at its intervals costs where it can be read. `unknown` says why something
    is null that is known at other times.
    """

    as_of: dt.datetime | None
    coverage: Coverage
    by_status: dict[Status, int]
    by_reason: list[Reason]
    other_reasons: int
    platforms: list[PlatformHealth]
    usd_per_day: float
    unknown: dict[str, str]


class HealthOfData:
    """The one answer to: are the numbers complete today, and if not, why."""

    operations = Operations(
        get=Operation(
            summary="Coverage today, accounts by status and reason, quotas, and what a day costs.",
            query=ObjectQuery,
            answer=DataHealth,
            kept_s=TTL_S,
        )
    )

    def __init__(self, room: Room) -> None:
        self._cached = room.cached
        self._examination = examination(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        names = chosen_fields(parse(req.context.params, ObjectQuery).fields, DataHealth)

        def read(conn: Connection) -> Content:
            answer = self._examination.data_health(conn, dt.datetime.now(dt.UTC))
            return Content(
                body=msgspec.json.encode(picked(answer, names)),
                tags=frozenset({tags.SUMMARY, tags.ACCOUNTS}),
                modified_at=answer.as_of,
            )

        await self._cached.give(req, resp, ttl_s=TTL_S, read=read)

    on_head = on_get


class Examination:
    """Finds out how the data stands, for the API and the page."""

    def __init__(self, room: Room) -> None:
        self._platforms = room.platforms
        self._settings = room.settings
        self._slots = Slots(redis_of(room))

    def data_health(self, conn: Connection, now: dt.datetime) -> DataHealth:
        """Return how complete today is, and what stands in the way."""
        groups = health.standings(conn, now.date(), Clock(now, self._settings.stale_after))
        usd = self._usd(conn)
        names_in_use = sorted({one.platform for one in groups})
        standing = pauses.standing(conn, now)
        units, unknown = self._units(names_in_use, now)
        reasons = [
            Reason(one.status, one.platform, one.reason, one.accounts)
            for one in groups
            if one.reason is not None and one.status not in ("fresh", "paused")
        ]
        return DataHealth(
            as_of=max((one.last_attempt_at for one in groups if one.last_attempt_at), default=None),
            coverage=_coverage(now.date(), groups),
            by_status={name: sum(one.accounts for one in groups if one.status == name) for name in get_args(Status)},
            by_reason=reasons[:MOST_REASONS],
            other_reasons=sum(reason.accounts for reason in reasons[MOST_REASONS:]),
            platforms=[
                PlatformHealth(
                    platform=name,
                    accounts=sum(one.accounts for one in groups if one.platform == name),
                    expected=sum(one.expected for one in groups if one.platform == name),
                    read=sum(one.read for one in groups if one.platform == name),
                    why_not=unreadable(self._platforms.get(name), self._settings),
                    limits=self._limits(name),
                    quota=self._quota(name, units.get(name), standing, now),
                    pauses=sorted(pause for pause in standing if pause.platform == name),
                    usd_per_day=self._usd_of(name, usd),
                )
                for name in names_in_use
            ],
            usd_per_day=round(sum(usd.values()), 4),
            unknown=unknown,
        )

    def _usd(self, conn: Connection) -> Mapping[str, float]:
        """Return what a day of each platform costs that charges; nothing is asked where none does."""
        charging = costs.charging(self._platforms, self._settings)
        accounts = health.alike(conn, charging) if charging else []
        return costs.usd_a_day(accounts, self._settings, self._platforms)

    def _usd_of(self, name: str, usd: Mapping[str, float]) -> float | None:
        if unreadable(self._platforms.get(name), self._settings):
            return None
        return round(usd.get(name, 0.0), 4)

    def _limits(self, name: str) -> list[CallLimit]:
        if (platform := self._platforms.get(name)) is None:
            return []
        rates = {kind: self._settings.rate(platform, kind) for kind in platform.calls}
        return [
            CallLimit(kind, f"{rate.calls}/{rate.period_s}s", platform.calls[kind].batch)
            for kind, rate in rates.items()
        ]

    def _units(self, names: Sequence[str], now: dt.datetime) -> tuple[Mapping[str, Units], dict[str, str]]:
        """Return what is used of the quotas of those platforms that have one and can be read, and what isn't known."""
        found: dict[str, Units] = {}
        unknown: dict[str, str] = {}
        for name in names:
            platform = self._platforms.get(name)
            if platform is None or platform.quota is None or unreadable(platform, self._settings):
                continue
            found[name] = _UNKNOWN
            if unknown:  # who waits isn't made to wait once more
                continue
            renewed_at = midnight_after(now, platform.quota.zone)
            try:
                found[name] = self._slots.units(name, self._labels(platform), renewed_at)
            except RedisError as exc:
                log.warning("quota_unknown", platform=name, error=type(exc).__name__)
                unknown["quota"] = QUOTA_UNKNOWN
        return found, unknown

    def _quota(self, name: str, units: Units | None, standing: Sequence[Pause], now: dt.datetime) -> Quota | None:
        platform = self._platforms.get(name)
        if platform is None or platform.quota is None or units is None:
            return None
        spent = {pause.credential for pause in standing if (pause.platform, pause.result) == (name, "quota")}
        is_whole = units.since is not None and units.since <= midnight_before(now, platform.quota.zone)
        each = []
        for label in self._labels(platform):
            used = units.used.get(label)
            left = max(0, platform.quota.per_day - used) if used is not None and is_whole else None
            each.append(CredentialQuota(label, used, 0 if label in spent else left))
        return Quota(
            per_day=platform.quota.per_day,
            renewed_at=midnight_after(now, platform.quota.zone),
            counted_since=units.since,
            used=_sum([one.used for one in each]),
            left=_sum([one.left for one in each]),
            credentials=each,
        )

    def _labels(self, platform: Platform) -> list[str]:
        return [one.label for one in self._settings.credentials(platform)]


@cache
def examination(room: Room) -> Examination:
    """Return the one examination of a process."""
    return Examination(room)


def _coverage(day: dt.date, groups: Sequence[Standing]) -> Coverage:
    expected, read = sum(one.expected for one in groups), sum(one.read for one in groups)
    return Coverage(day, expected, read, round(100 * read / expected, 2) if expected else None)


def _sum(numbers: Collection[int | None]) -> int | None:
    """Return the sum where all are known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def routes(room: Room) -> Iterator[Route]:
    yield "/api/health/data", HealthOfData(room)
