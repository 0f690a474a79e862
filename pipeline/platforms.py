"""What a platform is to the rest of Rollcall, and the registry that finds them by entry point.

The planner, the importer and the API know limits, batches and URL rules from here without importing `workers`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from msgspec import Struct

from pipeline.errors import ScrapeError
from pipeline.records import Account, Kind, Missing, Page, Posts, Profile

ENTRY_POINT_GROUP = "rollcall.platforms"


class Call(Struct, frozen=True, kw_only=True):
    """One kind of call: a Celery task, a bucket and a batch size of its own.

    `limit` is calls per time, as `300/15m`, `2/s` or `1000/d`. `batch` is the most accounts one call carries.
    `requests` is how many HTTP requests one call makes (each counts against the limit). `price_usd` is what the
    platform charges per account read (per 100 posts for `posts`).
    """

    limit: str
    batch: int = 1
    requests: int = 1
    price_usd: float = 0.0


class Quota(Struct, frozen=True):
    """Requests (or units) that a platform gives per day, and the time zone whose midnight renews them."""

    per_day: int
    zone: str


class NotOffered(Struct, frozen=True, kw_only=True):
    """Why a platform doesn't offer a number, None where it does: such a number is null, with this as the reason.

    `posts` is the count of posts, `engagement` what posts gather (so their reading as well).
    """

    followers: str | None = None
    following: str | None = None
    posts: str | None = None
    engagement: str | None = None

    @property
    def reasons(self) -> dict[str, str]:
        """Return the reasons by the number's name, those that there are."""
        return {name: reason for name in self.__struct_fields__ if (reason := getattr(self, name)) is not None}


class Meanings(Struct, frozen=True, kw_only=True):
    """What each count of a platform means, as people read it; of one that isn't offered it says nothing.

    `engagement` says what a post gathers. docs/platforms.md has the same words.
    """

    followers: str = "accounts that follow it"
    following: str = "accounts that it follows"
    posts: str = "posts, as the profile counts them"
    engagement: str = "likes, comments and shares"


class Token(Struct, frozen=True):
    """An access token that a platform gave for credentials, and the seconds it lasts."""

    value: str
    lasts_s: float


class UrlRule(Struct, frozen=True):
    """How a URL names an account: a pattern over `host/path` with the groups `handle` and maybe `host`, `id`.

    The pattern is matched without scheme, `www.`, `m.` and `mobile.`, query string and trailing slash, ignoring
    case. A rule with `refuse` names addresses that are no readable account, and says why.
    """

    pattern: str
    refuse: str | None = None

    def match(self, address: str) -> re.Match[str] | None:
        return re.fullmatch(self.pattern, address, re.IGNORECASE)


class Client(Protocol):
    """The one HTTP client, bound to a platform: base URL, credentials, deadline and status table."""

    def get(
        self,
        path: str,
        params: Sequence[tuple[str, str]] = (),
        *,
        host: str = "",
        headers: Mapping[str, str] | None = None,
        expect: Sequence[int] = (200,),
    ) -> Page:
        """Return the page for `path` below the platform's base URL.

        `host` fills `{host}` in the base URL. A status in `expect` is returned; every other one is raised, first
        as the platform's `explain` reads it, else by the status table. `params` may repeat a name.
        """

    def post(
        self,
        path: str,
        params: Sequence[tuple[str, str]] = (),
        *,
        json: Any = None,
        form: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        expect: Sequence[int] = (200,),
    ) -> Page:
        """Send a JSON body, or a form where `json` is None; else as `get`."""

    def token(self) -> str:
        """Return the access token that the platform's `fetch_token` gives, fetched once and renewed in time.

        An answer 401 renews it and repeats the request, once.
        """

    def credential(self, name: str) -> str | None:
        """Return the credential with this environment name, or None when it is not set."""

    def named(self, reason: str) -> str:
        """Return a reason that names credentials as the platform declares them with the names that they are set by."""


class Platform(Protocol):
    """One platform, one file. Class attributes are declarations; methods keep no state."""

    name: str
    title: str
    base_url: str
    not_offered: NotOffered
    meanings: Meanings
    post_lacks: tuple[str, ...]
    """Numbers of a post that the platform never tells, of likes, comments, shares and views."""
    calls: Mapping[Kind, Call]
    """Empty: accounts are listed, but there is no reader yet. `resolve` reads accounts whose id isn't known."""
    quota: Quota | None
    needs: tuple[str, ...]
    """Environment names of the credentials without which nothing can be read."""
    instead: tuple[str, ...]
    """Environment names of credentials each of which does alone what `needs` does together."""
    uses: tuple[str, ...]
    """Environment names of credentials and choices that help where they are set."""
    token_url: str | None
    """Where `fetch_token` posts, if elsewhere than below the base URL; another base URL serves its path as well."""
    urls: tuple[UrlRule, ...]
    handle_pattern: str
    """What a bare handle looks like (without `@`)."""

    def profile_url(self, handle: str, host: str) -> str:
        """Return the public address of an account."""

    def headers(self, http: Client) -> Mapping[str, str]:
        """Return the headers of every request: where credentials go, never into the URL."""

    def fetch_token(self, post: Callable[..., Page], http: Client) -> Token:
        """Ask for an access token by `post`, which sends to `token_url` without the platform's usual headers."""

    def explain(self, page: Page) -> ScrapeError | None:
        """Read an error from a page of any status, or None when there is none that it knows."""


class Reader(Platform, Protocol):
    """A platform that can be read: two steps per kind. `fetch` is the only I/O; `parse` is pure."""

    def fetch_resolve(self, accounts: Sequence[Account], http: Client) -> Page: ...

    def parse_resolve(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]: ...

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page: ...

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]: ...

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page: ...

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing: ...


@cache
def load() -> Mapping[str, Platform]:
    """Return every registered platform by name, in the order of their names."""
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name)
    return {entry.name: entry.load()() for entry in found}


def first_kind(platform: Platform, external_id: str | None) -> Kind:
    """Return the kind of call that reads an account's profile: by id where it is known, else by name."""
    return "resolve" if external_id is None and "resolve" in platform.calls else "profiles"


def midnight_after(now: datetime, zone: str) -> datetime:
    """Return the next midnight in `zone` as an aware UTC time: when a day's quota is renewed."""
    local = now.astimezone(ZoneInfo(zone))
    # Days of 23 and 25 hours: take tomorrow's date, then its midnight, instead of adding 24 hours.
    tomorrow = (local + timedelta(days=1)).date()
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def midnight_before(now: datetime, zone: str) -> datetime:
    """Return the last midnight in `zone` as an aware UTC time: when the quota was renewed that is used now."""
    today = now.astimezone(ZoneInfo(zone)).date()
    return datetime(today.year, today.month, today.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
