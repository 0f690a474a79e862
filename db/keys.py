"""API keys: `rc_<key_id>_<secret>`, shown once. Only the SHA-256 of the secret is kept.

A plain hash is enough here: the secret is 256 random bits, so there is no list of likely ones to try.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from datetime import datetime
from typing import Literal

from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, insert, select, update

from db.lines import is_line
from db.models import api_key

LONGEST_NAME = 100
Scope = Literal["refresh", "admin"]

_ID = re.compile(r"[0-9a-f]{16}")
_TOKEN = re.compile(r"rc_([0-9a-f]{16})_([0-9a-f]{64})")
_SECRET = re.compile(r"(rc_[0-9a-f]{16})_[0-9a-f]+")
_COLUMNS = (api_key.c.key_id, api_key.c.name, api_key.c.scopes, api_key.c.created_at, api_key.c.revoked_at)
_FIND = select(*_COLUMNS, api_key.c.key_hash).where(
    api_key.c.key_id == bindparam("key_id"), api_key.c.revoked_at.is_(None)
)


class BadName(ValueError):
    """A name that no key can have; `str()` says why."""


class Key(Struct, frozen=True):
    """One key, without its secret."""

    key_id: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None


def create(conn: Connection, *, name: str, scopes: Collection[Scope]) -> str:
    """Keep a new key and return its token, which can't be had again. Without a scope it may only read.

    Raises BadName for a name that a log or a list couldn't show in its line.
    """
    if not is_line(name) or not 1 <= len(name.strip()) <= LONGEST_NAME:
        raise BadName(f"a key's name is a line of 1 to {LONGEST_NAME} characters")
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    conn.execute(
        insert(api_key).values(key_id=key_id, name=name, key_hash=_hashed(secret), scopes=sorted(set(scopes)))
    )
    return f"rc_{key_id}_{secret}"


def is_token(text: str) -> bool:
    """Tell whether a text is written as a key is: nothing else need be looked for."""
    return _TOKEN.fullmatch(text) is not None


def hidden(text: str) -> str:
    """Return a text without the secrets of keys that were put into it, where none belongs."""
    return _SECRET.sub(r"\1_…", text)


def is_id(text: str) -> bool:
    """Tell whether a text is written as the id of a key is."""
    return _ID.fullmatch(text) is not None


def find(conn: Connection, token: str) -> Key | None:
    """Return the key of a token, or None for a wrong, unknown or revoked one."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    row = conn.execute(_FIND, {"key_id": parts[1]}).one_or_none()
    if row is None or not hmac.compare_digest(_hashed(parts[2]), bytes(row.key_hash)):
        return None
    return Key(row.key_id, row.name, frozenset(row.scopes), row.created_at, row.revoked_at)


def revoke(conn: Connection, key_id: str) -> bool:
    """Make a key worthless from now on. Return False when there is no such key in use."""
    in_use = (api_key.c.key_id == key_id) & api_key.c.revoked_at.is_(None)
    return conn.execute(update(api_key).where(in_use).values(revoked_at=func.now())).rowcount == 1


def list_keys(conn: Connection) -> list[Key]:
    """Return every key, the revoked ones too, oldest first."""
    rows = conn.execute(select(*_COLUMNS).order_by(api_key.c.created_at, api_key.c.key_id))
    return [Key(row.key_id, row.name, frozenset(row.scopes), row.created_at, row.revoked_at) for row in rows]


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
