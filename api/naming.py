"""How an address names an account: a platform and a handle, `name@server` where the platform is many servers."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta

from api.problems import Absent, Fault, Problem, refuse
from db import accounts, reads, tags
from db.accounts import Sought
from db.engine import Connection
from db.reads import AccountStanding, Clock
from pipeline import addresses

# A name in an address means the same in all of them.
PATH_PARAMETERS: Mapping[str, Any] = {
    "platform": Annotated[str, Meta(description="The platform, in any case.", examples=["x"])],
    "handle": Annotated[
        str,
        Meta(
            min_length=1,
            max_length=300,
            description="A present or past handle of the account, in any case; `name@server` where the platform is many"
            " servers.",
            examples=["hhsgov"],
        ),
    ],
    "job_id": Annotated[
        str,
        Meta(
            description="The job's id, as `POST /api/refresh` gave it.",
            examples=["0198c9a4-7a53-7c1e-9d0b-3f6a2b8e4c11"],
            extra_json_schema={"format": "uuid"},
        ),
    ],
    "annotation_id": Annotated[
        int,
        Meta(ge=1, le=10**18 - 1, description="The note's id, as `POST /api/annotations` gave it.", examples=[17]),
    ],
}


def sought(platforms: Mapping[str, object], platform: str, handle: str) -> Sought:
    """Return what to look for. Raises Problem for a platform that doesn't exist."""
    if platform.casefold() not in platforms:
        raise refuse(Fault("platform", f"{platform[:80]!r} is not one of {', '.join(platforms)}"))
    name, _, host = handle.removeprefix("@").partition("@")
    return Sought(platform.casefold(), name, host.lower())


def named_in_body(field: str, name: str, platforms: Mapping[str, object]) -> Sought | Fault:
    """Return what a body's `platform/handle` looks for, or what is wrong with it."""
    platform, slash, handle = name.partition("/")
    if not slash:
        return Fault(field, f"{name[:80]!r} is not written as platform/handle")
    try:
        return sought(platforms, platform, handle)
    except Problem as exc:
        return Fault(field, f"{name[:80]!r}: {exc.faults[0].reason}")


def unknown(field: str, name: str, listed: Sequence[str]) -> Fault:
    """Say that an account, or an organisation, is not among those listed, and which ones are called nearly so."""
    near = addresses.nearest(name, listed)
    offer = f"; did you mean {' or '.join(near)}?" if near else ""
    return Fault(field, f"{name[:80]!r} is not in the list{offer}")


def find_account(
    conn: Connection, platforms: Mapping[str, object], platform: str, handle: str, clock: Clock
) -> AccountStanding:
    """Return the account of a present or past handle, in any case. Raises Absent for an unknown one."""
    found = reads.standing(conn, find_key(conn, platforms, platform, handle), clock)
    if found is None:  # removed since
        raise _not_listed(platform, handle)
    return found


def tags_of(account: AccountStanding, handle: str) -> frozenset[str]:
    """Return the tags of what shows an account that was asked for by this handle.

    By a past one it stands only until another account takes that: then nothing changes with the account itself.
    """
    name, _, _ = handle.removeprefix("@").partition("@")
    own = frozenset({tags.account(account.account_key)})
    return own if name.lower() == account.handle.lower() else own | {tags.NAMES}


def find_key(conn: Connection, platforms: Mapping[str, object], platform: str, handle: str) -> int:
    """Return the account_key of a present or past handle, in any case. Raises Absent for an unknown one."""
    account = sought(platforms, platform, handle)
    key = accounts.find(conn, account.platform, account.handle, account.host)
    if key is None:
        raise _not_listed(platform, handle)
    return key


def _not_listed(platform: str, handle: str) -> Absent:
    return Absent(f"There is no account {platform}/{handle[:80]} in the list.")
