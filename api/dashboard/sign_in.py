"""/sign-in, /sign-out and /session: a browser acts with a key that was pasted once, without keeping it."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import Struct

from api import bodies
from api.cached import HTML
from api.dashboard.look import look
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse
from db import keys, sign_ins, tags
from db.engine import transaction
from db.keys import Key
from db.profiler import scoped

log = structlog.get_logger()


class AfterQuery(Struct, frozen=True, kw_only=True):
    """GET /sign-in and POST /sign-out: `next` is the page to go to afterwards, a path of this site."""

    next: str = "/"


class SessionAnswer(Struct, frozen=True, kw_only=True):
    """Who is signed in: the name and the scopes of the key; null and none for nobody."""

    name: str | None
    scopes: list[str]


class SignIn:
    """Says who is signed in, and signs in. Never cached: it is the one page that knows."""

    operations = Operations(
        get=Operation(summary="Who is signed in.", query=AfterQuery, media_types=(HTML,), always_open=True),
        post=Operation(
            summary="Sign this browser in by a key.",
            query=NoQuery,
            status=303,
            media_types=(HTML,),
            always_open=True,
            problems={403: "The key is unknown or was revoked, or the form is another site's."},
        ),
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, AfterQuery)
        await self._show(req, resp, local(query.next))

    on_head = on_get

    async def on_post(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        form = await bodies.read_form(req, within_s=self._room.settings.api_body_timeout_s)
        after, given = local(form.get("next", "/")), form.get("key", "")
        if not keys.is_token(given):
            resp.status = 400
            await self._show(req, resp, after, "A key is written rc_…_…, 84 characters in all. Paste it whole.")
            return
        begin = scoped("/sign-in", self._begin)
        loop = asyncio.get_running_loop()
        token = await loop.run_in_executor(self._room.threads, begin, given, self._room.cookies.token(req))
        if token is None:
            resp.status = 403
            await self._show(req, resp, after, "This key is unknown or was revoked.")
            return
        self._room.cookies.set(req, resp, token)
        _go(resp, after)

    def _begin(self, given: str, before: str | None) -> str | None:
        """Sign in by a key, and out whoever was signed in before; return None for a worthless key."""
        with transaction(self._room.engine) as conn:
            key = keys.find(conn, given)
            if key is None:
                return None
            if before is not None:
                sign_ins.end(conn, before)
            token = sign_ins.begin(conn, key.key_id, now=datetime.now(UTC), lasts_s=self._room.settings.sign_in_s)
        log.info("signed_in", by=key.name, key_id=key.key_id)
        return token

    async def _show(self, req: Request, resp: Response, after: str, fault: str | None = None) -> None:
        holder = await holder_of(self._room, req)
        settings = self._room.settings
        self._look.guard(resp)
        resp.set_header("Cache-Control", "no-store")
        resp.content_type = HTML
        resp.text = self._look.render(
            "sign_in.html",
            here="/sign-in",
            simulated=False,
            holder=holder,
            after=after,
            fault=fault,
            is_closed=settings.api_require_key,
            lasts_hours=settings.sign_in_s / 3600,
        )


class SignOut:
    """Ends this browser's session."""

    operations = Operations(
        post=Operation(
            summary="Sign this browser out.", query=AfterQuery, status=303, media_types=(HTML,), always_open=True
        )
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_post(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, AfterQuery)
        token = self._room.cookies.token(req)
        if token is not None:
            end = scoped("/sign-out", self._end)
            await asyncio.get_running_loop().run_in_executor(self._room.threads, end, token)
        self._room.cookies.clear(req, resp)
        if self._room.settings.api_require_key:
            # What a service worker keeps for offline reading was for who has a key.
            resp.set_header("Clear-Site-Data", '"storage"')
        _go(resp, local(query.next))

    def _end(self, token: str) -> None:
        with transaction(self._room.engine) as conn:
            key_id = sign_ins.end(conn, token)
        if key_id is not None:
            self._room.purge({tags.key(key_id)})  # other processes may remember the browser


class Session:
    """Who is signed in, for scripts: pages are the same for everybody and don't say it."""

    operations = Operations(
        get=Operation(summary="Who is signed in.", query=NoQuery, answer=SessionAnswer, always_open=True)
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_get(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        key = await holder_of(self._room, req)
        answer = (
            SessionAnswer(name=key.name, scopes=sorted(key.scopes)) if key else SessionAnswer(name=None, scopes=[])
        )
        resp.data = msgspec.json.encode(answer)
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get


async def holder_of(room: Room, req: Request) -> Key | None:
    """Return the key of a signed-in browser."""
    token = room.cookies.token(req)
    return None if token is None else await room.access.holder(token)


def local(place: str) -> str:
    """Return where to go next: a path of this site. What leads elsewhere, however it is written, is the first page.

    Browsers read `\\\\` as `/` and drop tabs and line breaks (URL standard), so that `/\\t/example` is another host.
    """
    leads_here = place.startswith("/") and place.isascii() and place.isprintable() and "\\" not in place
    return place if leads_here and not place.startswith("//") else "/"


def _go(resp: Response, place: str) -> None:
    resp.status = 303
    resp.set_header("Location", place)
    resp.set_header("Cache-Control", "no-store")


def routes(room: Room) -> Iterator[Route]:
    yield "/sign-in", SignIn(room)
    yield "/sign-out", SignOut(room)
    yield "/session", Session(room)
