"""/import: a list of accounts is pasted or uploaded, judged row by row, and brought in as it was judged."""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import structlog
from falcon.asgi import Request, Response
from msgspec import Struct, structs

from api import bodies
from api.cached import HTML
from api.dashboard.look import look
from api.dashboard.sign_in import holder_of
from api.operations import Operation, Operations
from api.problems import Problem
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse
from db.dataset import source_of
from db.engine import DatabaseError, PoolTimeout, reading
from db.keys import Key
from db.profiler import scoped
from pipeline.account_file import NotAList, TooLong
from pipeline.accounts import Otherwise, Report, Verdict, Word, import_list
from pipeline.limits import duration

log = structlog.get_logger()

MOST_ROWS = 10_000
# More is read than is taken, so that a list that is too long comes back to whom it belongs; not for just anybody.
LARGEST_LIST_BYTES = 2 << 20
_LARGEST_BODY_BYTES = 8 << 20
_MOST_SHOWN = 500
_LONGEST_LINE = 160
_SIGN_IN = "Importing needs the key of an admin: sign in with one in another tab, then send the list again."
_NOT_ADMIN = "The key that you are signed in with may not import: it lacks the scope admin."
_AWAY = (
    "The database can't be reached at the moment. Check the list again in a while: it says what stands there already."
)
_KEPT = "The list is kept below."
_UNWRITTEN = "Nothing was written."
_IN_PARTS = "Send a longer list in parts, or use rollcall accounts import."
_GO_BACK = "What you sent is not kept here; your browser still has it one step back."
_ORDER: Sequence[Word] = ("rejected", "duplicate", "updated", "imported", "unchanged")


class View(Struct, frozen=True, kw_only=True):
    """What the page shows: a list as text, and what became of it or why nothing did."""

    text: str = ""
    report: Report | None = None
    is_otherwise: bool = False
    fault: str | None = None
    advice: str = _UNWRITTEN
    status: int = 200

    @property
    def checked(self) -> str:
        """Return what tells whether the text is still the one that the page showed."""
        return _digest(self.text) if self.text else ""

    @property
    def writes(self) -> int:
        """Return how many accounts are added or changed."""
        return 0 if self.report is None else self.report.counts["imported"] + self.report.counts["updated"]

    @property
    def rows(self) -> list[Verdict]:
        """Return the rows to be shown, first those that need a hand."""
        rows = self.report.rows if self.report else ()
        return sorted(rows, key=lambda row: (_ORDER.index(row.verdict), row.row))[:_MOST_SHOWN]

    @property
    def lines(self) -> Mapping[int, str]:
        """Return the lines of refused and new rows as they were written; none of JSON, whose rows aren't lines."""
        if self.text.lstrip()[:1] in ("[", "{"):
            return {}
        lines = self.text.split("\n")
        told = (row.row for row in self.rows if row.verdict in ("rejected", "imported"))
        return {number: lines[number - 1][:_LONGEST_LINE] for number in told}


class ImportPage:
    """Checks a list at first; with the fingerprint of what the check showed, it brings in exactly that or nothing.

    The list goes along in the form, and is judged again in the transaction that writes.
    """

    # POST looks by itself who asks: somebody who isn't signed in any more must get the list back.
    operations = Operations(
        get=Operation(summary="A list of accounts to bring in.", query=NoQuery, media_types=(HTML,)),
        post=Operation(
            summary="Check a list of accounts, or bring in a checked one.",
            query=NoQuery,
            media_types=(HTML,),
            always_open=True,
        ),
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        key = await holder_of(self._room, req)
        await self._show(resp, View(), is_admin=_is_admin(key))

    on_head = on_get

    async def on_post(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        key, is_away = None, False
        try:
            key = await holder_of(self._room, req)
        except (DatabaseError, PoolTimeout) as exc:
            log.error("database_failed", error=type(exc).__name__, exc_info=exc)
            is_away = True
        view = await self._answered(req, key)
        if is_away and view.text:
            view = structs.replace(view, fault=_AWAY, status=503)
        await self._show(resp, view, is_admin=_is_admin(key))

    async def _answered(self, req: Request, key: Key | None) -> View:
        is_admin = _is_admin(key)
        most_bytes = _LARGEST_BODY_BYTES if is_admin else bodies.LARGEST_BODY_BYTES
        within_s = self._room.settings.api_body_timeout_s
        try:
            form = await bodies.read_parts(req, most_bytes=most_bytes, within_s=within_s)
        except Problem as problem:
            return _unread(problem, is_admin=is_admin)
        consider = scoped("/import", self._considered)
        return await asyncio.get_running_loop().run_in_executor(self._room.threads, consider, form, key)

    def _considered(self, form: Mapping[str, bytes], key: Key | None) -> View:
        """Look at a form before anything is done with it: whoever sent it, it comes back."""
        view = _list_of(form)
        if key is None:
            return View(text=view.text, fault=_SIGN_IN, advice=_KEPT, status=401)
        if not _is_admin(key):
            return View(text=view.text, fault=_NOT_ADMIN, advice=_KEPT, status=403)
        if view.fault:
            return view
        return self._judged(view.text, form.get("shown", b"").decode("utf-8", "replace"), key.name)

    def _judged(self, text: str, shown: str, by: str) -> View:
        """Check a list, or bring it in where `shown` is what the check of just this list showed."""
        now, raw = datetime.now(UTC), text.encode()
        try:
            report = import_list(
                self._room.engine, raw, now=now, dry_run=not shown, shown=shown or None, most_rows=MOST_ROWS
            )
        except NotAList as exc:
            advice = _IN_PARTS if isinstance(exc, TooLong) else _UNWRITTEN
            return View(text=text, fault=str(exc), advice=advice, status=400)
        except Otherwise as exc:
            return View(text=text, report=exc.report, is_otherwise=True, status=409)
        except (DatabaseError, PoolTimeout) as exc:
            log.error("database_failed", error=type(exc).__name__, exc_info=exc)
            return View(text=text, fault=_AWAY, advice=_KEPT, status=503)
        if not report.dry_run:
            self._room.purge(report.tags)
            log.info("accounts_imported", by=by, counts=dict(report.counts))
        return View(text=text, report=report)

    async def _show(self, resp: Response, view: View, *, is_admin: bool) -> None:
        render = scoped("/import", self._rendered)
        self._look.guard(resp)
        resp.status = view.status
        resp.content_type = HTML
        resp.set_header("Cache-Control", "no-store")
        resp.data = await asyncio.get_running_loop().run_in_executor(self._room.threads, render, view, is_admin)

    def _rendered(self, view: View, is_admin: bool) -> bytes:
        values = {
            "view": view,
            "is_admin": is_admin,
            "most_rows": MOST_ROWS,
            "most_bytes": LARGEST_LIST_BYTES,
            "field_names": FIELD_NAMES,
            "said": said,
        }
        try:
            with reading(self._room.engine) as conn:
                simulated = source_of(conn) == "simulated"
        except (DatabaseError, PoolTimeout):
            simulated = self._room.settings.source == "simulated"
        return self._look.render("import.html", here="/import", simulated=simulated, **values).encode()


FIELD_NAMES = {
    "org_name": "organisation",
    "owner_team": "team",
    "account_type": "type",
    "is_core_account": "core",
    "is_active": "active",
    "read_interval_s": "read every",
}


def said(value: str | bool | int | None) -> str:
    """Write a fact as a list has it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return duration(value) if isinstance(value, int) else value


def _is_admin(key: Key | None) -> bool:
    return key is not None and "admin" in key.scopes


def _unread(problem: Problem, *, is_admin: bool) -> View:
    """Return what is said of a request whose list couldn't be read."""
    if problem.status_code != 413:
        return View(fault=str(problem.description), advice=_GO_BACK, status=problem.status_code)
    if not is_admin:
        return View(fault=_SIGN_IN, advice=_GO_BACK, status=401)
    fault = f"The list is larger than the {LARGEST_LIST_BYTES:,} bytes that this page takes."
    return View(fault=fault, advice=f"{_IN_PARTS} {_GO_BACK}", status=413)


def _list_of(form: Mapping[str, bytes]) -> View:
    """Return the list that a form brings, or what is wrong with it. A file outranks a text that the page showed already.

    Line ends become those that browsers leave alone, and bytes that aren't UTF-8 what the judge refuses: so that the
    text says the same when it comes back from the page.
    """
    pasted, file = _text(form.get("list", b"")), _text(form.get("file", b""))
    checked = form.get("checked", b"").decode("ascii", "replace")
    if file and pasted.strip() and _digest(pasted) != checked:
        fault = "There is a list in the field and a file beside it: clear the one that isn't meant."
        return View(text=pasted, fault=fault, status=400)
    text = file or pasted
    size = len(text.encode())
    if size > LARGEST_LIST_BYTES:
        fault = f"The list has {size:,} bytes; this page takes {LARGEST_LIST_BYTES:,}."
        return View(text=text, fault=fault, advice=_IN_PARTS, status=413)
    return View(text=text) if text.strip() else View(fault="Paste a list, or choose a file.", status=400)


def _text(raw: bytes) -> str:
    text = raw.decode("utf-8-sig", "replace").replace("\0", "\ufffd")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def routes(room: Room) -> Iterator[Route]:
    yield "/import", ImportPage(room)
