"""Signed-in browsers: each has a random token, of which only the SHA-256 is kept, and may what its key may.

A plain hash is enough, as it is for keys (`db.keys`): the token is 256 random bits.
"""

import hashlib
import re
import secrets
from datetime import datetime, timedelta

from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, insert, select

from db.keys import Key
from db.models import api_key, sign_in

_TOKEN = re.compile(r"[0-9a-f]{64}")
# A key that was revoked takes its browsers with it.
_FIND = (
    select(api_key.c.key_id, api_key.c.name, api_key.c.scopes, api_key.c.created_at, sign_in.c.ends_at)
    .join_from(sign_in, api_key)
    .where(
        sign_in.c.token_hash == bindparam("token_hash"),
        sign_in.c.ends_at > bindparam("now"),
        api_key.c.revoked_at.is_(None),
    )
)


class SignedIn(Struct, frozen=True):
    """A browser that is signed in: with which key, and until when."""

    key: Key
    ends_at: datetime


def begin(conn: Connection, key_id: str, *, now: datetime, lasts_s: int) -> str:
    """Sign a browser in by a key, and return the token for its cookie. What has ended by now is cleared away."""
    conn.execute(delete(sign_in).where(sign_in.c.ends_at <= now))
    token = secrets.token_hex(32)
    ends_at = now + timedelta(seconds=lasts_s)
    conn.execute(insert(sign_in).values(token_hash=_hashed(token), key_id=key_id, began_at=now, ends_at=ends_at))
    return token


def is_token(text: str) -> bool:
    """Tell whether a text is written as a token is: nothing else need be looked for."""
    return _TOKEN.fullmatch(text) is not None


def find(conn: Connection, token: str, *, now: datetime) -> SignedIn | None:
    """Return whom a token stands for; None for an unknown one, one that has ended, and one whose key was revoked."""
    row = conn.execute(_FIND, {"token_hash": _hashed(token), "now": now}).one_or_none()
    if row is None:
        return None
    return SignedIn(Key(row.key_id, row.name, frozenset(row.scopes), row.created_at, None), row.ends_at)


def end(conn: Connection, token: str) -> str | None:
    """Sign a browser out, and return its key_id; None where it wasn't signed in."""
    ended = delete(sign_in).where(sign_in.c.token_hash == _hashed(token)).returning(sign_in.c.key_id)
    return conn.execute(ended).scalar_one_or_none()


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
