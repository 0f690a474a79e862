"""Rows as JSON, NDJSON or CSV: what a client takes, and the bytes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec
from falcon.asgi import Request, Response
from falcon.errors import InvalidMediaType
from falcon.util.mediatypes import best_match
from msgspec import Struct

from api.cached import JSON
from pipeline import formats

RowsFormat = Literal["json", "ndjson", "csv"]
MEDIA_TYPES: dict[RowsFormat, str] = {
    "json": JSON,
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
}
_OFFERED: dict[str, RowsFormat] = {media_type.partition(";")[0]: name for name, media_type in MEDIA_TYPES.items()}


def wanted(asked: RowsFormat | None, req: Request, resp: Response) -> RowsFormat:
    """Return the format asked for by name, else the accepted one, and say that the answer varies by it."""
    resp.append_header("Vary", "Accept")
    return asked or accepted(req.accept)


@lru_cache(maxsize=256)  # browsers send few different ones
def accepted(accept: str) -> RowsFormat:
    """Return what an Accept header weighs most, JSON among equals.

    A client that takes none of them gets JSON: it may read that after all, and a 406 would be JSON, too.
    """
    try:
        return _OFFERED.get(best_match(_OFFERED, accept.lower()), "json")
    except InvalidMediaType:
        return "json"


class Rows(Struct, frozen=True):
    """Rows of a list: of each the fields `names` of `row_type`, in this order."""

    row_type: type[Struct]
    names: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def objects(self) -> list[Any]:
        """Return them as JSON has them."""
        if tuple(self.names) == self.row_type.__struct_fields__:  # several times as fast as dicts
            return [self.row_type(*row) for row in self.rows]
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]

    def encoded(self, as_format: Literal["ndjson", "csv"]) -> bytes:
        """Return a row a line; of CSV, the names in a line before them."""
        if as_format == "ndjson":
            return msgspec.json.Encoder().encode_lines(self.objects())
        kinds = {column.name: column for column in formats.columns_of(self.row_type)}
        return b"".join(formats.encode("csv", "", [kinds[name] for name in self.names], [self.rows]))
