"""Who may do what: `Authorization: Bearer rc_…`, and the scopes of the key."""

import asyncio
from concurrent.futures import Executor

from api.problems import Problem
from db import keys
from db.engine import Engines
from db.keys import Key, Scope

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rollcall"'}


class Access:
    """Decides by what a resource declares: `scope` for one that a key must allow, `always_open` for the probes."""

    def __init__(self, engines: Engines, threads: Executor, *, require_key: bool) -> None:
        self._engines = engines
        self._threads = threads
        self._require_key = require_key

    async def check(self, authorization: str | None, resource: object) -> Key | None:
        """Return the caller's key where one is needed. Raises Problem: 401 without a right one, 403 for its scope.

        Keys are looked up each time, on the primary: a revoked one is worth nothing from that moment on.
        """
        scope: Scope | None = getattr(resource, "scope", None)
        if scope is None and (getattr(resource, "always_open", False) or not self._require_key):
            return None
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer":
            raise Problem(401, "This needs a key: Authorization: Bearer rc_…", headers=_CHALLENGE)
        key = await asyncio.get_running_loop().run_in_executor(self._threads, self._find, token.strip())
        if key is None:
            raise Problem(401, "This key is unknown or was revoked.", headers=_CHALLENGE)
        if scope is not None and not {scope, "admin"} & key.scopes:
            raise Problem(403, f"This key lacks the scope {scope}.")
        return key

    def _find(self, token: str) -> Key | None:
        with self._engines.transaction() as conn:
            return keys.find(conn, token)
