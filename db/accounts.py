"""The account list: finding accounts by any of their names, and bringing in a list, many accounts a statement."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import TypeVar

from msgspec import Struct, structs
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Connection,
    Date,
    Integer,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from db import derived, gaps
from db.models import NEVER_DUE, UTC, account_gap, account_handle, dim_account, scrape_state
from db.recordset import as_json, recordset
from db.rows import Kind

# Accounts a statement: larger ones gain nothing more, and hold more memory on both sides.
_BATCH = 5_000
_T = TypeVar("_T")


class Sought(Struct, frozen=True):
    """What a person or an address says of an account. `external_id` only where an address carries it."""

    platform: str
    handle: str
    host: str = ""
    external_id: str | None = None

    @property
    def name(self) -> str:
        """Return the account's name as people write it: `x/name`, `mastodon/name@host`."""
        return f"{self.platform}/{self.handle}" + (f"@{self.host}" if self.host else "")


class Facts(Struct, frozen=True, kw_only=True):
    """What an account list says of an account, beside its name. `read_interval_s` None: as its platform's."""

    org_name: str | None = None
    owner_team: str | None = None
    account_type: str | None = None
    is_core_account: bool = False
    is_active: bool = True
    read_interval_s: int | None = None


class New(Struct, frozen=True):
    """An account to add. `kind` is the call that will read it first, `reason` says why none will for now."""

    sought: Sought
    url: str
    facts: Facts
    kind: Kind
    reason: str | None = None


class Known(Struct, frozen=True):
    """An account that stands in the list, by its name of today (`x/name`, `mastodon/name@host`)."""

    account_key: int
    name: str
    facts: Facts


# An id is for good, a name may have moved on to another account: so the id first, then today's name, then past
# ones, the one that was left last. Each step is one look into an index, and most accounts need only the first two.
_sought = recordset("sought", position=Integer, platform=Text, handle=Text, host=Text, external_id=Text)
_on_its_platform = and_(dim_account.c.platform == _sought.c.platform, dim_account.c.host == _sought.c.host)
_by_id = select(dim_account.c.account_key).where(_on_its_platform, dim_account.c.external_id == _sought.c.external_id)
_by_name = select(dim_account.c.account_key).where(
    _on_its_platform, func.lower(dim_account.c.handle) == func.lower(_sought.c.handle)
)
_by_past_name = (
    select(dim_account.c.account_key)
    .join(account_handle, account_handle.c.account_key == dim_account.c.account_key)
    .where(_on_its_platform, func.lower(account_handle.c.handle) == func.lower(_sought.c.handle))
    .order_by(account_handle.c.last_seen_at.desc())
    .limit(literal_column("1"))
)
_FIND = (
    select(func.coalesce(*(q.correlate(_sought).scalar_subquery() for q in (_by_id, _by_name, _by_past_name))))
    .select_from(_sought)
    .order_by(_sought.c.position)
)


_NOBODY = Sought("", "", "")


def find_each(conn: Connection, sought: Sequence[Sought]) -> list[int | None]:
    """Return the account_key of each, None for those unknown. Handles are compared ignoring case."""
    found: list[int | None] = []
    for batch in _batches(sought):
        # PostgreSQL takes no NUL, and no handle holds anything unprintable.
        sayable = (s if f"{s.handle}{s.host}".isprintable() else _NOBODY for s in batch)
        rows = ({"position": i, **structs.asdict(s)} for i, s in enumerate(sayable))
        found += conn.execute(_FIND, {"sought": as_json(rows)}).scalars()
    return found


def find(conn: Connection, platform: str, handle: str, host: str = "") -> int | None:
    """Return the account that has this handle today, else the one that left it last, else None. Case is ignored."""
    return find_each(conn, [Sought(platform, handle, host)])[0]


NAME = (
    dim_account.c.platform
    + literal("/")
    + dim_account.c.handle
    + case((dim_account.c.host != "", literal("@") + dim_account.c.host), else_="")
).label("name")


def names(conn: Connection) -> list[str]:
    """Return the names of all accounts (`x/name`, `mastodon/name@host`), to offer the nearest of them."""
    return list(conn.execute(select(NAME)).scalars())


_KNOWN = select(
    dim_account.c.account_key,
    NAME,
    dim_account.c.org_name,
    dim_account.c.owner_team,
    dim_account.c.account_type,
    dim_account.c.is_core_account,
    dim_account.c.is_active,
    dim_account.c.read_interval_s,
).where(dim_account.c.account_key == any_(bindparam("account_keys", type_=ARRAY(BigInteger))))


def known(conn: Connection, account_keys: Sequence[int]) -> dict[int, Known]:
    """Return accounts by their keys."""
    return {
        row.account_key: Known(
            row.account_key,
            row.name,
            Facts(
                org_name=row.org_name,
                owner_team=row.owner_team,
                account_type=row.account_type,
                is_core_account=row.is_core_account,
                is_active=row.is_active,
                read_interval_s=row.read_interval_s,
            ),
        )
        for batch in _batches(account_keys)
        for row in conn.execute(_KNOWN, {"account_keys": batch})
    }


def lock_list(conn: Connection) -> None:
    """Wait until no other import is at work; held until the transaction ends."""
    conn.execute(select(func.pg_advisory_xact_lock(func.hashtext("rollcall.accounts"))))


_wanted = recordset(
    "wanted",
    platform=Text,
    handle=Text,
    host=Text,
    external_id=Text,
    url=Text,
    org_name=Text,
    owner_team=Text,
    account_type=Text,
    is_core_account=Boolean,
    is_active=Boolean,
    read_interval_s=Integer,
    seat=Integer,
    kind=Text,
    reason=Text,
)
_NOW = bindparam("now", type_=UTC)
_listed = [column.name for column in _wanted.c if column.name in dim_account.c]
# An account that came in between (a rename that a worker just saw) is left alone: the caller does not hear of it.
_added = (
    postgresql.insert(dim_account)
    .from_select([*_listed, "added_at"], select(*(_wanted.c[name] for name in _listed), _NOW))
    .on_conflict_do_nothing()
    .returning(dim_account.c.account_key, dim_account.c.platform, dim_account.c.handle, dim_account.c.host)
    .cte("added")
)
_first_handles = (
    insert(account_handle)
    .from_select(
        ["account_key", "handle", "first_seen_at", "last_seen_at"],
        select(_added.c.account_key, _added.c.handle, _NOW, _NOW),
    )
    .cte("first_handles")
)
_is_wanted = and_(*(_added.c[name] == _wanted.c[name] for name in ("platform", "handle", "host")))
_first_readings = (
    insert(scrape_state)
    .from_select(
        ["account_key", "subject", "platform", "host", "kind", "is_core", "next_due_at", "reason", "explained"],
        select(
            _added.c.account_key,
            literal("profile"),
            _wanted.c.platform,
            _wanted.c.host,
            _wanted.c.kind,
            _wanted.c.is_core_account,
            case((_wanted.c.is_active, _NOW), else_=NEVER_DUE),
            _wanted.c.reason,
            _wanted.c.reason.is_not(None),
        ).join(_wanted, _is_wanted),
    )
    .cte("first_readings")
)
# One that won't be read for now says so from its first day on.
_first_gaps = (
    insert(account_gap)
    .from_select(
        ["account_key", "from_date", "result", "reason"],
        select(
            _added.c.account_key,
            cast(func.timezone("UTC", _NOW), Date),
            case((_wanted.c.is_active, "blocked"), else_="paused"),
            case((_wanted.c.is_active, _wanted.c.reason)),
        )
        .join(_wanted, _is_wanted)
        .where(or_(_wanted.c.reason.is_not(None), _wanted.c.is_active.is_(False))),
    )
    .cte("first_gaps")
)
_ADD = select(_added.c.platform, _added.c.handle, _added.c.host).add_cte(_first_handles, _first_readings, _first_gaps)


_LAST_SEATS = (
    select(dim_account.c.platform, dim_account.c.host, func.max(dim_account.c.seat).label("last"))
    .where(dim_account.c.platform == any_(bindparam("platforms", type_=ARRAY(Text))))
    .group_by(dim_account.c.platform, dim_account.c.host)
)


def add(conn: Connection, accounts: Sequence[New], *, now: datetime) -> set[str]:
    """Add accounts with their handle and the state of their first reading, which is due at `now`.

    Returns the names of those that were added: not of one whose name or id was taken in the meantime.
    """
    added: set[str] = set()
    seats = _free_seats(conn, {new.sought.platform for new in accounts})
    for batch in _batches(accounts):
        rows = (
            {
                **structs.asdict(new.sought),
                **structs.asdict(new.facts),
                "url": new.url,
                "seat": next(seats[new.sought.platform, new.sought.host]),
                "kind": new.kind,
                "reason": new.reason,
            }
            for new in batch
        )
        added |= {Sought(*row).name for row in conn.execute(_ADD, {"wanted": as_json(rows), "now": now})}
    return added


def _free_seats(conn: Connection, platforms: Collection[str]) -> defaultdict[tuple[str, str], Iterator[int]]:
    """Return the seats behind the last one, by platform and host."""
    taken = conn.execute(_LAST_SEATS, {"platforms": list(platforms)})
    return defaultdict(count, {(row.platform, row.host): count(row.last + 1) for row in taken})


_facts = recordset(
    "facts",
    account_key=BigInteger,
    org_name=Text,
    owner_team=Text,
    account_type=Text,
    is_core_account=Boolean,
    is_active=Boolean,
    read_interval_s=Integer,
)
_CHANGE = (
    update(dim_account)
    .where(dim_account.c.account_key == _facts.c.account_key)
    .values({name: _facts.c[name] for name in Facts.__struct_fields__})
)
# A shorter interval counts from the last reading: waiting out the longer one would be a surprise.
_last_read_and_interval = scrape_state.c.last_success_at + func.make_interval(
    0, 0, 0, 0, 0, 0, _facts.c.read_interval_s
)
_CHANGE_READINGS = (
    update(scrape_state)
    .where(scrape_state.c.account_key == _facts.c.account_key)
    .values(
        is_core=_facts.c.is_core_account,
        next_due_at=case(
            (_facts.c.is_active.is_(False), NEVER_DUE),
            (scrape_state.c.next_due_at == NEVER_DUE, _NOW),
            (
                and_(scrape_state.c.subject == "profile", scrape_state.c.result == "ok"),
                func.least(scrape_state.c.next_due_at, _last_read_and_interval),
            ),
            else_=scrape_state.c.next_due_at,
        ),
    )
)


def change(conn: Connection, facts: Mapping[int, Facts], *, now: datetime) -> None:
    """Set the facts of accounts by key. One that becomes inactive pauses; one that becomes active is due at `now`.

    The snapshots of one that changes its organisation count for the new one.
    """
    if not facts:
        return
    derived.alone(conn)
    known_as = known(conn, list(facts))
    moved = {key: was.facts.org_name for key, was in known_as.items() if was.facts.org_name != facts[key].org_name}
    for batch in _batches(list(facts)):
        rows = as_json({"account_key": key, **structs.asdict(facts[key])} for key in batch)
        conn.execute(_CHANGE, {"facts": rows})
        conn.execute(_CHANGE_READINGS, {"facts": rows, "now": now})
    turned = [key for key, was in known_as.items() if was.facts.is_active != facts[key].is_active]
    if turned:
        gaps.record_standing(conn, turned, now.date())
    if moved:
        derived.move(conn, moved)


def _batches(whole: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (whole[start : start + _BATCH] for start in range(0, len(whole), _BATCH))
