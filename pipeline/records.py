"""The contract between the files: frozen records that travel from the claim to the commit.

What is kept stands in `db.rows`, so that `db` needs nothing of ours; what lives only between a call and its commit
stands here.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from db.rows import (
    Account,
    Changes,
    Doubt,
    Job,
    JobState,
    Kind,
    Lane,
    Next,
    Post,
    Precision,
    Profile,
    Result,
    Source,
    Subject,
)

__all__ = [
    "Account",
    "Changes",
    "Doubt",
    "Job",
    "JobState",
    "Kind",
    "Lane",
    "Missing",
    "Next",
    "Outcome",
    "Page",
    "Post",
    "Posts",
    "Precision",
    "Profile",
    "Result",
    "Source",
    "Subject",
]


class Page(Struct, frozen=True):
    """One raw answer of a platform: status, lower-case header names, and the decoded JSON body."""

    status: int
    headers: Mapping[str, str]
    body: Any
    fetched_at: datetime


class Posts(Struct, frozen=True, kw_only=True):
    """One page of an account's posts, newest first. `cursor` continues behind the oldest, None at the end."""

    account_key: int
    posts: tuple[Post, ...]
    cursor: str | None = None


class Missing(Struct, frozen=True, kw_only=True):
    """An account that the platform gave no numbers for, and why.

    `result` is `gone` (not found, suspended, deactivated, private), `blocked` (needs a login or an approval) or
    `failed` (left out of the answer without a reason, or its part of the page was not as documented).
    """

    account_key: int
    result: Literal["gone", "blocked", "failed"]
    reason: str


class Outcome(Struct, frozen=True):
    """What one attempt meant for one account: exactly one per account and job."""

    account_key: int
    result: Result
    reason: str | None = None
