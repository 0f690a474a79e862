"""How an address names an account: a platform and a handle, `name@server` where the platform is many servers."""

from collections.abc import Mapping

from api.problems import Fault, Problem, refuse
from db import accounts, reads
from db.accounts import Sought
from db.engine import Connection
from db.reads import AccountStanding, Clock


def sought(platforms: Mapping[str, object], platform: str, handle: str) -> Sought:
    """Return what to look for. Raises Problem for a platform that doesn't exist."""
    if platform.casefold() not in platforms:
        raise refuse(Fault("platform", f"{platform[:80]!r} is not one of {', '.join(platforms)}"))
    name, _, host = handle.removeprefix("@").partition("@")
    return Sought(platform.casefold(), name, host.lower())


def find_account(
    conn: Connection, platforms: Mapping[str, object], platform: str, handle: str, clock: Clock
) -> AccountStanding:
    """Return the account of a present or past handle, in any case. Raises Problem: 404 for an unknown one."""
    account = sought(platforms, platform, handle)
    # PostgreSQL takes no NUL, and no handle holds anything unprintable.
    key = accounts.find(conn, account.platform, account.handle, account.host) if handle.isprintable() else None
    found = None if key is None else reads.standing(conn, key, clock)
    if found is None:
        raise Problem(404, f"There is no account {platform}/{handle[:80]} in the list.")
    return found
