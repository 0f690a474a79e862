"""What people wrote about days: a campaign, an outage, a change of counting. The histories show it beside the numbers."""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import BigInteger, Connection, Text, bindparam, delete, func, insert, select

from db.accounts import NAME
from db.models import annotation, dim_account

LONGEST_NOTE = 2_000


class Subject(Struct, frozen=True, kw_only=True):
    """Whom a note is about: one account, or the accounts of an organisation, or, where both are None, all."""

    account_key: int | None = None
    org_name: str | None = None


class Annotation(Struct, frozen=True, kw_only=True):
    """A note on days, both ends included. `about` is an account's name, an organisation's, or None for all."""

    annotation_id: int
    account_key: int | None
    about: str | None
    from_date: date
    to_date: date
    note: str
    created_by: str
    created_at: datetime


class BadNote(ValueError):
    """A note that can't be kept; `str()` says what is wrong with it."""


_ADD = insert(annotation).returning(annotation.c.annotation_id)
# Two that say the same at the same time make one note.
_ALONE = select(func.pg_advisory_xact_lock(func.hashtext("rollcall.annotations")))
_SAME = select(annotation.c.annotation_id).where(
    annotation.c.account_key.is_not_distinct_from(bindparam("account_key", type_=BigInteger)),
    annotation.c.org_name.is_not_distinct_from(bindparam("org_name", type_=Text)),
    annotation.c.from_date == bindparam("from_date"),
    annotation.c.to_date == bindparam("to_date"),
    annotation.c.note == bindparam("note"),
)
_LISTED = (
    select(
        annotation.c.annotation_id,
        annotation.c.account_key,
        func.coalesce(NAME, annotation.c.org_name),
        annotation.c.from_date,
        annotation.c.to_date,
        annotation.c.note,
        annotation.c.created_by,
        annotation.c.created_at,
    )
    .select_from(annotation.outerjoin(dim_account, dim_account.c.account_key == annotation.c.account_key))
    .order_by(annotation.c.from_date.desc(), annotation.c.annotation_id.desc())
)
_OF_ACCOUNT = _LISTED.where(annotation.c.account_key == bindparam("of_account", type_=BigInteger))
_ONE = _LISTED.where(annotation.c.annotation_id == bindparam("of_id", type_=BigInteger))
_COUNT = select(func.count(), func.max(annotation.c.created_at)).select_from(annotation)
_REMOVE = (
    delete(annotation)
    .where(annotation.c.annotation_id == bindparam("of_id"))
    .returning(annotation.c.account_key, annotation.c.org_name)
)


class Extent(Struct, frozen=True):
    """How many notes there are, and when the newest was made; None where there is none."""

    total: int
    as_of: datetime | None


def add(
    conn: Connection, subject: Subject, note: str, *, first: date, last: date, created_by: str, now: datetime
) -> int:
    """Keep a note and return its id. Raises BadNote for days the wrong way round, and for a text that says nothing."""
    annotation_id, _ = add_once(conn, subject, note, first=first, last=last, created_by=created_by, now=now)
    return annotation_id


def add_once(
    conn: Connection, subject: Subject, note: str, *, first: date, last: date, created_by: str, now: datetime
) -> tuple[int, bool]:
    """Keep a note unless the same is kept already, on the same days about the same; return its id and whether it's new.

    Raises BadNote as `add` does.
    """
    if first > last:
        raise BadNote(f"{first} is later than {last}, the last day of the note")
    if not note.strip() or len(note) > LONGEST_NOTE or "\0" in note:
        raise BadNote(f"a note is a text of 1 to {LONGEST_NOTE:,} characters")
    said = {
        "account_key": subject.account_key,
        "org_name": subject.org_name,
        "from_date": first,
        "to_date": last,
        "note": note.strip(),
    }
    conn.execute(_ALONE)
    known = conn.execute(_SAME, said).scalars().first()
    if known is not None:
        return int(known), False
    return int(conn.execute(_ADD, {**said, "created_by": created_by, "created_at": now}).scalar_one()), True


def listed(conn: Connection, *, limit: int | None = None, offset: int = 0) -> list[Annotation]:
    """Return the notes, those on the newest days first."""
    return [_annotation(row) for row in conn.execute(_LISTED.limit(limit).offset(offset))]


def of_account(conn: Connection, account_key: int) -> list[Annotation]:
    """Return the notes about one account alone, those on the newest days first."""
    return [_annotation(row) for row in conn.execute(_OF_ACCOUNT, {"of_account": account_key})]


def extent(conn: Connection) -> Extent:
    return Extent(*conn.execute(_COUNT).one())


def one(conn: Connection, annotation_id: int) -> Annotation | None:
    """Return a note, or None when there is none with this id."""
    row = conn.execute(_ONE, {"of_id": annotation_id}).one_or_none()
    return None if row is None else _annotation(row)


def _annotation(row: Iterable[Any]) -> Annotation:
    return Annotation(**dict(zip(Annotation.__struct_fields__, row, strict=True)))


def remove(conn: Connection, annotation_id: int) -> Subject | None:
    """Remove a note and return whom it was about, or None when there is none with this id."""
    row = conn.execute(_REMOVE, {"of_id": annotation_id}).one_or_none()
    return None if row is None else Subject(account_key=row.account_key, org_name=row.org_name)
