"""One line of the doctor's examination."""

from typing import Literal

from msgspec import Struct

from db.engine import DatabaseError

Level = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """What was looked at and how it stands; `mend` says what to do about anything that isn't ok."""

    level: Level
    what: str
    said: str
    mend: str | None = None


def said_by_server(exc: DatabaseError) -> str:
    """Return the last part of a connection error: what comes before may quote the address, password and all."""
    return brief(exc.orig or exc)


def brief(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return lines[0].rpartition(": ")[2].strip()
