"""How far a replica has followed its primary, by their positions in the log (WAL), which both count in bytes.

Times don't tell: on a primary at rest the last replayed transaction is as old as the rest.
"""

from sqlalchemy import Connection, text

from db.engine import DatabaseError

# A commit is seen once its record is on the disk; with `synchronous_commit = off` before. (Records that no commit waits
# for, and so no replica hears of, may stand behind the last one for some seconds.)
_PRIMARY_AT = text("""
    SELECT (CASE current_setting('synchronous_commit')
                WHEN 'off' THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint
""")
# A server that follows nobody (any more) shows nothing of the primary's, whatever it replayed once.
_REPLICA_AT = text("SELECT CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END")
_PAGE_BYTES = 8192
_LONGEST_HEADER_BYTES = 40


def position(primary: Connection) -> int:
    """Return a position that a replica has reached when it shows every commit made so far."""
    return record_end(primary.execute(_PRIMARY_AT).scalar_one())


def record_end(at: int) -> int:
    """Return where the last record before a position ends.

    Where it ends with a page of the log, the next stands behind the header of the next page; a replica that has
    replayed everything stands before that header.
    """
    into_page = at % _PAGE_BYTES
    return at - into_page if into_page <= _LONGEST_HEADER_BYTES else at


def reached(replica: Connection) -> int | None:
    """Return the position up to which a server has followed its primary; None if it is no replica."""
    at: int | None = replica.execute(_REPLICA_AT).scalar_one()
    return at


def is_conflict(error: DatabaseError) -> bool:
    """Tell whether a replica ended a read because it was in the way of what the primary did meanwhile."""
    return getattr(error.orig, "pgcode", None) == "40001"
