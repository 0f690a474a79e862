"""What the caches hold and what it is held under."""

import hashlib
import time
from datetime import datetime
from functools import cached_property
from typing import Literal

import msgspec
from msgspec import Struct, field

from api.cache.stats import Counts

Headers = tuple[tuple[str, str], ...]
Level = Literal["l1", "l2", "miss", "stale"]


class Key(Struct, frozen=True, dict=True):
    """All that tells one answer from another: two requests share an answer only when all of it is equal.

    Only GET is cached, and HEAD is answered from it, so the method isn't part of the key. `query` is sorted. One
    answer may be held in several encodings. `made_with` names what a page is made of besides its numbers: Redis
    outlives a deploy, and the page of another version asks for other style sheets and scripts.
    """

    path: str
    query: tuple[tuple[str, str], ...]
    media_type: str
    made_with: str = ""

    @cached_property
    def digest(self) -> str:
        """Return the key's name in Redis: of fixed length, and without a way to forge another key's."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Content(Struct, frozen=True, kw_only=True):
    """What a read made: the body, the tags of all that it shows, and the time of the newest fact in it.

    `headers` are those that say more of this body than its media type does. `kept_s` is for what holds only so long,
    whatever it is asked by. What shows one account as it stood after its attempt of `modified_at` names it in `account`,
    by its tag.
    """

    body: bytes
    tags: frozenset[str]
    modified_at: datetime | None
    status: int = 200
    headers: dict[str, str] = {}
    kept_s: float | None = None
    account: str | None = None


class Stamps(Struct, frozen=True):
    """How new what was read is: it shows every commit whose purge was counted by then.

    `heard` counts in this process (`Purges`), `shared` in Redis; None where Redis couldn't be asked. `at` is when
    they were taken (monotonic).
    """

    heard: int
    shared: int | None
    at: float = field(default_factory=time.monotonic)


class Variant(Struct, frozen=True):
    """An answer's ready bytes in one encoding. The best that compression can do has an ETag of its own.

    A strong ETag names bytes, not what they mean, and it comes out the same in every process.
    """

    coding: str
    etag: str
    body: bytes
    is_best: bool


class Answer(Struct, frozen=True, kw_only=True):
    """What is known of an answer whatever its encoding. `content` identifies the body; it may be kept for `ttl_s`."""

    digest: str
    content: str
    status: int
    tags: tuple[str, ...]
    modified_at: datetime | None
    ttl_s: float
    headers: dict[str, str] = {}
    account: str | None = None


class Kept(Struct, kw_only=True):
    """An answer in memory with the encodings that were asked for. Times are monotonic.

    `counts` are those of its endpoint, `headers` are made once for each ETag; `unseen_since` is when the first commit that it doesn't show was purged, as far as it is known.
    """

    answer: Answer
    variants: dict[str, Variant]
    counts: Counts
    headers: dict[str, Headers] = field(default_factory=dict)
    stamp: int
    read_at: float
    until: float
    unseen_since: float | None = None
    hits: int = 0
