"""Platforms that mustn't be called for a while, and why: by credential, since each has an allowance of its own."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct, structs
from sqlalchemy import Connection, Text, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from db.models import platform_pause


class Pause(Struct, frozen=True, order=True):
    """A platform that nobody calls with this credential (its label) until then, and why."""

    platform: str
    credential: str
    until: datetime
    reason: str
    result: Literal["limited", "quota", "blocked"]


_COLUMNS = [platform_pause.c[name] for name in Pause.__struct_fields__]
_INSERT = insert(platform_pause)
_LONGER = _INSERT.on_conflict_do_update(
    index_elements=[platform_pause.c.platform, platform_pause.c.credential],
    set_={name: _INSERT.excluded[name] for name in ("until", "reason", "result")},
    where=platform_pause.c.until < _INSERT.excluded.until,
)
_STANDING = select(*_COLUMNS).where(platform_pause.c.until > bindparam("now"))
_UNBLOCK = delete(platform_pause).where(
    platform_pause.c.platform == bindparam("of_platform", type_=Text),
    platform_pause.c.credential == bindparam("of_credential", type_=Text),
    platform_pause.c.result == "blocked",
)


def add(conn: Connection, pause: Pause) -> None:
    """Pause a credential of a platform; a longer pause that stands already is kept."""
    conn.execute(_LONGER, {name: getattr(pause, name) for name in Pause.__struct_fields__})


def standing(conn: Connection, now: datetime) -> Sequence[Pause]:
    """Return the pauses that haven't ended."""
    return [Pause(*row) for row in conn.execute(_STANDING, {"now": now})]


def of_all(pauses: Sequence[Pause]) -> Pause:
    """Return what pauses of every credential mean together: nobody calls until the first of them ends.

    `blocked` only where all are: one that is limited works again when its limit ends.
    """
    said = min(pauses, key=lambda pause: (pause.result == "blocked", pause.until))
    return structs.replace(said, until=min(pause.until for pause in pauses))


def unblock(conn: Connection, platform: str, credential: str) -> None:
    """End a pause for a refused credential: a call has just gone well with it. A pause for a limit stands."""
    conn.execute(_UNBLOCK, {"of_platform": platform, "of_credential": credential})
