"""The file of rejects: rows that an import didn't take, each with its number and the reason."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from pipeline.formats import safe_cell

_HEADING = ("row", "reason", "line")
_LONGEST = 2_000


class Rejects:
    """A CSV of rejects, opened with `with`. It goes on behind `keep_bytes`; one that stays empty is removed."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self._path = path
        self._keep_bytes = keep_bytes

    @staticmethod
    def holds(path: Path, size_bytes: int) -> bool:
        """Say whether a file of rejects has what it had when it was this long."""
        return not size_bytes or (path.is_file() and path.stat().st_size >= size_bytes)

    def __enter__(self) -> Self:
        self._file = self._path.open("r+b" if self._keep_bytes else "wb")
        self._file.truncate(self._keep_bytes)
        self._file.seek(self._keep_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_empty = not self._file.tell()
        self._file.close()
        if is_empty:
            self._path.unlink()

    def add(self, number: int, reason: str, written: bytes | Mapping[str, Any]) -> None:
        """Write down one row: `written` is its line, or its values."""
        line = io.StringIO()
        writer = csv.writer(line)
        if not self._file.tell():
            writer.writerow(_HEADING)
        writer.writerow((number, safe_cell(reason), safe_cell(_text(written))))
        self._file.write(line.getvalue().encode())

    def flush(self) -> int:
        """Hand what was added to the system, and return how long the file is by then."""
        self._file.flush()
        return self._file.tell()


def _text(written: bytes | Mapping[str, Any]) -> str:
    raw = written if isinstance(written, bytes) else msgspec.json.encode(written, enc_hook=str)
    return raw.decode(errors="backslashreplace").rstrip("\r\n")[:_LONGEST]
