"""The situations that every platform with a reader is shown in, by its recorded answers or by a reason why not.

Whether a recording shows a situation is read from what must come of it, so none can claim to show one. What a platform
declares (numbers not offered, batches, quota, credentials) decides which it can be in; the other reasons stand in
EXCUSED. What happens on the way to any platform needs no recording: see test_transport.py; nor does what may happen to
any number: see test_numbers.py.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from pipeline.platforms import Platform, midnight_after
from tests.contract.playback import NOON, Recording
from workers.reset import DEFAULT_WAIT

Test = Callable[[Platform, Recording], bool]

_ENDED = re.compile(r"suspend|deactivat|terminat|deleted|banned|merged", re.IGNORECASE)
_CLOSED = re.compile(r"private|protected", re.IGNORECASE)
_NOT_THERE = re.compile(r"not found|no such|no \w+ has", re.IGNORECASE)
_LACKS_RIGHTS = re.compile(r"permission|feature|advanced access|enabled|scope|doesn't include|\(403\)", re.IGNORECASE)
_ENGAGEMENT = ("likes", "comments", "shares", "views")


class Situation(Struct, frozen=True):
    """`is_shown` tells whether a recording shows it; `applies` whether a platform can be in it, by what it declares."""

    name: str
    is_shown: Test
    applies: Callable[[Platform], bool] = lambda platform: True


def lacking(platform: Platform, recordings: Sequence[Recording], excused: Mapping[str, str]) -> list[str]:
    """Return the names of the situations that a platform is neither shown in nor excused from."""
    return [
        one.name
        for one in SITUATIONS
        if one.applies(platform) and one.name not in excused and not shown(one, platform, recordings)
    ]


def shown(situation: Situation, platform: Platform, recordings: Sequence[Recording]) -> bool:
    return any(situation.is_shown(platform, one) for one in recordings if one.platform == platform.name)


def _reasons(recording: Recording) -> Iterator[str]:
    """Yield why accounts are gone."""
    if recording.error == "Gone":
        yield recording.expect["reason"]
    yield from (one["reason"] for one in recording.results if one.get("result") == "gone")


def _is_told(name: str) -> Test:
    return lambda platform, one: any(name in profile for profile in one.profiles)


def _has_precision(name: str) -> Test:
    return lambda platform, one: any(profile["precision"] == name for profile in one.profiles)


def _is_gone(pattern: re.Pattern[str]) -> Test:
    """Return a test for accounts of which the platform says just this, and not only that they aren't found."""
    return lambda platform, one: any(pattern.search(why) and "not found" not in why for why in _reasons(one))


def _is_not_found(platform: Platform, one: Recording) -> bool:
    return one.kind != "posts" and any(map(_NOT_THERE.search, _reasons(one)))


def _is_renamed(platform: Platform, one: Recording) -> bool:
    pairs = zip(one.accounts, one.results, strict=False)
    return any(
        "external_id" in asked and asked["handle"].lower() != said.get("handle", asked["handle"]).lower()
        for asked, said in pairs
    )


def _is_partly_read(platform: Platform, one: Recording) -> bool:
    return one.error == "BatchRefused" or (bool(one.profiles) and len(one.profiles) < len(one.results))


def _refusals(one: Recording) -> Iterator[str]:
    """Yield why the platform answers not at all, or not about an account."""
    if one.error == "NotAllowed":
        yield one.expect["reason"]
    yield from (said["reason"] for said in one.results if said.get("result") == "blocked")


def _is_credential_refused(platform: Platform, one: Recording) -> bool:
    named = re.compile("|".join((*platform.needs, *platform.instead, *platform.uses)))
    return any(named.search(why) and not _LACKS_RIGHTS.search(why) for why in _refusals(one))


def _is_permission_missing(platform: Platform, one: Recording) -> bool:
    return any(map(_LACKS_RIGHTS.search, _refusals(one)))


def _retry_at(one: Recording) -> datetime:
    return datetime.fromisoformat(one.expect["retry_at"])


def _is_quota_spent(platform: Platform, one: Recording) -> bool:
    assert platform.quota is not None
    return one.error == "QuotaSpent" and _retry_at(one) == midnight_after(NOON, platform.quota.zone)


def _has_batches(platform: Platform) -> bool:
    return any(call.batch > 1 for call in platform.calls.values())


def _has_posts(platform: Platform) -> bool:
    return "posts" in platform.calls


SITUATIONS = (
    Situation("the followers are told", _is_told("followers"), lambda p: p.not_offered.followers is None),
    Situation("who it follows is told", _is_told("following"), lambda p: p.not_offered.following is None),
    Situation("the count of posts is told", _is_told("posts"), lambda p: p.not_offered.posts is None),
    Situation("several accounts in one call", lambda p, one: len(one.profiles) > 1, _has_batches),
    Situation("one account is missing among good ones", _is_partly_read, _has_batches),
    Situation("not found", _is_not_found),
    Situation("suspended, deactivated or terminated", _is_gone(_ENDED)),
    Situation("private", _is_gone(_CLOSED)),
    Situation("renamed: its id leads to another name", _is_renamed),
    Situation("hidden count", _has_precision("hidden")),
    Situation("rounded count", _has_precision("rounded")),
    Situation("credential refused", _is_credential_refused, lambda p: bool(p.needs or p.uses)),
    Situation("permission missing", _is_permission_missing, lambda p: bool(p.needs)),
    Situation("rate limited", lambda p, one: one.error == "RateLimited"),
    Situation(
        "rate limited, and says until when",
        lambda p, one: one.error == "RateLimited" and _retry_at(one) != NOON + DEFAULT_WAIT,
    ),
    Situation("the day's quota is spent", _is_quota_spent, lambda p: p.quota is not None),
    Situation(
        "posts that go on behind the page", lambda p, one: bool(one.posts) and "cursor" in one.expect, _has_posts
    ),
    Situation(
        "posts asked for by a cursor", lambda p, one: one.posts is not None and one.cursor is not None, _has_posts
    ),
    Situation(
        "the last page of posts", lambda p, one: one.posts is not None and "cursor" not in one.expect, _has_posts
    ),
    Situation(
        "engagement is told",
        lambda p, one: any(name in post for post in one.posts or () for name in _ENGAGEMENT),
        lambda p: _has_posts(p) and p.not_offered.engagement is None,
    ),
    Situation("no posts", lambda p, one: one.posts == [], _has_posts),
    Situation(
        "posts of an account that is gone", lambda p, one: one.kind == "posts" and any(_reasons(one)), _has_posts
    ),
)

_EXACT = "its counts are exact"
_NOTHING_HIDDEN = "nobody can hide a count there"
_NO_REASON = "an account that can't be shown is not found, without a reason"
_BY_NAME_ONLY = "it finds accounts by name only: a renamed one isn't found"

EXCUSED: Mapping[str, Mapping[str, str]] = {
    "bluesky": {
        "private": "every account is public",
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
    },
    "facebook": {
        "private": _NO_REASON,
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
    },
    "flickr": {
        "private": "an account is public, its photos may not be",
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
        "permission missing": "a key may read whatever is public",
    },
    "instagram": {
        "suspended, deactivated or terminated": _NO_REASON,
        "private": _NO_REASON,
        "renamed: its id leads to another name": _BY_NAME_ONLY,
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
    },
    "linkedin": {
        "suspended, deactivated or terminated": _NO_REASON,
        "private": "a page is public; its followers may be closed to the token",
        "renamed: its id leads to another name": "by its id it tells the followers, and no name",
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
    },
    "mastodon": {
        "private": "a locked account shows its counts and its public posts",
        "rounded count": _EXACT,
    },
    "reddit": {
        "renamed: its id leads to another name": "names are for good",
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
    },
    "threads": {
        "suspended, deactivated or terminated": _NO_REASON,
        "private": _NO_REASON,
        "renamed: its id leads to another name": _BY_NAME_ONLY,
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
        "the day's quota is spent": "it is told as any other limit, with the minutes to wait",
    },
    "tiktok": {
        "suspended, deactivated or terminated": _NO_REASON,
        "private": _NO_REASON,
        "renamed: its id leads to another name": _BY_NAME_ONLY,
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
        "rate limited, and says until when": "it never says",
    },
    "truthsocial": {
        "private": "a locked account shows its counts and its public posts",
        "hidden count": "it isn't known to hide any",
        "rounded count": _EXACT,
    },
    "x": {
        "hidden count": _NOTHING_HIDDEN,
        "rounded count": _EXACT,
    },
    "youtube": {
        "private": "a private channel is left out, as a deleted one",
        "rate limited, and says until when": "it never says",
        "posts of an account that is gone": "the uploads of a channel that is gone are missing, as those of one without any",
    },
}
"""By platform and situation, why the platform can't be in it."""
