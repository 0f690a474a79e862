"""What crosses the door of `db`: frozen records in and out. The other packages know them through pipeline.records.

Counts are integers or None. None means that the platform did not say, or does not offer the number; 0 means that
the platform said zero. Times are aware and UTC.
"""

from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

Lane = Literal["user_requested", "core", "retry"]
Kind = Literal["resolve", "profiles", "posts"]
Subject = Literal["profile", "posts"]
Source = Literal["live", "simulated", "imported"]
Precision = Literal["exact", "rounded", "hidden", "held"]
Result = Literal["ok", "gone", "failed", "blocked"]
JobState = Literal["queued", "running", "succeeded", "partly_failed", "failed"]
Batches = Generator[Sequence[Sequence[Any]], None, None]
"""Rows of a long result, some at a time; the values of each stand as the fields of a struct do."""


class Account(Struct, frozen=True):
    """One account as the workers know it. `host` is empty except where a platform is many servers (Mastodon).

    `seat` numbers the accounts of a platform and host from 0. `read_interval_s` is None where the platform's holds.
    """

    account_key: int
    platform: str
    handle: str
    url: str
    host: str = ""
    external_id: str | None = None
    seat: int = 0
    read_interval_s: int | None = None


class Profile(Struct, frozen=True, kw_only=True):
    """What one call said of one account. `handle` is the name that the platform gives today."""

    account_key: int
    external_id: str
    handle: str
    followers: int | None = None
    following: int | None = None
    posts: int | None = None
    precision: Precision = "exact"
    display_name: str | None = None
    bio: str | None = None
    avatar_url: str | None = None
    verified: bool | None = None


class Doubt(Struct, frozen=True, kw_only=True):
    """When a follower count is too far from the last accepted one to be believed before a second reading confirms it.

    Counts below `min_followers` on both sides are believed always. A rise is measured per day since the accepted
    reading; a drop isn't, since no number of days makes one of 100 % more likely.
    """

    drop_pct: int = 50
    rise_pct: int = 300
    min_followers: int = 1_000
    recheck_s: float = 3_600


DOUBT = Doubt()


class Post(Struct, frozen=True, kw_only=True):
    """One post with its engagement as last read."""

    post_id: str
    url: str
    published_at: datetime
    post_type: str
    text: str = ""
    likes: int | None = None
    comments: int | None = None
    shares: int | None = None
    views: int | None = None


class Job(Struct, frozen=True, kw_only=True):
    """Wanted work: one call's worth. `attempt` counts deliveries that began (1 is the first).

    `failures` holds the failures in a row of each account before this job, by account_key. `page` counts the pages
    of posts read one after the other, `cursor` says where this one begins. `size` is the most accounts to ask for at
    once where the platform refused the whole batch.
    """

    job_id: str
    platform: str
    kind: Kind
    lane: Lane
    attempt: int = 0
    cursor: str | None = None
    page: int = 1
    size: int | None = None
    accounts: tuple[Account, ...] = ()
    failures: Mapping[int, int] = {}


class Next(Struct, frozen=True, kw_only=True):
    """What was decided for one account after an attempt: how it stands and when to come back."""

    account_key: int
    result: Result
    reason: str | None
    failures: int
    due_at: datetime


class Changes(Struct, frozen=True):
    """What a transaction changed: cache tags to purge and jobs to publish, only after the commit."""

    tags: frozenset[str]
    snapshots: int = 0
    posts: int = 0
    follow: tuple[Job, ...] = ()
