"""The account list: finding accounts by any of their names, and bringing a list in, a whole file at a time."""

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, case, literal, select, text

from db.models import dim_account


class Sought(Struct, frozen=True):
    """What a person or an address says of an account. `external_id` only where an address carries it."""

    platform: str
    handle: str
    host: str = ""
    external_id: str | None = None


# An id is for good, a name may have moved on to another account: so the id first, then today's name, then past
# ones, the one that was left last. Each step is one look into an index, and most accounts need only the first.
_FIND = text("""
    SELECT COALESCE(
        (SELECT a.account_key FROM dim_account a
          WHERE a.platform = s.platform AND a.host = s.host AND a.external_id = s.external_id),
        (SELECT a.account_key FROM dim_account a
          WHERE a.platform = s.platform AND a.host = s.host AND lower(a.handle) = lower(s.handle)),
        (SELECT a.account_key FROM account_handle h JOIN dim_account a USING (account_key)
          WHERE lower(h.handle) = lower(s.handle) AND a.platform = s.platform AND a.host = s.host
          ORDER BY h.last_seen_at DESC LIMIT 1))
    FROM unnest(CAST(:platforms AS text[]), CAST(:handles AS text[]), CAST(:hosts AS text[]), CAST(:ids AS text[]))
         WITH ORDINALITY AS s(platform, handle, host, external_id, position)
    ORDER BY position
""")


def find_each(conn: Connection, sought: Sequence[Sought]) -> list[int | None]:
    """Return the account_key of each, None for those unknown; handles are compared ignoring case."""
    found = conn.execute(
        _FIND,
        {
            "platforms": [s.platform for s in sought],
            "handles": [s.handle for s in sought],
            "hosts": [s.host for s in sought],
            "ids": [s.external_id for s in sought],
        },
    )
    return list(found.scalars())


def find(conn: Connection, platform: str, handle: str, host: str = "") -> int | None:
    """Return the account that has this handle today, else the one that had it last, else None. Case is ignored."""
    return find_each(conn, [Sought(platform, handle, host)])[0]


_NAME = (
    dim_account.c.platform
    + literal("/")
    + dim_account.c.handle
    + case((dim_account.c.host != "", literal("@") + dim_account.c.host), else_="")
)


def names(conn: Connection, platform: str | None = None) -> list[str]:
    """Return the names of all accounts (`x/name`, `mastodon/name@host`), to offer the nearest of them."""
    query = select(_NAME)
    if platform is not None:
        query = query.where(dim_account.c.platform == platform)
    return list(conn.execute(query).scalars())
