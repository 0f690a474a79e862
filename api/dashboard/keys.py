"""POST /exports/keys and /exports/keys/{key_id}/revoke: an admin makes keys, each shown once, and revokes them."""

import asyncio
from collections.abc import Iterator

import structlog
from falcon.asgi import Request, Response

from api import bodies
from api.cached import HTML
from api.dashboard.embed import ChartQuery
from api.dashboard.exports import SCOPES, ExportsPage, KeyForm
from api.operations import Operation, Operations
from api.problems import Fault, refuse
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse
from db import keys, tags
from db.engine import transaction
from db.keys import BadName, Scope
from db.profiler import scoped

log = structlog.get_logger()


class NewKey:
    """Makes a key and shows it, this once, on the page that the form stands on."""

    stands_on = "/exports"
    operations = Operations(
        post=Operation(summary="Make a key.", query=NoQuery, media_types=(HTML,), scope="admin"),
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._page = ExportsPage(room)

    async def on_post(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        given = await bodies.read_form(req, within_s=self._room.settings.api_body_timeout_s)
        form = KeyForm(name=given.get("name", ""), scope=given.get("scope", ""))
        if form.scope not in SCOPES:
            raise refuse(Fault("scope", f"is not one of {', '.join(filter(None, SCOPES))} and nothing"))
        make = scoped("/exports/keys", self._made)
        form = await asyncio.get_running_loop().run_in_executor(self._room.threads, make, form, req.context.key.name)
        resp.status = 400 if form.fault else 200
        await self._page.show(req, resp, ChartQuery(), form)

    def _made(self, form: KeyForm, by: str) -> KeyForm:
        scopes: list[Scope] = [form.scope] if form.scope else []  # type: ignore[list-item]  # it is among SCOPES
        try:
            with transaction(self._room.engine) as conn:
                token = keys.create(conn, name=form.name, scopes=scopes)
        except BadName as exc:
            return KeyForm(name=form.name, scope=form.scope, fault=f"No key was made: {exc}.")
        log.info("key_made", name=form.name, scope=form.scope, by=by)
        return KeyForm(name=form.name, scope=form.scope, token=token)


class Revocation:
    """Makes a key worthless. One that is so already, or never was, is gone from the page either way."""

    stands_on = "/exports"
    operations = Operations(
        post=Operation(summary="Revoke a key.", query=NoQuery, status=303, media_types=(HTML,), scope="admin"),
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_post(self, req: Request, resp: Response, key_id: str) -> None:
        parse(req.context.params, NoQuery)
        revoke = scoped("/exports/keys/{key_id}/revoke", self._revoke)
        await asyncio.get_running_loop().run_in_executor(self._room.threads, revoke, key_id, req.context.key.name)
        resp.status = 303
        resp.set_header("Location", "/exports#keys")
        resp.set_header("Cache-Control", "no-store")

    def _revoke(self, key_id: str, by: str) -> None:
        if not keys.is_id(key_id):
            return
        with transaction(self._room.engine) as conn:
            is_revoked = keys.revoke(conn, key_id)
        if is_revoked:
            self._room.purge({tags.key(key_id)})
            log.info("key_revoked", key_id=key_id, by=by)


def routes(room: Room) -> Iterator[Route]:
    yield "/exports/keys", NewKey(room)
    yield "/exports/keys/{key_id}/revoke", Revocation(room)
