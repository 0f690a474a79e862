"""GET /exports: whole results as files, the API, and charts for other sites."""

import shlex
from collections.abc import Iterator, Mapping

from falcon.asgi import Request, Response
from markupsafe import Markup
from msgspec import Struct, structs

from api.cache.entries import Content
from api.cached import HTML
from api.client import Proxies
from api.dashboard import comparison
from api.dashboard.compare import SPANS
from api.dashboard.comparison import MOST, Comparison
from api.dashboard.embed import ChartQuery, title
from api.dashboard.look import look
from api.dashboard.sign_in import holder_of
from api.fresh import give_fresh
from api.operations import Operation, Operations
from api.resources.export import KINDS, FileFormat
from api.room import Room
from api.routes import Route
from api.schemas import parse
from db import grid, keys, posts, reads
from db.engine import Connection
from db.keys import Key

FRAME_HEIGHT = 520
FORMAT_NAMES: Mapping[FileFormat, str] = {
    "csv": "CSV",
    "xlsx": "Excel",
    "parquet": "Parquet",
    "ndjson": "NDJSON",
    "json": "JSON",
}


# What a key may, by the scope that it is made with.
SCOPES: Mapping[str, str] = {
    "": "Read",
    "refresh": "Read, and ask for readings",
    "admin": "Everything: also import, edit, and make keys",
}


class File(Struct, frozen=True):
    """One kind of export. `rows` is None where they are too many to be counted for a page."""

    name: str
    about: str
    columns: list[str]
    formats: list[FileFormat]
    rows: int | None
    unit: str


class KeyForm(Struct, frozen=True, kw_only=True):
    """What somebody typed to make a key: the `token` that was made of it, or why none was (`fault`)."""

    name: str = ""
    scope: str = ""
    token: str | None = None
    fault: str | None = None


class ExportsPage:
    """Made for each who asks: it says how the site is called by whom it is asked, and shows keys to admins."""

    operations = Operations(
        get=Operation(
            summary="Files, the API, keys, and charts for other sites.", query=ChartQuery, media_types=(HTML,)
        )
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._look = look(room)
        self._proxies = Proxies(room.settings.proxies)

    async def on_get(self, req: Request, resp: Response) -> None:
        # A form sends the fields that are left empty, too.
        query = parse({name: value for name, value in req.context.params.items() if value}, ChartQuery)
        if query.first or query.last:
            query = structs.replace(query, recent=None)
        await self.show(req, resp, query, KeyForm())

    on_head = on_get

    async def show(self, req: Request, resp: Response, query: ChartQuery, form: KeyForm) -> None:
        site, key = self._proxies.site(req), await holder_of(self._room, req)
        self._look.guard(resp, frames="'self'")
        await give_fresh(
            self._room, req, resp, read=lambda conn: self._read(conn, query, site, key, form), media_type=HTML
        )

    def _read(self, conn: Connection, query: ChartQuery, site: str, key: Key | None, form: KeyForm) -> Content:
        clock = self._look.clock()
        found = comparison.compared(conn, query, clock, self._room.platforms)
        names = [line.name for line in found.lines]
        is_closed = self._room.settings.api_require_key
        return self._look.page(
            conn,
            "exports.html",
            here="/exports",
            tagged=frozenset(),
            files=files(conn, reads.overview(conn, clock).accounts),
            most_counted=posts.MOST_COUNTED,
            format_names=FORMAT_NAMES,
            curl=curl(site, is_closed=is_closed),
            query=query,
            found=found,
            most=MOST,
            spans=SPANS,
            without=[f"{query.address([one for one in names if one != name])}#embed" for name in names],
            framed=f"/embed{query.address(names)}",
            code=frame(site, found, query) if names else None,
            height=FRAME_HEIGHT,
            origins=self._room.settings.framed_by.removeprefix("'self'").split(),
            is_closed=is_closed,
            today=clock.now.date(),
            holder=key,
            keys=keys.list_keys(conn) if key and "admin" in key.scopes else None,
            form=form,
            scopes=SCOPES,
        )


def files(conn: Connection, accounts: int) -> list[File]:
    """Return the exports with how many rows each has now."""
    counted: Mapping[str, tuple[int | None, str]] = {
        "summary": (accounts, "accounts"),
        "grid": (grid.total(conn, grid.Filters()), "days of accounts"),
        "accounts": (accounts, "accounts"),
        "posts": (posts.total(conn), "posts"),
    }
    return [
        File(
            kind.title, kind.summary, list(kind.row_type.__struct_fields__), list(FORMAT_NAMES), *counted[kind.title]
        )
        for kind in KINDS
    ]


def curl(site: str, *, is_closed: bool) -> str:
    """Return a first request, for a shell."""
    key = " -H 'Authorization: Bearer rc_…'" if is_closed else ""
    return f"curl{key} {shlex.quote(f'{site}/api/summary?sort=-followers&per_page=10')}"


def frame(site: str, found: Comparison, query: ChartQuery) -> str:
    """Return the code that shows a chart on another site."""
    names = [line.name for line in found.lines]
    code = Markup(
        '<iframe src="{}" title="{}" width="100%" height="{}" loading="lazy" '
        'sandbox="allow-scripts allow-same-origin allow-popups allow-popups-to-escape-sandbox allow-downloads"></iframe>'
    )
    return str(code.format(f"{site}/embed{query.address(names)}", title(found, query), FRAME_HEIGHT))


def routes(room: Room) -> Iterator[Route]:
    yield "/exports", ExportsPage(room)
