"""What the caches hold and what it is held under."""

import hashlib
from datetime import datetime
from functools import cached_property
from typing import Literal

import msgspec
from msgspec import Struct

Level = Literal["l1", "l2", "miss"]


class Key(Struct, frozen=True, dict=True):
    """All that tells one answer from another: two requests share an answer only when all of it is equal.

    Only GET is cached, and HEAD is answered from it, so the method isn't part of the key. `query` is sorted.
    """

    path: str
    query: tuple[tuple[str, str], ...]
    media_type: str
    encoding: str

    @cached_property
    def digest(self) -> str:
        """Return the key's name in Redis: of fixed length, and without a way to forge another key's."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Content(Struct, frozen=True, kw_only=True):
    """What a read made: the body, the tags of all that it shows, and the time of the newest fact in it."""

    body: bytes
    tags: frozenset[str]
    modified_at: datetime | None


class Answer(Struct, frozen=True, kw_only=True):
    """Ready bytes in one encoding, with what their headers say. `expires_at` is Unix time."""

    digest: str
    body: bytes
    encoding: str
    etag: str
    tags: tuple[str, ...]
    modified_at: datetime | None
    expires_at: float
