"""/service-worker.js, /offline and /manifest.webmanifest: what a browser keeps of the pages, for when the network is away."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import msgspec
import rjsmin  # type: ignore[import-untyped]
from falcon.asgi import Request, Response

from api.cached import HTML
from api.dashboard.look import Look, look
from api.fixed import Fixed
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse

SCRIPT = "text/javascript; charset=utf-8"
MANIFEST = "application/manifest+json"
_WORKER = Path(__file__).parent / "static" / "service-worker.js"


class ServiceWorker:
    """The script that answers for the network when it is away. It lies at the root, since it is in charge from where it
    lies downwards. Another version of the static files makes it another script, by which browsers know a new deploy.
    """

    operations = Operations(
        get=Operation(summary="What keeps pages for offline.", query=NoQuery, media_types=(SCRIPT,), always_open=True)
    )

    def __init__(self, room: Room) -> None:
        self._look = look(room)

        def make() -> bytes:
            return worker(self._look, _not_there(self._look))

        self._fixed = Fixed(make, media_type=SCRIPT, tag="pages", threads=room.threads)

    async def on_get(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        self._look.guard_worker(resp)
        await self._fixed.give(req, resp)

    on_head = on_get


def worker(look: Look, not_there: bytes) -> bytes:
    """Return the script with what it is told: `statics` is where the files are, `files` those that every page may need."""
    assets = look.assets
    files = [assets.url(path) for path in assets.paths if path.startswith(("js/", "app.css", "icon"))]
    version = hashlib.sha256(assets.version.encode() + not_there).hexdigest()[:16]
    told = msgspec.json.encode({"version": version, "statics": urljoin(assets.url("app.css"), "."), "files": files})
    return b"self.told = %s;\n%s" % (told, str(rjsmin.jsmin(_WORKER.read_text())).encode())


class NotThere:
    """What is shown offline in the place of a page that was never seen. The service worker lists those that were."""

    operations = Operations(
        get=Operation(
            summary="What a page is offline that was never seen.",
            query=NoQuery,
            media_types=(HTML,),
            always_open=True,
        )
    )

    def __init__(self, room: Room) -> None:
        self._look = look(room)
        self._fixed = Fixed(lambda: _not_there(self._look), media_type=HTML, tag="pages", threads=room.threads)

    async def on_get(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        self._look.guard(resp)
        await self._fixed.give(req, resp)

    on_head = on_get


class Manifest:
    """What a home screen or a dock shows of the pages."""

    operations = Operations(
        get=Operation(
            summary="How the pages are installed.", query=NoQuery, media_types=(MANIFEST,), always_open=True
        )
    )

    def __init__(self, room: Room) -> None:
        icon = {"src": look(room).assets.url("icon.svg"), "sizes": "any", "type": "image/svg+xml"}
        said = {
            "name": "Rollcall",
            "short_name": "Rollcall",
            "start_url": "/",
            "display": "minimal-ui",
            "icons": [icon],
        }
        self._fixed = Fixed(lambda: msgspec.json.encode(said), media_type=MANIFEST, tag="pages", threads=room.threads)

    async def on_get(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        await self._fixed.give(req, resp)

    on_head = on_get


def _not_there(look: Look) -> bytes:
    return look.render("offline.html", here=None, simulated=False).encode()


def routes(room: Room) -> Iterator[Route]:
    yield "/service-worker.js", ServiceWorker(room)
    yield "/offline", NotThere(room)
    yield "/manifest.webmanifest", Manifest(room)
