"""Who may do what: `Authorization: Bearer rc_…` or a browser that is signed in by a key, and the scopes of the key."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime

from api.cache.tags import Purges
from api.operations import Operation
from api.problems import Problem
from db import keys, sign_ins, tags
from db.engine import Engine, reading
from db.keys import Key

# A key is asked for again after so long even where nothing was heard of it: a purge can be lost.
REMEMBERED_S = 5.0
_MOST_REMEMBERED = 10_000
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rollcall"'}


class Access:
    """Decides by what a resource's operations declare: the scope that a key must allow, and what is always open.

    Right keys are remembered as answers are: until their tag is purged, so that a revoked one is worth nothing from
    that moment on; while purges can't be heard, each is looked up each time. Wrong ones are not remembered.
    `know_all` looks up keys where none is needed, too. A signed-in browser is its key wherever one is needed; elsewhere
    nobody asks who it is.
    """

    def __init__(
        self,
        engine: Engine,
        threads: Executor,
        purges: Purges,
        *,
        require_key: bool,
        know_all: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._threads = threads
        self._purges = purges
        self._require_key = require_key
        self._know_all = know_all
        self._clock = clock
        # By the hash of their token: how long a comparison takes tells nothing of one, and no memory holds one.
        self._remembered: dict[bytes, tuple[Key, int, float]] = {}

    async def check(
        self, authorization: str | None, operation: Operation, *, signed_in: str | None = None
    ) -> Key | None:
        """Return the caller's key where one is needed. Raises Problem: 401 without a right one, 403 for its scope.

        `signed_in` is the token of a browser; what `authorization` says outranks it.
        """
        scope = operation.scope
        is_needed = self._is_needed(operation)
        if not is_needed and (authorization is None or operation.always_open or not self._know_all):
            return None
        token = signed_in if authorization is None else _token(authorization)
        key = None if token is None else await self.holder(token)
        if key is None and is_needed:
            said = "This needs a key (Authorization: Bearer rc_…), or to be signed in."
            if authorization is not None and authorization.lower().startswith("bearer "):
                said = "This key is unknown or was revoked."
            raise Problem(401, said, headers=_CHALLENGE)
        if key is not None and scope is not None and not {scope, "admin"} & key.scopes:
            raise Problem(403, f"This key lacks the scope {scope}.")
        return key

    async def holder(self, token: str) -> Key | None:
        """Return the key of a token, which is a key's own or that of a signed-in browser; None for a worthless one."""
        key = self._recall(token)
        if key is None:
            key = await asyncio.get_running_loop().run_in_executor(self._threads, self._find, token)
        return key

    def passes(self, key: Key | None, authorization: str | None, operation: Operation) -> bool:
        """Tell whether `check` lets a caller whose key is `known` pass without asking anybody; if not, it may yet."""
        if key is None:
            is_asked_for = authorization is not None and self._know_all and not operation.always_open
            return not is_asked_for and not self._is_needed(operation)
        return operation.scope is None or bool({operation.scope, "admin"} & key.scopes)

    def known(self, authorization: str | None) -> Key | None:
        """Return the caller's key if it is remembered: nobody is asked."""
        token = _token(authorization) if authorization is not None else None
        return None if token is None else self._recall(token)

    def _is_needed(self, operation: Operation) -> bool:
        return operation.scope is not None or (self._require_key and not operation.always_open)

    def _recall(self, token: str) -> Key | None:
        kept = self._remembered.get(_hashed(token))
        if kept is None:
            return None
        key, stamp, until = kept
        holds = self._clock() < until and self._purges.hold((tags.key(key.key_id),), stamp)
        return key if holds else None

    def _find(self, token: str) -> Key | None:
        if key := self._recall(token):  # many ask at once: the first has looked it up for all
            return key
        stamp = self._purges.stamp()
        lasts_s, now = REMEMBERED_S, datetime.now(UTC)
        # On the primary: a revocation may not have reached a replica.
        with reading(self._engine) as conn:
            if keys.is_token(token):
                key = keys.find(conn, token)
            elif signed_in := sign_ins.find(conn, token, now=now):
                key = signed_in.key
                lasts_s = min(lasts_s, (signed_in.ends_at - now).total_seconds())
            else:
                key = None
        if key is not None:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[_hashed(token)] = (key, stamp, self._clock() + lasts_s)
        return key


def _token(authorization: str) -> str | None:
    """Return the key that a header names; None for anything else."""
    kind, _, token = authorization.partition(" ")
    token = token.strip()
    return token if kind.lower() == "bearer" and keys.is_token(token) else None


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
