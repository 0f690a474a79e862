"""GET /api/export/{summary|grid|accounts|posts}: whole results as files, streamed."""

from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from api import encodings
from api.exports import Rows
from api.operations import Operation, Operations
from api.problems import Fault, Problem, refuse
from api.request import STALL
from api.room import Room
from api.routes import Route
from api.schemas import (
    FIRST_DATE,
    LAST_DATE,
    Day,
    Flag,
    ObjectQuery,
    OneStatus,
    Words,
    chosen_fields,
    known_platform,
    parse,
)
from db import exports, grid
from db.exports import ExportedPost, Wanted
from db.grid import Cell
from db.reads import AccountStanding, AccountSummary, Clock, Filters
from db.rows import Batches
from pipeline import formats

FileFormat = Literal["csv", "ndjson", "json", "xlsx", "parquet"]
OneFormat = Annotated[FileFormat, Meta(description=f"one of {', '.join(get_args(FileFormat))}")]


class Media(Struct, frozen=True):
    """What a format is called elsewhere. A packed one isn't packed again."""

    format: formats.Format
    media_type: str
    is_packed: bool = False


MEDIA: Mapping[FileFormat, Media] = {
    "csv": Media("csv", "text/csv; charset=utf-8"),
    "ndjson": Media("jsonl", "application/x-ndjson"),
    "json": Media("json", "application/json"),
    "xlsx": Media("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", is_packed=True),
    "parquet": Media("parquet", "application/vnd.apache.parquet", is_packed=True),
}
_BY_MEDIA_TYPE = {media.media_type.partition(";")[0]: name for name, media in MEDIA.items()}


class ExportQuery(ObjectQuery, frozen=True, kw_only=True):
    """What every export may be asked. Without `format` the header `Accept` decides, and CSV where that takes anything."""

    format: OneFormat | None = None
    platform: str | None = None
    org: Words | None = None
    core: Flag | None = None
    q: Words | None = None

    @property
    def is_core(self) -> bool | None:
        return None if self.core is None else self.core == "true"


class AccountsExportQuery(ExportQuery, frozen=True, kw_only=True):
    """GET /api/export/summary and /api/export/accounts"""

    status: OneStatus | None = None

    @property
    def filters(self) -> Filters:
        return Filters(platform=self.platform, org=self.org, core=self.is_core, status=self.status, text=self.q)


class DaysExportQuery(ExportQuery, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """GET /api/export/grid and /api/export/posts: both ends included, all days without."""

    first: Day | None = None
    last: Day | None = None

    @property
    def days(self) -> tuple[date | None, date | None]:
        """Return the first and the last day asked for. Raises Problem where none lies between them."""
        for name, day in (("from", self.first), ("to", self.last)):
            if day is not None and not FIRST_DATE <= day <= LAST_DATE:
                raise refuse(Fault(name, f"{day} does not lie between {FIRST_DATE} and {LAST_DATE}"))
        if self.first and self.last and self.first > self.last:
            raise refuse(Fault("from", f"{self.first} is later than {self.last}, the end of the range"))
        return self.first, self.last


class Kind(Struct, frozen=True):
    """Rows that are exported: what may be asked of them, and what reads them, as the fields of `row_type` stand."""

    title: str
    summary: str
    row_type: type[Struct]
    query_type: type[ExportQuery]
    rows: Callable[[Any, Clock], Rows]


class Export:
    """One kind of rows as a file, from the first byte on as soon as it is there."""

    keeps_time = True

    def __init__(self, room: Room, kind: Kind) -> None:
        self._exports = room.exports
        self._platforms = room.platforms
        self._stale_after = room.stale_after
        self._kind = kind
        self.operations = Operations(
            get=Operation(
                summary=kind.summary,
                query=kind.query_type,
                record=kind.row_type,
                media_types=tuple(_BY_MEDIA_TYPE),
                headers={"Content-Disposition": "The file's name, with the day on which it was asked for."},
                problems={
                    406: "An export is in none of the formats that `Accept` names.",
                    503: "Other exports are being taken, or the database can't be read at the moment.",
                },
            )
        )

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, self._kind.query_type)
        known_platform(query.platform, self._platforms)
        names = chosen_fields(query.fields, self._kind.row_type)
        now = datetime.now(UTC)
        rows = self._kind.rows(query, Clock(now, self._stale_after))
        named = query.format or _preferred(req)
        media = MEDIA[named]
        encoding = "identity" if media.is_packed else encodings.negotiate(req.get_header("Accept-Encoding"))
        if req.method == "HEAD":
            resp.stream = _nothing()  # how long it would be, only reading it would tell
        else:
            encode = partial(
                _encoded, kind=self._kind, names=names, media=media, encoding=encoding, folder=self._exports.folder
            )
            # A workbook is whole only at its end. HTTP/1.0 has no chunks: its length alone tells a whole from a part.
            is_book = media.format == "xlsx"
            whole = is_book or req.scope["http_version"] == "1.0"
            keep = partial(_kept, kind=self._kind, folder=self._exports.folder) if is_book else None
            if set_stall := req.scope.get(STALL):
                set_stall(self._exports.stall_s)
            resp.stream, resp.content_length = await self._exports.begin(rows, encode, keep=keep, whole=whole)
        # Behind what may be refused: a problem is no file.
        resp.content_type = media.media_type
        file_name = f"rollcall-{self._kind.title}-{now:%Y-%m-%d}.{named}"
        resp.set_header("Content-Disposition", f'attachment; filename="{file_name}"')
        resp.set_header("Cache-Control", "no-store")
        resp.append_header("Vary", "Accept, Accept-Encoding")
        if encoding != "identity":
            resp.set_header("Content-Encoding", encoding)

    on_head = on_get


def _preferred(req: Request) -> FileFormat:
    """Return the format that a client likes best, CSV where it takes anything. Raises Problem where it takes none."""
    best = req.client_prefers(list(_BY_MEDIA_TYPE))
    if best is None:
        raise Problem(406, f"An export is {', '.join(_BY_MEDIA_TYPE)}: say which by Accept, or by format=.")
    return _BY_MEDIA_TYPE[best]


def _kept(batches: Batches, *, kind: Kind, folder: Path) -> Batches:
    return formats.kept(formats.columns_of(kind.row_type), batches, folder)


def _encoded(
    batches: Batches, *, kind: Kind, names: tuple[str, ...] | None, media: Media, encoding: str, folder: Path
) -> Generator[bytes, None, None]:
    columns, rows = formats.chosen(formats.columns_of(kind.row_type), batches, names)
    return encodings.compressed(formats.encode(media.format, kind.title, columns, rows, folder=folder), encoding)


async def _nothing() -> AsyncIterator[bytes]:
    for piece in list[bytes]():
        yield piece


def _summary(query: AccountsExportQuery, clock: Clock) -> Rows:
    return partial(exports.summary, filters=query.filters, clock=clock)


def _accounts(query: AccountsExportQuery, clock: Clock) -> Rows:
    return partial(exports.accounts, filters=query.filters, clock=clock)


def _grid(query: DaysExportQuery, _: Clock) -> Rows:
    first, last = query.days
    filters = grid.Filters(
        platform=query.platform, org=query.org, core=query.is_core, text=query.q, first=first, last=last
    )
    return partial(grid.whole, filters=filters)


def _posts(query: DaysExportQuery, _: Clock) -> Rows:
    first, last = query.days
    wanted = Wanted(platform=query.platform, org=query.org, core=query.is_core, text=query.q, first=first, last=last)
    return partial(exports.posts, wanted=wanted)


KINDS = (
    Kind("summary", "Every account with its newest reading, as a file.", AccountSummary, AccountsExportQuery, _summary),
    Kind("grid", "Every account and day, newest day first, as a file.", Cell, DaysExportQuery, _grid),
    Kind("accounts", "The account list with how each account stands, as a file.", AccountStanding, AccountsExportQuery, _accounts),
    Kind("posts", "Every post, account by account, newest first, as a file.", ExportedPost, DaysExportQuery, _posts),
)  # fmt: skip


def routes(room: Room) -> Iterator[Route]:
    for kind in KINDS:
        yield f"/api/export/{kind.title}", Export(room, kind)
