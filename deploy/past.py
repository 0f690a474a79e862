"""The weeks before the first run, as the simulator would have answered then: a new user sees trends at once.

The platforms' own readers ask a simulation in this process whose clock is set back, day by day. So what comes with the
first reading continues what is written here. All of it is marked simulated, and `rollcall demo clear` removes it.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, cast

import msgspec
from msgspec import Struct
from urllib3 import BaseHTTPResponse, HTTPResponse

from db import bulk, claims, dataset, partitions, readings, totals
from db.bulk import Snapshot
from db.engine import Engine, reading, transaction
from deploy.simulator.simulation import Simulation
from deploy.simulator.world import reached
from pipeline import platforms
from pipeline.errors import ScrapeError
from pipeline.platforms import Reader, first_kind
from pipeline.records import Account, Job, Kind, Post, Profile
from pipeline.settings import Settings
from workers.deadline import Pool
from workers.http import HttpClient
from workers.scrape import read

DAYS = 60
MOST_ACCOUNTS = 2_000
"""A longer list would keep its owner waiting for minutes."""


class TooManyAccounts(Exception):
    """The list is longer than MOST_ACCOUNTS: nothing was written."""


class Written(Struct, frozen=True):
    """How many accounts now have a past, and how many snapshots that is."""

    accounts: int
    snapshots: int


def write(engine: Engine, settings: Settings, *, now: datetime) -> Written | None:
    """Write the days before today, and add them up; None where the database has numbers already.

    Raises TooManyAccounts.
    """
    with reading(engine) as conn:
        if dataset.has_snapshots(conn):
            return None
        accounts = claims.active(conn, most=MOST_ACCOUNTS + 1)
    if len(accounts) > MOST_ACCOUNTS:
        raise TooManyAccounts
    days = [now - timedelta(days=age) for age in range(DAYS, 0, -1)]
    read_by_day = {at: _Past(settings, at).profiles(accounts) for at in days}
    posts = _Past(settings, days[-1]).posts(
        _found(accounts, read_by_day[days[-1]]), since=days[0] - _window(settings)
    )
    rows = [
        _snapshot(profile, at, _engagement(posts.get(profile.account_key, ()), at, days[-1], _window(settings)))
        for at, profiles in read_by_day.items()
        for profile in profiles
    ]
    with transaction(engine) as conn:
        partitions.cover(conn, {at.date() for at in days}, months=settings.partition_months)
    with transaction(engine) as conn:
        dataset.claim(conn, "simulated")
        written = bulk.upsert_snapshots(conn, rows, source="simulated").inserted
        readings.posts(conn, posts, source="simulated", now=days[-1])
    totals.keep(engine, today=now.date(), most=DAYS)
    return Written(len({row.account_key for row in rows}), written)


class _Past:
    """What all platforms answered at a moment."""

    def __init__(self, settings: Settings, at: datetime) -> None:
        self._settings = settings
        self._at = at
        self._pool = _InProcess(settings.simulator_url or "", at)

    def profiles(self, accounts: Iterable[Account]) -> list[Profile]:
        """Return the numbers of those accounts that had any."""
        found: list[Profile] = []
        for name, of_platform in _by_platform(accounts).items():
            platform = platforms.load()[name]
            for kind in platform.calls:
                asked = [one for one in of_platform if first_kind(platform, one.external_id) == kind]
                for batch in _batches(asked, platform.calls[kind].batch):
                    found += self._profiles(cast(Reader, platform), kind, batch)
        return found

    def _profiles(self, platform: Reader, kind: Kind, accounts: Sequence[Account]) -> Sequence[Profile]:
        """Ask for a batch; where the platform refuses all for one of them, for each by itself."""
        try:
            return read(platform, _job(platform, kind, accounts), self._client(platform)).profiles
        except ScrapeError:
            if len(accounts) == 1:
                return ()  # the first real reading says why
            return [found for one in accounts for found in self._profiles(platform, kind, [one])]

    def posts(self, accounts: Iterable[Account], *, since: datetime) -> dict[int, list[Post]]:
        """Return the posts of accounts back to a moment, or a little further."""
        return {
            one.account_key: list(self._posts(cast(Reader, platforms.load()[one.platform]), one, since))
            for one in accounts
            if "posts" in platforms.load()[one.platform].calls
        }

    def _posts(self, platform: Reader, account: Account, since: datetime) -> Iterator[Post]:
        http, cursor = self._client(platform), None
        while True:
            try:
                answer = read(platform, _job(platform, "posts", [account], cursor), http)
            except ScrapeError:
                return
            page, cursor = answer.posts.get(account.account_key, ()), answer.cursor
            yield from page
            if cursor is None or not page or page[-1].published_at < since:
                return

    def _client(self, platform: Reader) -> HttpClient:
        (credentials,) = self._settings.credentials(platform)
        return HttpClient(
            platform,
            pool=self._pool,
            base_url=self._settings.base_url(platform),
            credentials=credentials.values,
            deadline_s=self._settings.http_deadline_s,
            user_agent="",  # nobody hears it
            now=lambda: self._at,
            heed=lambda _: None,
        )


class _InProcess(Pool):
    """A simulation of its own at the end of each connection, at a moment and without limits."""

    def __init__(self, url: str, at: datetime) -> None:
        self._url = url.rstrip("/")
        self._simulation = Simulation(1, at=at)

    def request(self, method: str, url: str, **options: Any) -> BaseHTTPResponse:
        headers = {name.lower(): value for name, value in options["headers"].items()}
        answer, _ = self._simulation.answer(method, url.removeprefix(self._url), headers, options["body"] or b"")
        body = answer.body.encode() if isinstance(answer.body, str) else msgspec.json.encode(answer.body)
        return HTTPResponse(io.BytesIO(body), dict(answer.headers), answer.status, preload_content=False)


def _by_platform(accounts: Iterable[Account]) -> Mapping[str, list[Account]]:
    ordered = sorted(accounts, key=lambda one: (one.platform, one.host))
    return {name: list(of) for name, of in groupby(ordered, key=lambda one: one.platform) if name in platforms.load()}


def _batches(accounts: Iterable[Account], most: int) -> Iterator[Sequence[Account]]:
    """Yield what one call carries: accounts of one host, at most so many."""
    for _, of_host in groupby(accounts, key=lambda one: one.host):
        rest = list(of_host)
        yield from (rest[start : start + most] for start in range(0, len(rest), most))


def _found(accounts: Iterable[Account], profiles: Iterable[Profile]) -> list[Account]:
    """Return the accounts that were read, with what their platform calls them."""
    read_ = {profile.account_key: profile for profile in profiles}
    return [
        msgspec.structs.replace(one, external_id=found.external_id, handle=found.handle)
        for one in accounts
        if (found := read_.get(one.account_key))
    ]


def _job(platform: Reader, kind: Kind, accounts: Sequence[Account], cursor: str | None = None) -> Job:
    return Job(job_id="", platform=platform.name, kind=kind, lane="core", cursor=cursor, accounts=tuple(accounts))


def _snapshot(profile: Profile, at: datetime, engagement: int | None) -> Snapshot:
    return Snapshot(
        account_key=profile.account_key,
        snapshot_date=at.date(),
        captured_at=at,
        followers=profile.followers,
        following=profile.following,
        posts=profile.posts,
        engagement=engagement,
        precision=profile.precision,
    )


def _window(settings: Settings) -> timedelta:
    return timedelta(days=settings.engagement_days)


def _engagement(posts: Sequence[Post], at: datetime, asked_at: datetime, window: timedelta) -> int | None:
    """Return what posts had gathered by then, of the numbers that they had later; None where none ever had one."""
    if all(number is None for post in posts for number in (post.likes, post.comments, post.shares)):
        return None
    by_post = (
        (reached(post.published_at, at) / reached(post.published_at, asked_at), post)
        for post in posts
        if at - window < post.published_at < at
    )
    return sum(
        int(share * (number or 0)) for share, post in by_post for number in (post.likes, post.comments, post.shares)
    )
