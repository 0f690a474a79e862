"""Who an account is: its stable id, today's name and its past ones, and what its profile says of it."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from db.models import UTC, account_handle, dim_account, scrape_state
from db.recordset import as_json, recordset
from db.rows import Profile

_READ = recordset(
    "profiles",
    account_key=BigInteger,
    external_id=Text,
    handle=Text,
    display_name=Text,
    bio=Text,
    avatar_url=Text,
    verified=Boolean,
)

_named = select(
    _READ.c.account_key,
    _READ.c.external_id,
    func.min(_READ.c.account_key).over(partition_by=_READ.c.external_id).label("first_key"),
).cte("named")
_holder = dim_account.alias("holder")
_owner = dim_account.alias("owner")
_TAKEN = (
    select(_named.c.account_key, _owner.c.handle)
    .select_from(
        _named.join(dim_account, dim_account.c.account_key == _named.c.account_key)
        .outerjoin(
            _holder,
            and_(
                _holder.c.platform == dim_account.c.platform,
                _holder.c.host == dim_account.c.host,
                _holder.c.external_id == _named.c.external_id,
            ),
        )
        # An id belongs to the account that has it already, else to the first of the batch that came with it.
        .join(_owner, _owner.c.account_key == func.coalesce(_holder.c.account_key, _named.c.first_key))
    )
    .where(_owner.c.account_key != _named.c.account_key)
)


def taken(conn: Connection, profiles: Sequence[Profile]) -> dict[int, str]:
    """Return the accounts whose id is another listed account's: account_key to the handle of that other one.

    Their name has moved on to an account that is read as itself; their numbers would be counted twice.
    """
    return {row.account_key: row.handle for row in conn.execute(_TAKEN, {"profiles": as_json(profiles)})}


def lock(conn: Connection, platform: str) -> None:
    """Wait until no other job of a platform is learning ids or names; held until the transaction ends.

    Two accounts of two jobs may prove to be one: the second must see what the first has learnt.
    """
    conn.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"rollcall.identity.{platform}"))))


_other = dim_account.alias("other")
# Two accounts can't bear one name: not one that another account still has here, nor one that came twice.
_name_is_held = or_(
    exists().where(
        _other.c.platform == dim_account.c.platform,
        _other.c.host == dim_account.c.host,
        func.lower(_other.c.handle) == func.lower(_READ.c.handle),
        _other.c.account_key != dim_account.c.account_key,
    ),
    _READ.c.account_key != func.min(_READ.c.account_key).over(partition_by=func.lower(_READ.c.handle)),
)
# What a reading doesn't say stays as it is known.
_wanted = (
    select(
        dim_account.c.account_key,
        dim_account.c.handle.label("old_handle"),
        case((_name_is_held, dim_account.c.handle), else_=_READ.c.handle).label("handle"),
        _READ.c.external_id,
        *(
            func.coalesce(_READ.c[name], dim_account.c[name]).label(name)
            for name in ("display_name", "bio", "avatar_url", "verified")
        ),
    )
    .join_from(_READ, dim_account, dim_account.c.account_key == _READ.c.account_key)
    .cte("wanted")
)
_KEPT = ("handle", "external_id", "display_name", "bio", "avatar_url", "verified")
_UPDATE = (
    update(dim_account)
    .where(
        dim_account.c.account_key == _wanted.c.account_key,
        tuple_(*(dim_account.c[name] for name in _KEPT)).is_distinct_from(
            tuple_(*(_wanted.c[name] for name in _KEPT))
        ),
    )
    .values({name: _wanted.c[name] for name in _KEPT})
    .returning(dim_account.c.account_key, _wanted.c.old_handle, dim_account.c.handle)
)

_RENAMES = recordset("renames", account_key=BigInteger, old_handle=Text, handle=Text)
_SPELL = (
    update(account_handle)
    .where(
        account_handle.c.account_key == _RENAMES.c.account_key,
        func.lower(account_handle.c.handle) == func.lower(_RENAMES.c.handle),
        account_handle.c.handle != _RENAMES.c.handle,
    )
    .values(handle=_RENAMES.c.handle)
)
_NOW = bindparam("now", type_=UTC)
_moved_on = func.lower(_RENAMES.c.old_handle) != func.lower(_RENAMES.c.handle)
_old_names = (
    select(
        _RENAMES.c.account_key,
        _RENAMES.c.old_handle,
        dim_account.c.added_at,
        func.coalesce(scrape_state.c.last_success_at, dim_account.c.added_at),
    )
    .join_from(_RENAMES, dim_account, dim_account.c.account_key == _RENAMES.c.account_key)
    .outerjoin(
        scrape_state,
        and_(scrape_state.c.account_key == _RENAMES.c.account_key, scrape_state.c.subject == "profile"),
    )
    .where(_moved_on)
)
_new_names = select(_RENAMES.c.account_key, _RENAMES.c.handle, _NOW, _NOW).where(_moved_on)
_NAMES = insert(account_handle).from_select(
    ["account_key", "handle", "first_seen_at", "last_seen_at"], union_all(_old_names, _new_names)
)
_REMEMBER = _NAMES.on_conflict_do_update(
    index_elements=account_handle.primary_key.columns, set_={"last_seen_at": _NAMES.excluded.last_seen_at}
)


def record(conn: Connection, profiles: Sequence[Profile], now: datetime) -> bool:
    """Keep what profiles say of their accounts; write only what changes. Say whether one has another name now.

    A new handle is a rename: the old one stays in the history, last seen at the last good reading. A change of
    case is only another spelling. A handle that another listed account bears isn't taken over.
    """
    changed = conn.execute(_UPDATE, {"profiles": as_json(profiles)})
    renames = [{"account_key": key, "old_handle": old, "handle": new} for key, old, new in changed if old != new]
    if renames:
        rows = as_json(renames)
        conn.execute(_SPELL, {"renames": rows})
        conn.execute(_REMEMBER, {"renames": rows, "now": now})
    return bool(renames)
