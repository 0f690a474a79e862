"""/api/annotations: notes on days, which histories show beside the numbers."""

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import Struct

from api import bodies
from api.lists import Page
from api.naming import named_in_body, unknown
from api.operations import Operation, Operations
from api.problems import Fault, Problem, refuse
from api.room import Room
from api.routes import Route
from api.schemas import (
    AboutOne,
    AnnotationBody,
    AnnotationsQuery,
    NoQuery,
    ObjectQuery,
    Params,
    chosen_fields,
    known_range,
    parse,
)
from db import accounts, annotations, lines, overview, tags
from db.annotations import Annotation, BadNote, Subject
from db.engine import Connection, reading, transaction
from db.profiler import scoped

log = structlog.get_logger()

_ID = re.compile(r"[1-9]\d{0,17}", re.ASCII)
T = TypeVar("T")


class Note(Struct, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """A note on days, both ends included. `about` is an account's name, an organisation's, or null for all."""

    annotation_id: int
    about: str | None
    first: date
    last: date
    note: str
    created_at: datetime


class Annotations:
    """All notes, those on the newest days first; and a new one. Never cached: few ask, and who noted looks at once."""

    operations = Operations(
        get=Operation(summary="The notes on days, newest days first.", query=AnnotationsQuery, answer=Page[Note]),
        post=Operation(
            summary="Note something on a day or on days in a row, about an account, an organisation or all.",
            query=NoQuery,
            body=AboutOne,
            answer=Note,
            status=201,
            headers={"Location": "The note."},
            problems={404: "The account or the organisation isn't in the list."},
            scope="admin",
        ),
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._platforms = room.platforms

    async def on_get(self, req: Request, resp: Response) -> None:
        params = req.context.params
        query = parse(params, AnnotationsQuery)
        names = chosen_fields(query.fields, Note)
        read = scoped("/api/annotations", self._list)
        resp.data = await _in_thread(self._room, lambda: read(query, names, req.path, params))
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get

    async def on_post(self, req: Request, resp: Response) -> None:
        """Keep a note. The same one sent again, as after an answer that was lost, gets the answer of the first."""
        parse(req.context.params, NoQuery)
        body = await bodies.read(req, AnnotationBody, within_s=self._room.settings.api_body_timeout_s)
        add = scoped("/api/annotations", self.add)
        note = await _in_thread(self._room, lambda: add(body, req.context.key.name))
        resp.status = 201
        resp.data = msgspec.json.encode(note)
        resp.set_header("Location", f"/api/annotations/{note.annotation_id}")
        resp.set_header("Cache-Control", "no-store")

    def _list(self, query: AnnotationsQuery, names: tuple[str, ...] | None, path: str, params: Params) -> bytes:
        with reading(self._room.engine) as conn:
            extent = annotations.extent(conn)
            last_page = max(1, -(-extent.total // query.per_page))
            if query.page > last_page:
                raise refuse(Fault("page", f"{query.page} is beyond the last page, {last_page}"))
            found = annotations.listed(conn, limit=query.per_page, offset=query.per_page * (query.page - 1))
        onward = f"{path}?{urlencode({**params, 'page': query.page + 1})}" if query.page < last_page else None
        page = Page(
            items=[_chosen(_note(one), names) for one in found],
            page=query.page,
            per_page=query.per_page,
            total=extent.total,
            next=onward,
            next_cursor=None,
            as_of=extent.as_of,
        )
        return msgspec.json.encode(page)

    def add(self, body: AnnotationBody, by: str) -> Note:
        """Keep a note and tell everyone; it blocks. Raises Problem for what can't be meant, and whom nobody knows."""
        _check(body)
        with transaction(self._room.engine) as conn:
            subject = self._subject(conn, body)
            try:
                annotation_id, is_new = annotations.add_once(
                    conn,
                    subject,
                    body.note,
                    first=body.first,
                    last=body.last or body.first,
                    created_by=f"api:{by}",
                    now=datetime.now(UTC),
                )
            except BadNote as exc:
                raise refuse(Fault("note", str(exc))) from exc
            kept = annotations.one(conn, annotation_id)
        assert kept is not None, "it was written in this transaction"
        if is_new:
            self._room.purge(tags.of_annotation(subject.account_key))
            log.info("annotation_added", annotation_id=annotation_id, by=by)
        return _note(kept)

    def _subject(self, conn: Connection, body: AnnotationBody) -> Subject:
        """Return whom a note is about. Raises Problem: 400 for a name that can't be, 404 for an unknown one."""
        if body.account is not None:
            account = named_in_body("account", body.account, self._platforms)
            if isinstance(account, Fault):
                raise refuse(account)
            (key,) = accounts.find_each(conn, [account])
            if key is None:
                raise _not_found(unknown("account", body.account, accounts.names(conn)))
            return Subject(account_key=key)
        if body.org is not None and body.org not in (known := overview.organisations(conn)):
            raise _not_found(unknown("org", body.org, known))
        return Subject(org_name=body.org)


class OneAnnotation:
    """One note, which may be taken back."""

    operations = Operations(
        get=Operation(summary="One note.", query=ObjectQuery, answer=Note),
        delete=Operation(summary="Take a note back.", query=NoQuery, status=204, scope="admin"),
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_get(self, req: Request, resp: Response, annotation_id: str) -> None:
        names = chosen_fields(parse(req.context.params, ObjectQuery).fields, Note)
        read = scoped("/api/annotations/{annotation_id}", self._read)
        note = await _in_thread(self._room, lambda: read(_id(annotation_id)))
        resp.data = msgspec.json.encode(_chosen(note, names))
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response, annotation_id: str) -> None:
        parse(req.context.params, NoQuery)
        remove = scoped("/api/annotations/{annotation_id}", self.remove)
        await _in_thread(self._room, lambda: remove(_id(annotation_id), req.context.key.name))
        resp.status = 204
        resp.set_header("Cache-Control", "no-store")

    def _read(self, annotation_id: int) -> Note:
        with reading(self._room.engine) as conn:
            found = annotations.one(conn, annotation_id)
        if found is None:
            raise _no_such(annotation_id)
        return _note(found)

    def remove(self, annotation_id: int, by: str) -> None:
        """Take a note back and tell everyone; it blocks. Raises Problem for one that isn't there."""
        with transaction(self._room.engine) as conn:
            subject = annotations.remove(conn, annotation_id)
        if subject is None:
            raise _no_such(annotation_id)
        self._room.purge(tags.of_annotation(subject.account_key))
        log.info("annotation_removed", annotation_id=annotation_id, by=by)


def _check(body: AnnotationBody) -> None:
    """Raise Problem for what can't be meant."""
    about = [name for name in ("account", "org", "all") if getattr(body, name) is not None]
    if len(about) != 1:
        raise refuse(Fault("account", "say whom it is about by exactly one of account, org and all"))
    known_range(body.first, body.last)
    if body.org is not None and not lines.is_line(body.org):
        raise refuse(Fault("org", "is not a line of text"))


def _id(text: str) -> int:
    if not _ID.fullmatch(text):
        raise _no_such(text[:80])
    return int(text)


def _no_such(annotation_id: int | str) -> Problem:
    return Problem(404, f"There is no note {annotation_id}.")


def _not_found(fault: Fault) -> Problem:
    return Problem(404, f"{fault.field}: {fault.reason}", faults=[fault])


def _note(one: Annotation) -> Note:
    return Note(
        annotation_id=one.annotation_id,
        about=one.about,
        first=one.from_date,
        last=one.to_date,
        note=one.note,
        created_at=one.created_at,
    )


def _chosen(note: Note, names: tuple[str, ...] | None) -> Any:
    """Return a note, or only these of its fields, which have other names here than in the answer."""
    said = msgspec.to_builtins(note)
    return said if names is None else {name: said[name] for name in names}


async def _in_thread(room: Room, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(room.threads, work)


def routes(room: Room) -> Iterator[Route]:
    yield "/api/annotations", Annotations(room)
    yield "/api/annotations/{annotation_id}", OneAnnotation(room)
