"""What this database holds: live or simulated readings, never both; and how the simulated ones go again."""

from collections.abc import Collection

from sqlalchemy import (
    ARRAY,
    Connection,
    Text,
    any_,
    bindparam,
    case,
    delete,
    exists,
    func,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert

from db import derived, metrics
from db.models import (
    NEVER_DUE,
    account_gap,
    account_handle,
    account_latest,
    alert,
    dataset,
    day_count,
    dim_account,
    fact_followers_snapshot,
    fact_social_post,
    platform_pause,
    scrape_job,
    scrape_state,
)
from db.rows import Source


class MixedSources(Exception):
    """Live and simulated readings were about to meet in one database; `str()` says how to mend it."""

    def __init__(self, held: str, offered: str) -> None:
        mend = "`rollcall demo clear` removes them" if held == "simulated" else "use another database"
        super().__init__(f"This database holds {held} readings, and {offered} ones never mix with them: {mend}.")


_SOURCE = select(dataset.c.source)
_CLAIM = insert(dataset).on_conflict_do_nothing()


def source_of(conn: Connection) -> str | None:
    """Return whether the database holds `live` or `simulated` readings, None while it holds none."""
    return conn.scalar(_SOURCE)


_HAS_SNAPSHOTS = select(exists().where(day_count.c.snapshots > 0))


def has_snapshots(conn: Connection) -> bool:
    """Say whether the database holds numbers of any day, imported ones included."""
    return bool(conn.scalar(_HAS_SNAPSHOTS))


def refuse_mixture(conn: Connection, source: Source) -> bool:
    """Raise MixedSources if the database holds readings of another source; return whether it holds any.

    Having looked, this transaction keeps `clear_simulated` waiting until it ends.
    """
    held = source_of(conn)
    if held not in (None, source):
        raise MixedSources(held, source)
    return held is not None


def claim(conn: Connection, source: Source) -> None:
    """Say that the database holds readings of this source from now on. Raises MixedSources."""
    conn.execute(_CLAIM, {"source": source})
    refuse_mixture(conn, source)  # another may have been first


_REMOVE = {
    "snapshots": delete(fact_followers_snapshot).where(fact_followers_snapshot.c.source == "simulated"),
    "latest": delete(account_latest).where(account_latest.c.source == "simulated"),
    "day counts": delete(day_count),
    "gaps": delete(account_gap).where(account_gap.c.result != "paused"),
    "posts": delete(fact_social_post).where(fact_social_post.c.source == "simulated"),
    "jobs": delete(scrape_job),
    "pauses": delete(platform_pause),
    "alerts": delete(alert),
    "dataset": delete(dataset),
}
_first_name = (
    select(account_handle.c.account_key, account_handle.c.handle)
    .ext(distinct_on(account_handle.c.account_key))
    .order_by(account_handle.c.account_key, account_handle.c.first_seen_at, account_handle.c.last_seen_at)
    .cte("first_name")
)
_RESTORE_NAMES = (
    update(dim_account)
    .where(dim_account.c.account_key == _first_name.c.account_key, dim_account.c.handle != _first_name.c.handle)
    .values(handle=_first_name.c.handle)
)
_FORGET_NAMES = delete(account_handle).where(
    account_handle.c.account_key == dim_account.c.account_key, account_handle.c.handle != dim_account.c.handle
)
# An id that the account's own address ends in came with the account list; every other one was read.
_id_stands_in_address = func.right(dim_account.c.url, func.length(dim_account.c.external_id) + 1).in_(
    [mark + dim_account.c.external_id for mark in ("/", "=", "-")]
)
_FORGET_PROFILES = update(dim_account).values(
    external_id=case((_id_stands_in_address, dim_account.c.external_id)),
    display_name=None,
    bio=None,
    avatar_url=None,
    verified=None,
)
# What is held was simulated.
_FORGET_HELD = update(account_latest).values(held_followers=None, held_at=None, held_precision=None)
_FORGET_POSTS = delete(scrape_state).where(scrape_state.c.subject == "posts")
_is_read_by_name = dim_account.c.external_id.is_(None) & (
    dim_account.c.platform == any_(bindparam("resolving", type_=ARRAY(Text)))
)
_START_ANEW = (
    update(scrape_state)
    .where(scrape_state.c.account_key == dim_account.c.account_key)
    .values(
        kind=case((_is_read_by_name, "resolve"), else_="profiles"),
        # Due since it was added, as it was then.
        next_due_at=case((dim_account.c.is_active, dim_account.c.added_at), else_=NEVER_DUE),
        job_id=null(),
        failures=0,
        result=null(),
        reason=null(),
        explained=False,
        last_attempt_at=null(),
        last_success_at=null(),
    )
)


def clear_simulated(conn: Connection, *, resolving: Collection[str]) -> dict[str, int]:
    """Take everything simulated out, so that live readings can come in; return the rows removed, by what they were.

    The account list stays as it was imported, every account due. `resolving` are the platforms that look an account
    up by its name before they can read it. A database that holds nothing simulated stays as it is.
    """
    derived.alone(conn)
    conn.execute(text("LOCK TABLE dataset IN ACCESS EXCLUSIVE MODE"))  # no save is on its way any more
    if source_of(conn) != "simulated":
        return {}
    removed = {what: conn.execute(statement).rowcount for what, statement in _REMOVE.items()}
    removed["metrics"] = metrics.clear(conn)
    removed["renames"] = conn.execute(_RESTORE_NAMES).rowcount
    for forget in (_FORGET_NAMES, _FORGET_PROFILES, _FORGET_HELD, _FORGET_POSTS):
        conn.execute(forget)
    conn.execute(_START_ANEW, {"resolving": list(resolving)})
    # What was imported is left, and counts.
    derived.rederive(conn, list(conn.scalars(select(dim_account.c.account_key))))
    derived.recount(conn)
    return removed
