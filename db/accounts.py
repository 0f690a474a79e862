"""The account list: finding accounts by any of their names, and bringing in a list, many accounts a statement."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from msgspec import Struct
from sqlalchemy import ARRAY, BigInteger, Connection, any_, bindparam, case, func, literal, select, text

from db.models import dim_account
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
    """What an account list says of an account, beside its name."""

    org_name: str | None = None
    owner_team: str | None = None
    account_type: str | None = None
    is_core_account: bool = False
    is_active: bool = True


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
_FIND = text("""
    SELECT COALESCE(
        (SELECT a.account_key FROM dim_account a
          WHERE a.platform = s.platform AND a.host = s.host AND a.external_id = s.external_id),
        (SELECT a.account_key FROM dim_account a
          WHERE a.platform = s.platform AND a.host = s.host AND lower(a.handle) = lower(s.handle)),
        (SELECT a.account_key FROM account_handle h JOIN dim_account a USING (account_key)
          WHERE lower(h.handle) = lower(s.handle) AND a.platform = s.platform AND a.host = s.host
          ORDER BY h.last_seen_at DESC LIMIT 1))
    FROM unnest(CAST(:platform AS text[]), CAST(:handle AS text[]), CAST(:host AS text[]), CAST(:external_id AS text[]))
         WITH ORDINALITY AS s(platform, handle, host, external_id, position)
    ORDER BY position
""")


def find_each(conn: Connection, sought: Sequence[Sought]) -> list[int | None]:
    """Return the account_key of each, None for those unknown. Handles are compared ignoring case."""
    found: list[int | None] = []
    for batch in _batches(sought):
        found += conn.execute(_FIND, _named(batch)).scalars()
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


def names(conn: Connection, platform: str | None = None) -> list[str]:
    """Return the names of all accounts (`x/name`, `mastodon/name@host`), to offer the nearest of them."""
    query = select(NAME)
    if platform is not None:
        query = query.where(dim_account.c.platform == platform)
    return list(conn.execute(query).scalars())


_KNOWN = select(
    dim_account.c.account_key,
    NAME,
    dim_account.c.org_name,
    dim_account.c.owner_team,
    dim_account.c.account_type,
    dim_account.c.is_core_account,
    dim_account.c.is_active,
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
            ),
        )
        for batch in _batches(account_keys)
        for row in conn.execute(_KNOWN, {"account_keys": batch})
    }


def lock_list(conn: Connection) -> None:
    """Wait until no other import is at work; held until the transaction ends."""
    conn.execute(select(func.pg_advisory_xact_lock(func.hashtext("rollcall.accounts"))))


# An account that came in between (a rename that a worker just saw) is left alone: the caller does not hear of it.
_ADD = text("""
    WITH wanted AS (
        SELECT * FROM unnest(
            CAST(:platform AS text[]), CAST(:handle AS text[]), CAST(:host AS text[]), CAST(:external_id AS text[]),
            CAST(:url AS text[]), CAST(:kind AS text[]), CAST(:reason AS text[]), CAST(:org_name AS text[]),
            CAST(:owner_team AS text[]), CAST(:account_type AS text[]), CAST(:is_core_account AS boolean[]),
            CAST(:is_active AS boolean[])
        ) AS w(platform, handle, host, external_id, url, kind, reason, org_name, owner_team, account_type,
               is_core_account, is_active)
    ), added AS (
        INSERT INTO dim_account (platform, handle, host, external_id, url, org_name, owner_team, account_type,
                                 is_core_account, is_active, added_at)
        SELECT platform, handle, host, external_id, url, org_name, owner_team, account_type,
               is_core_account, is_active, :now
        FROM wanted
        ON CONFLICT DO NOTHING
        RETURNING account_key, platform, handle, host
    ), named AS (
        INSERT INTO account_handle (account_key, handle, first_seen_at, last_seen_at)
        SELECT account_key, handle, :now, :now FROM added
    ), planned AS (
        INSERT INTO scrape_state (account_key, subject, platform, host, kind, is_core, next_due_at, reason)
        SELECT account_key, 'profile', platform, host, kind, is_core_account,
               CASE WHEN is_active THEN :now ELSE 'infinity' END, reason
        FROM added JOIN wanted USING (platform, handle, host)
    )
    SELECT platform, handle, host FROM added
""")


def add(conn: Connection, accounts: Sequence[New], *, now: datetime) -> set[str]:
    """Add accounts with their handle and the state of their first reading, which is due at `now`.

    Returns the names of those that were added: not of one whose name or id was taken in the meantime.
    """
    added: set[str] = set()
    for batch in _batches(accounts):
        columns = {
            **_named([new.sought for new in batch]),
            **_facts([new.facts for new in batch]),
            "url": [new.url for new in batch],
            "kind": [new.kind for new in batch],
            "reason": [new.reason for new in batch],
        }
        added |= {Sought(*row).name for row in conn.execute(_ADD, {**columns, "now": now})}
    return added


_CHANGE = text("""
    WITH wanted AS (
        SELECT * FROM unnest(
            CAST(:account_key AS bigint[]), CAST(:org_name AS text[]), CAST(:owner_team AS text[]),
            CAST(:account_type AS text[]), CAST(:is_core_account AS boolean[]), CAST(:is_active AS boolean[])
        ) AS w(account_key, org_name, owner_team, account_type, is_core_account, is_active)
    ), changed AS (
        UPDATE dim_account a
        SET org_name = w.org_name, owner_team = w.owner_team, account_type = w.account_type,
            is_core_account = w.is_core_account, is_active = w.is_active
        FROM wanted w WHERE a.account_key = w.account_key
    )
    UPDATE scrape_state s
    SET is_core = w.is_core_account,
        next_due_at = CASE WHEN NOT w.is_active THEN 'infinity'
                           WHEN s.next_due_at = 'infinity' THEN :now ELSE s.next_due_at END
    FROM wanted w WHERE s.account_key = w.account_key
""")


def change(conn: Connection, facts: Mapping[int, Facts], *, now: datetime) -> None:
    """Set the facts of accounts by key. One that becomes inactive pauses; one that becomes active is due at `now`."""
    for batch in _batches(list(facts)):
        columns = {"account_key": batch, **_facts([facts[key] for key in batch])}
        conn.execute(_CHANGE, {**columns, "now": now})


def _named(sought: Sequence[Sought]) -> dict[str, list[str | None]]:
    return {column: [getattr(s, column) for s in sought] for column in Sought.__struct_fields__}


def _facts(facts: Sequence[Facts]) -> dict[str, list[str | bool | None]]:
    return {column: [getattr(f, column) for f in facts] for column in Facts.__struct_fields__}


def _batches(whole: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (whole[start : start + _BATCH] for start in range(0, len(whole), _BATCH))
