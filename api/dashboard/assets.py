"""Style sheets, scripts and vendored files, under an address that names their content: they may be kept for good.

Minified when a process starts and compressed when they are first asked for, so that nothing has to be built beforehand.
"""

import asyncio
import gzip
import hashlib
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import brotli  # type: ignore[import-untyped]
import rcssmin  # type: ignore[import-untyped]
import rjsmin  # type: ignore[import-untyped]
import zstandard
from falcon.asgi import Request, Response
from msgspec import Struct

from api import encodings
from api.operations import Operation, Operations
from api.problems import Problem
from api.room import Room
from api.routes import Route

_FOLDER = Path(__file__).parent / "static"
_YEAR = "public, max-age=31536000, immutable"
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
# Made once per process and then sent many thousand times: as small as it gets.
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstandard.compress(body, 19),
    "br": lambda body: brotli.compress(body, quality=11),
    "gzip": lambda body: gzip.compress(body, 9, mtime=0),
    "identity": lambda body: body,
}


class Asset(Struct, frozen=True, kw_only=True):
    """One file in every coding that a client may take."""

    media_type: str
    bodies: Mapping[str, bytes]


class Assets:
    """All files by their path below `static`. `version` names their content: it changes when any of them does."""

    def __init__(self, prefix: str) -> None:
        bodies = {
            str(file.relative_to(_FOLDER)): _minified(file) for file in sorted(_FOLDER.rglob("*")) if file.is_file()
        }
        del bodies["service-worker.js"]  # it has an address of its own (offline.py)
        digest = hashlib.sha256()
        for name, body in bodies.items():
            digest.update(b"%s %d " % (name.encode(), len(body)) + body)
        self.version = digest.hexdigest()[:16]
        self.prefix = prefix.rstrip("/")
        self.paths = list(bodies)
        self._bodies = bodies

    def url(self, path: str) -> str:
        """Return the address of a file. Raises KeyError for one that isn't there: a page would look broken."""
        if path not in self._bodies:
            raise KeyError(path)
        return f"{self.prefix}/static/{self.version}/{path}"

    def __contains__(self, path: str) -> bool:
        return path in self._bodies

    @cache  # noqa: B019  # one of these lives as long as the process
    def get(self, path: str) -> Asset:
        """Return a file, compressed the first time that it is asked for. Raises KeyError for one that isn't there."""
        body = self._bodies[path]
        suffix = Path(path).suffix
        media_type = _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
        return Asset(media_type=media_type, bodies={name: compress(body) for name, compress in _COMPRESS.items()})


@cache
def assets(prefix: str) -> Assets:
    """Return this process's files; `prefix` is where a CDN serves them, empty without one (STATIC_URL)."""
    return Assets(prefix)


class StaticFile:
    """A file under its content's address. Under another version's address it may be sent, but not kept."""

    operations = Operations(
        get=Operation(summary="Style sheets and scripts of the pages.", media_types=("*/*",), always_open=True)
    )

    def __init__(self, room: Room) -> None:
        self._assets = assets(room.settings.static_url)
        self._threads = room.threads
        self._ready: dict[str, Asset] = {}

    async def on_get(self, req: Request, resp: Response, version: str, path: str) -> None:
        if path not in self._assets:
            raise Problem(404, "There is no such file.")
        # To compress one well takes up to a tenth of a second, once: not on the loop, where everybody else waits.
        if path not in self._ready:
            loop = asyncio.get_running_loop()
            self._ready[path] = await loop.run_in_executor(self._threads, self._assets.get, path)
        asset = self._ready[path]
        coding = encodings.negotiate(req.get_header("Accept-Encoding"))
        etag = f'"{self._assets.version}-{coding}"'
        resp.set_header("Cache-Control", _YEAR if version == self._assets.version else "no-cache")
        resp.set_header("ETag", etag)
        resp.append_header("Vary", "Accept-Encoding")
        # A CDN's address is another origin, and modules are loaded by CORS.
        resp.set_header("Access-Control-Allow-Origin", "*")
        resp.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        if req.get_header("If-None-Match") == etag:
            resp.status = 304
            return
        if coding != "identity":
            resp.set_header("Content-Encoding", coding)
        resp.content_type = asset.media_type
        resp.data = asset.bodies[coding]

    on_head = on_get


def routes(room: Room) -> Iterator[Route]:
    yield "/static/{version}/{path:path}", StaticFile(room)


def _minified(file: Path) -> bytes:
    """Return a file without what only its readers need; what comes from others is left as it is."""
    body = file.read_bytes()
    if "vendor" in file.parts:
        return body
    if file.suffix == ".js":
        return str(rjsmin.jsmin(body.decode())).encode()
    return str(rcssmin.cssmin(body.decode())).encode() if file.suffix == ".css" else body
