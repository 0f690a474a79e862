"""Work that one process does while others stand by: whoever holds its lease, by the database's clock."""

from datetime import timedelta

from sqlalchemy import Connection, Interval, Text, bindparam, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from db.models import lease

RECORDER = "recorder"
NOTIFIER = "notifier"

_INSERT = insert(lease).values(
    name=bindparam("of_name", type_=Text),
    holder=bindparam("of_holder", type_=Text),
    until=func.now() + bindparam("kept", type_=Interval),
)
_TAKE = _INSERT.on_conflict_do_update(
    index_elements=[lease.c.name],
    set_={"holder": _INSERT.excluded.holder, "until": _INSERT.excluded.until},
    where=or_(lease.c.holder == _INSERT.excluded.holder, lease.c.until < func.now()),
)
_LEAVE = delete(lease).where(lease.c.name == bindparam("of_name"), lease.c.holder == bindparam("of_holder"))


def take(conn: Connection, name: str, holder: str, *, kept_s: float) -> bool:
    """Take a lease that is free or over, or keep one's own for so long again; False while another holds it."""
    values = {"of_name": name, "of_holder": holder, "kept": timedelta(seconds=kept_s)}
    return conn.execute(_TAKE, values).rowcount == 1


def leave(conn: Connection, name: str, holder: str) -> None:
    """Give one's own lease up at once."""
    conn.execute(_LEAVE, {"of_name": name, "of_holder": holder})


_IS_HELD = select(func.count()).where(lease.c.name == bindparam("of_name", type_=Text), lease.c.until > func.now())


def is_held(conn: Connection, name: str) -> bool:
    """Tell whether somebody does the work of a lease."""
    return conn.execute(_IS_HELD, {"of_name": name}).scalar_one() > 0
