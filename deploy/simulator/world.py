"""A world of accounts that needs no memory: everything follows from the seed, the platform, the name and the moment.

Audiences grow with a weekly rhythm and a little daily noise; posts appear at an account's own pace, and their
engagement grows quickly at first, then settles. The same question gets the same answer in every process.
"""

import math
import struct
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from typing import Literal

from msgspec import Struct

from deploy.simulator.names import is_marked

PostKind = Literal["post", "reply", "repost", "quote"]

_DAY_S = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGAN = datetime(2023, 1, 2, tzinfo=UTC)
_RHYTHM = (1.1, 1.0, 0.7, 0.7, 1.2, 1.2, 1.1)  # growth per day of the week; day 0 of the epoch was a Thursday
_RHYTHM_BEFORE = tuple(sum(_RHYTHM[:weekday]) for weekday in range(7))
_SETTLES_DAYS = 1.5
_BIOS = (
    "News and help from our office. Following is not endorsement.",
    "Answers, services and opening hours. Für alle. Para todos.",
    "Official account. We read every reply, Monday to Friday ☎️",
    "Public health, in plain words.\nEspañol: @ayuda",
    "",
)
_TEXTS = (
    "Our advice line is open until eight tonight.",
    "Have you had your flu vaccination yet? It takes ten minutes 💉",
    "New figures are out: see what has changed since last year.",
    "¿Necesita ayuda en español? Estamos aquí.",
    "Applications close on Friday.\nHere is how to apply in three steps.",
    'A reader asks: "Does it cost anything?" No, & it never did.',
    "Thank you to everyone who came to the open day!",
)


class Post(Struct, frozen=True):
    """One post at the moment it was asked for. `salt` sets apart the ids of posts of the same millisecond."""

    index: int
    published_at: datetime
    kind: PostKind
    text: str
    has_media: bool
    likes: int
    comments: int
    shares: int
    views: int
    salt: int


class Account:
    """One account. `key` makes it what it is, for good; `name` is what it is called, and may be empty."""

    def __init__(self, seed: int, platform: str, key: str, name: str) -> None:
        self.platform = platform
        self.name = name
        self._digest = blake2b(f"{seed}/{platform}/{key}".encode()).digest()
        self._traits: tuple[float, ...] = tuple(trait / 2**64 for trait in struct.unpack("<8Q", self._digest))
        self._is_blank = is_marked(name, "zero")
        self._audience: float = 10 ** (2 + 4.7 * self._traits[0])
        self._growth = self._audience * (0.0015 * self._traits[1] ** 2 - 0.0001)
        self._pace_ms = int(_DAY_S * 1000 / 10 ** (1.5 * self._traits[2] - 0.8))

    @cached_property
    def created_at(self) -> datetime:
        return _BEGAN + timedelta(seconds=int(self._traits[3] * 365 * _DAY_S))

    @property
    def display_name(self) -> str:
        words = self.name.partition(".")[0].replace("_", " ").replace("-", " ")
        return words.title() or f"Account {self._digest.hex()[:6]}"

    @property
    def bio(self) -> str:
        return _BIOS[self._digest[0] % len(_BIOS)]

    @property
    def avatar_url(self) -> str:
        return f"https://avatars.example/{self.platform}/{self._digest.hex()[:16]}_normal.png"

    @property
    def is_verified(self) -> bool:
        return self._digest[1] % 3 > 0

    def lacks(self, field: str) -> bool:
        """Say whether this account is one of the few (1 in 16) whose answers leave out an optional field."""
        return self._chance("lacks", field) < 1 / 16

    def followers(self, at: datetime) -> int:
        if self._is_blank:
            return 0
        today, part = divmod(max(at, self.created_at).timestamp() / _DAY_S, 1)
        return int(self._level(int(today)) * (1 - part) + self._level(int(today) + 1) * part)

    def following(self, at: datetime) -> int:
        return 0 if self._is_blank else int(10 ** (1 + 2 * self._traits[4]) * (1 + self._age_days(at) / 3000))

    def views(self, at: datetime) -> int:
        """Return how often the account's posts were seen since it began."""
        per_follower = 20 + 980 * self._traits[5]
        return 0 if self._is_blank else int(self._audience * per_follower * self._age_days(at) / 1000)

    def posts(self, at: datetime) -> int:
        """Return how many posts were published until `at`; the newest has this number less one as its index."""
        elapsed_ms = int((at - self.created_at) / timedelta(milliseconds=1))
        if self._is_blank or elapsed_ms < 0:
            return 0
        whole = elapsed_ms // self._pace_ms
        return whole + (self._published_ms(whole) <= elapsed_ms)

    def page(self, at: datetime, *, most: int, before: int | None = None, hidden: Collection[str] = ()) -> list[Post]:
        """Return posts as they stand at `at`, newest first: those below the index `before`, none of a hidden kind."""
        posted = self.posts(at)
        indexes = range(posted if before is None else min(before, posted))
        shown = (post for index in reversed(indexes) if (post := self.post(index, at)).kind not in hidden)
        return list(islice(shown, most))

    def post(self, index: int, at: datetime) -> Post:
        """Return a post as it stands at `at`."""
        published_at = self.created_at + timedelta(milliseconds=self._published_ms(index))
        digest = blake2b(f"post/{index}".encode(), key=self._digest, digest_size=12).digest()
        luck, spread, salt = struct.unpack("<3I", digest)
        gathered = self._audience * 10 ** (1.4 * luck / 2**32 - 3.2) * reached(published_at, at)
        share = spread / 2**32
        return Post(
            index=index,
            published_at=published_at,
            kind=_kind(salt % 100),
            text=_TEXTS[spread % len(_TEXTS)],
            has_media=spread % 3 == 0,
            likes=int(gathered),
            comments=int(gathered * (0.02 + 0.1 * share)),
            shares=int(gathered * (0.25 - 0.2 * share)),
            views=int(gathered * (20 + 40 * share)),
            salt=salt,
        )

    def _age_days(self, at: datetime) -> float:
        return max(0.0, (at - self.created_at).total_seconds() / _DAY_S)

    def _level(self, day: int) -> float:
        """Return the followers at the beginning of a day, counted from 1970."""
        weeks, weekday = divmod(day, 7)
        first_weeks, first_weekday = divmod(int(self.created_at.timestamp() // _DAY_S), 7)
        grown = 7 * (weeks - first_weeks) + _RHYTHM_BEFORE[weekday] - _RHYTHM_BEFORE[first_weekday]
        noise = 0.8 * (self._chance("day", day) - 0.5)
        return self._audience + self._growth * (grown + noise)

    def _published_ms(self, index: int) -> int:
        """Return the milliseconds from the account's beginning to a post: one in each of its paces, a little off."""
        return index * self._pace_ms + int(0.8 * self._pace_ms * self._chance("time", index))

    def _chance(self, *about: object) -> float:
        text = "/".join(map(str, about)).encode()
        return float(int.from_bytes(blake2b(text, key=self._digest, digest_size=8).digest()) / 2**64)


class World:
    """Where every name has its account. Another seed is another world."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def account(self, platform: str, key: str, name: str | None = None) -> Account:
        """Return an account; its name is its key where nothing else is given."""
        return Account(self._seed, platform, key, key if name is None else name)


class Snowflake:
    """Ids that hold their post's time, as X and Mastodon make them: milliseconds, then some bits of salt."""

    def __init__(self, *, epoch_ms: int, bits: int) -> None:
        self._epoch_ms = epoch_ms
        self._bits = bits

    def id(self, post: Post) -> int:
        elapsed_ms = _epoch_ms(post.published_at) - self._epoch_ms
        return elapsed_ms << self._bits | post.salt & (1 << self._bits) - 1

    def moment_before(self, post_id: int) -> datetime:
        """Return the last millisecond before a post of this id (of at most 19 digits)."""
        elapsed_ms = (post_id >> self._bits) + self._epoch_ms - 1
        return _EPOCH + timedelta(milliseconds=elapsed_ms)


def reached(published_at: datetime, at: datetime) -> float:
    """Return which share of what a post will ever gather has come by then."""
    age_days = max(0.0, (at - published_at).total_seconds() / _DAY_S)
    return -math.expm1(-age_days / _SETTLES_DAYS)


def iso(moment: datetime) -> str:
    """Return a time as the platforms write it: `2026-03-02T12:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _epoch_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _kind(percent: int) -> PostKind:
    if percent < 66:
        return "post"
    if percent < 78:
        return "reply"
    return "repost" if percent < 90 else "quote"
