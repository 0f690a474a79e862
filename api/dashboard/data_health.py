"""GET /health: how complete the numbers are, day by day, what stands in the way, and what reading takes."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, get_args

from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from api.cache.entries import Content
from api.cached import HTML
from api.dashboard import look as looks
from api.dashboard.look import look
from api.dashboard.retry import MOST_JOBS, Retried, mark
from api.fresh import give_fresh
from api.operations import Operation, Operations
from api.resources.data_health import TTL_S, DataHealth, PlatformHealth, examination
from api.room import Room
from api.routes import Route
from api.schemas import known_platform, parse
from db import alerts, coverage, health, jobs, provenance, queues, tags
from db.coverage import Coverage, OfDays
from db.engine import Connection
from db.health import Alike
from db.jobs import Listed
from db.queues import OpenJobs
from pipeline.lanes import queue_name
from pipeline.platforms import Platform
from pipeline.settings import Settings
from pipeline.terms import CallTerms, terms

# Whole weeks before this one: shorter than the shortest retention.
WEEKS = 5
# The newest of them are shown.
JOBS, IMPORTS = 12, 5
# Reasons that are told of a day; the others are counted.
_REASONS = 3
_DAY_S = 86_400


_JOB = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
JobIds = Annotated[
    str,
    Meta(
        pattern=f"^{_JOB}(,{_JOB}){{0,{MOST_JOBS - 1}}}$", description=f"ids of jobs, by commas; at most {MOST_JOBS}"
    ),
]


class HealthPageQuery(Struct, frozen=True, kw_only=True):
    """GET /health: `jobs` are those that were asked for, of which the page tells."""

    platform: str | None = None
    jobs: JobIds | None = None


class Square(Struct, frozen=True, kw_only=True):
    """A day of the calendar. `pct` is whole percent, 100 only where none is missing; `shade` is a class of app.css."""

    day: date
    of: Coverage
    pct: int | None
    shade: str


class Missed(Struct, frozen=True, kw_only=True):
    """A day on which not all were read that should have been, with the most frequent reasons and the others' accounts."""

    day: date
    of: Coverage
    reasons: Sequence[tuple[str, int]]
    others: int


class Taken(Struct, frozen=True, kw_only=True):
    """What a day of one platform takes, by its kinds of call, and the names of its credentials by whether they are set."""

    its: PlatformHealth
    calls: Sequence[CallTerms] = ()
    credentials: Mapping[str, bool] = {}
    needs_any: bool = False


class Resting(Struct, frozen=True, kw_only=True):
    """A credential that waits, by the names of its settings: never by what they are set to."""

    platform: str
    names: Sequence[str]
    result: str
    reason: str
    until: datetime


class Queue(Struct, frozen=True):
    """What waits in a queue."""

    name: str
    jobs: OpenJobs


class HealthPage:
    """Kept for a minute at most, as what the API says of the same. Who waits for jobs gets what the database holds now."""

    operations = Operations(
        get=Operation(summary="How complete the numbers are.", query=HealthPageQuery, media_types=(HTML,))
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._platforms = room.platforms
        self._settings = room.settings
        self._examination = examination(room)
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, HealthPageQuery)
        known_platform(query.platform, self._platforms)

        def read(conn: Connection) -> Content:
            return self._read(conn, query)

        if query.jobs is not None:
            self._look.guard(resp)
            await give_fresh(self._room, req, resp, read=read, media_type=HTML)
        else:
            await self._look.give(req, resp, read, ttl_s=TTL_S)

    on_head = on_get

    def _read(self, conn: Connection, query: HealthPageQuery) -> Content:
        now = self._look.clock().now
        data_health = self._examination.data_health(conn, now)
        names = [one.platform for one in data_health.platforms]
        accounts = health.alike(conn, names)
        shown = names if query.platform is None else [query.platform]
        squares = _squares(self._coverage(conn, data_health, accounts, now.date()), shown)
        return self._look.page(
            conn,
            "health.html",
            here="/health",
            tagged=frozenset({tags.SUMMARY, tags.ACCOUNTS, tags.ALERTS}),
            now=now,
            query=query,
            alerts=alerts.listed(conn),
            health=data_health,
            weeks=[squares[start : start + 7] for start in range(0, len(squares), 7)],
            sentence=sentence(squares),
            missed=[_missed(square) for square in reversed(squares) if square.of.expected and square.of.missed],
            taken=[self._taken(one, accounts) for one in data_health.platforms],
            resting=[one for its in data_health.platforms for one in self._resting(its)],
            queues=_queues(queues.open_jobs(conn, now=now)),
            jobs=jobs.listed(conn, jobs.Which(), limit=JOBS),
            asked=asked(jobs.listed(conn, jobs.Which(job_ids=query.jobs.split(",")))) if query.jobs else None,
            mark=mark,
            needed={one.platform for one in data_health.platforms if one.why_not},
            retried=get_args(Retried),
            imports=provenance.listed(conn, most=IMPORTS),
        )

    def _coverage(self, conn: Connection, found: DataHealth, accounts: Sequence[Alike], today: date) -> OfDays:
        return coverage.by_day(
            conn,
            [one.platform for one in found.platforms],
            first_day(today),
            today,
            seldom=seldom(accounts, self._settings, self._platforms),
            today={one.platform: (one.expected, one.read) for one in found.platforms},
        )

    def _taken(self, its: PlatformHealth, accounts: Sequence[Alike]) -> Taken:
        if (platform := self._platforms.get(its.platform)) is None:
            return Taken(its=its)
        own = [one for one in accounts if one.platform == its.platform]
        told = terms(platform, own, self._settings)
        return Taken(
            its=its,
            calls=told.calls,
            credentials={**told.needs, **told.instead, **told.uses},
            needs_any=bool(platform.needs),
        )

    def _resting(self, its: PlatformHealth) -> Iterator[Resting]:
        """Yield the credentials of a platform that wait."""
        platform = self._platforms.get(its.platform)
        for pause in its.pauses:
            yield Resting(
                platform=pause.platform,
                names=self._settings.names_of(platform, pause.credential) if platform else (),
                result=pause.result,
                reason=pause.reason,
                until=pause.until,
            )


def asked(found: Sequence[Listed]) -> str:
    """Say what became of jobs that were asked for; finished ones are forgotten after a time."""
    states = Counter(job.state.replace("_", " ") for job in found)
    if not states:
        return "These jobs aren't kept any more."
    accounts = sum(job.accounts for job in found)
    told = ", ".join(f"{number:,} {state}" for state, number in states.most_common())
    return f"Asked for: {accounts:,} account{'s' if accounts != 1 else ''} in {len(found)} job{'s' if len(found) != 1 else ''} ({told})."


def first_day(today: date) -> date:
    """Return the Monday with which the calendar begins."""
    return today - timedelta(days=today.weekday(), weeks=WEEKS)


def seldom(accounts: Sequence[Alike], settings: Settings, platforms: Mapping[str, Platform]) -> Mapping[str, int]:
    """Return how many accounts of each platform are read less often than daily."""
    found = Counter[str]()
    for one in accounts:
        platform = platforms.get(one.platform)
        usual_s = settings.interval_s(platform, "profiles") if platform else settings.read_interval_s
        if (one.read_interval_s or usual_s) > _DAY_S:
            found[one.platform] += one.accounts
    return found


def sentence(squares: Sequence[Square]) -> str:
    """Say what the calendar shows."""
    known = [square for square in squares if square.of.expected]
    if not known:
        return "No account that should have been read was in the list on any of these days."
    whole = sum(not square.of.missed for square in known)
    days = f"{len(known)} day{'s' if len(known) != 1 else ''}"
    said = f"Since {looks.day(known[0].day)} every account that was due was read on {whole} of {days}"
    least = min(known, key=lambda square: square.of.pct or 0)
    if not least.of.missed:
        return f"{said}."
    reason, accounts = Counter(least.of.missed).most_common(1)[0]
    return (
        f"{said}; fewest on {looks.day(least.day)}: {least.of.read:,} of {least.of.expected:,} ({least.pct} %)."
        f" The most frequent reason then, of {accounts:,}: {reason}."
    )


def _squares(days: OfDays, platforms: Collection[str]) -> list[Square]:
    """Return the days of the calendar, of these platforms together."""
    some = next(iter(days.values()), {})
    each = {day: coverage.together(days[name][day] for name in platforms if name in days) for day in some}
    return [Square(day=day, of=of, pct=_whole(of), shade=_shade(of)) for day, of in each.items()]


def _whole(of: Coverage) -> int | None:
    return None if of.pct is None else int(of.pct)


def _shade(of: Coverage) -> str:
    """Return how a day is coloured; the number says the same."""
    if of.pct is None:
        return "unknown"
    return next(name for least, name in ((100, "all"), (95, "most"), (80, "many"), (0, "few")) if of.pct >= least)


def _missed(square: Square) -> Missed:
    ordered = Counter(square.of.missed).most_common()
    return Missed(
        day=square.day,
        of=square.of,
        reasons=ordered[:_REASONS],
        others=sum(accounts for _, accounts in ordered[_REASONS:]),
    )


def _queues(found: Sequence[OpenJobs]) -> list[Queue]:
    """Return the queues, the one first that has waited longest."""
    waiting = sorted(found, key=lambda one: (one.oldest_at is None, one.oldest_at, one.platform))
    return [Queue(queue_name(one.platform, one.lane), one) for one in waiting]


def routes(room: Room) -> Iterator[Route]:
    yield "/health", HealthPage(room)
