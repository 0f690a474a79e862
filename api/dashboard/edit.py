"""/edit/{platform}/{handle}: what a person sets of an account, and the notes about it, as forms that need no script."""

import asyncio
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api import bodies
from api.cache.entries import Content
from api.cached import HTML
from api.dashboard.look import look
from api.fresh import give_fresh
from api.naming import find_account
from api.operations import Operation, Operations
from api.problems import Fault, Problem, refuse
from api.resources.accounts import OneAccount
from api.resources.annotations import Annotations, OneAnnotation
from api.room import Room
from api.routes import Route
from api.schemas import AccountBody, AnnotationBody, NoQuery, parse
from db import annotations
from db.engine import Connection, reading
from db.profiler import scoped

_LINES = ("org_name", "owner_team")
_CHOICES = ("is_core_account", "is_active")
# Said where the reason would be one for programs.
_MEANT: Mapping[str, str] = {
    "org_name": "A name is one line of at most 200 characters.",
    "owner_team": "A name is one line of at most 200 characters.",
    "note": "A note is a text of 1 to 2,000 characters.",
    "from": "A day is written as 2026-03-01.",
    "to": "A day is written as 2026-03-01.",
}


class Typed(Struct, frozen=True):
    """What was typed into one of the forms, `do`, and what is wrong with it, by field."""

    do: str = ""
    values: Mapping[str, str] = {}
    faults: Mapping[str, str] = {}


class EditPage:
    """One account's forms. What one of them gets wrong comes back with its reason, and with everything that was typed."""

    stands_on = "/edit/{platform}/{handle}"
    operations = Operations(
        get=Operation(summary="Edit an account.", query=NoQuery, media_types=(HTML,), scope="admin"),
        post=Operation(
            summary="Edit an account, or its notes.", query=NoQuery, status=303, media_types=(HTML,), scope="admin"
        ),
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._look = look(room)
        self._account = OneAccount(room)
        self._notes = Annotations(room)
        self._note = OneAnnotation(room)

    async def on_get(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        parse(req.context.params, NoQuery)
        await self._give(req, resp, platform, handle, Typed())

    on_head = on_get

    async def on_post(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        parse(req.context.params, NoQuery)
        form = await bodies.read_form(req, within_s=self._room.settings.api_body_timeout_s)
        do = scoped("/edit", self._do)
        loop = asyncio.get_running_loop()
        try:
            page = await loop.run_in_executor(self._room.threads, do, platform, handle, form, req.context.key.name)
        except Problem as problem:
            if problem.status_code != 400 or not problem.faults:
                raise
            resp.status = 400
            wrong = {fault.field: _readable(fault) for fault in problem.faults}
            await self._give(req, resp, platform, handle, Typed(form.get("do", ""), form, wrong))
            return
        resp.status = 303
        resp.set_header("Location", f"/{page}/{quote(f'{platform}/{handle}', safe='/@:')}")
        resp.set_header("Cache-Control", "no-store")

    def _do(self, platform: str, handle: str, form: Mapping[str, str], by: str) -> str:
        """Do what a form says, and return which page of the account to show after it. Raises Problem."""
        do = form.get("do")
        if do == "edit":
            self._account.change(
                platform, handle, bodies.decoded(msgspec.json.encode(_edited(form)), AccountBody), by
            )
            return "accounts"
        if do == "note":
            self._notes.add(bodies.decoded(msgspec.json.encode(_noted(form, platform, handle)), AnnotationBody), by)
        elif do == "take back":
            self._note.remove(self._own(platform, handle, form.get("id", "")), by)
        else:
            raise refuse(Fault("do", "is none of edit, note and take back"))
        return "edit"

    def _own(self, platform: str, handle: str, note: str) -> int:
        """Return the id of a note if it is about this account. Raises Problem where it isn't."""
        with reading(self._room.engine) as conn:
            account = find_account(conn, self._room.platforms, platform, handle, self._look.clock())
            own = {str(one.annotation_id) for one in annotations.of_account(conn, account.account_key)}
        if note not in own:
            raise Problem(404, "There is no such note about this account: somebody else may have taken it back.")
        return int(note)

    async def _give(self, req: Request, resp: Response, platform: str, handle: str, typed: Typed) -> None:
        def read(conn: Connection) -> Content:
            account = find_account(conn, self._room.platforms, platform, handle, self._look.clock())
            return self._look.page(
                conn,
                "edit.html",
                here="/accounts",
                tagged=frozenset(),
                account=account,
                named=f"{account.platform}/{handle.removeprefix('@')}",
                notes=annotations.of_account(conn, account.account_key),
                typed=typed,
                today=self._look.clock().now.date(),
            )

        self._look.guard(resp)
        await give_fresh(self._room, req, resp, read=read, media_type=HTML)


def _edited(form: Mapping[str, str]) -> dict[str, str | bool | None]:
    """Return what somebody changed in the form: what they left alone, another may have changed meanwhile."""
    changed = [name for name in (*_LINES, *_CHOICES) if form.get(name, "") != form.get(f"was_{name}", "")]
    lines: dict[str, str | bool | None] = {name: form.get(name) or None for name in changed if name in _LINES}
    return lines | {name: bool(form.get(name)) for name in changed if name in _CHOICES}


def _noted(form: Mapping[str, str], platform: str, handle: str) -> dict[str, str | None]:
    text = form.get("note", "").replace("\r\n", "\n")
    return {
        "from": form.get("from", ""),
        "to": form.get("to") or None,
        "note": text,
        "account": f"{platform}/{handle}",
    }


def _readable(fault: Fault) -> str:
    """Say what is wrong to a person: types and patterns are for programs."""
    is_for_programs = fault.reason.startswith(("Expected", "Invalid", "is not a line"))
    return (
        _MEANT.get(fault.field, fault.reason) if is_for_programs else f"{fault.reason[:1].upper()}{fault.reason[1:]}."
    )


def routes(room: Room) -> Iterator[Route]:
    yield "/edit/{platform}/{handle:path}", EditPage(room)
