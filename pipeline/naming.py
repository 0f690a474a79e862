"""The accounts that people name to a command: as arguments, and in files."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO, TextIOWrapper
from itertools import islice
from typing import BinaryIO

from msgspec import Struct

from db import accounts
from db.engine import Connection
from pipeline import account_file, addresses
from pipeline.account_file import NotAList
from pipeline.accounts import Verdict, judge
from pipeline.addresses import Named, Platforms, Unclear
from pipeline.command import Misuse

# Names a look-up; faults that are told one by one, each with the names that come nearest.
_PART = 5_000
_TOLD = 20


class Entry(Struct, frozen=True):
    """One name as written: the account that it means, or what is wrong with it. `where` says where it stands."""

    text: str
    meant: Named | str
    where: str = ""


def of_arguments(texts: Iterable[str], platforms: Platforms) -> Iterator[Entry]:
    """Yield what each argument means."""
    return (Entry(text, _meant(text, platforms)) for text in texts)


def of_file(file: BinaryIO, platforms: Platforms) -> Iterator[Entry]:
    """Yield what a file names: an account list as `rollcall accounts import` takes it, or one name a line.

    Lines that are blank or begin with `#` are left out. Raises Misuse when the file names nobody or can't be read.
    """
    name = getattr(file, "name", "<stdin>")  # not every stream that stands in for standard input has one
    title = "standard input" if name == "<stdin>" else str(name)
    raw = file.read()
    none = True
    for entry in _rows(raw, title, platforms):
        none = False
        yield entry
    if none:
        raise Misuse(f"{title} names no account: write one a line, or give an account list.")


def _rows(raw: bytes, title: str, platforms: Platforms) -> Iterator[Entry]:
    try:
        rows = account_file.read(raw).rows
    except NotAList as exc:
        if raw.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
            raise Misuse(f"{title}: {exc}") from exc
        yield from _lines(raw, title, platforms)
        return
    for row in rows:
        judged, where = judge(row, platforms), f"{title}, row {row.number}: "
        if isinstance(judged, Verdict):
            yield Entry("", judged.reason or "can't be read", where)
        else:
            yield Entry(judged.named.name, judged.named, where)


def _lines(raw: bytes, title: str, platforms: Platforms) -> Iterator[Entry]:
    for number, line in enumerate(TextIOWrapper(BytesIO(raw), "utf-8-sig", errors="surrogateescape"), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield Entry(text, _meant(text, platforms), f"{title}, line {number}: ")


def _meant(text: str, platforms: Platforms) -> Named | str:
    try:
        return addresses.of_text(text, platforms)
    except Unclear as exc:
        return f"{text[:80] if text and text.isprintable() else repr(text[:80])}: {exc}"


def keys(conn: Connection, entries: Iterator[Entry]) -> "array[int]":
    """Return the account_key of each name, once. Raises Misuse that tells all that are wrong or unknown."""
    found: set[int] = set()
    faults: list[tuple[Entry, str]] = []
    while part := list(islice(entries, _PART)):
        named = [(entry, entry.meant) for entry in part if isinstance(entry.meant, Named)]
        known = accounts.find_each(conn, [meant for _, meant in named])
        found.update(key for key in known if key is not None)
        faults += [(entry, entry.meant) for entry in part if isinstance(entry.meant, str)]
        faults += [
            (entry, f"{meant.name} is not in the account list")
            for (entry, meant), key in zip(named, known, strict=True)
            if key is None
        ]
    if faults:
        raise Misuse(_told(faults, accounts.names(conn)))
    return array("q", sorted(found))


def _told(faults: Sequence[tuple[Entry, str]], listed: Sequence[str]) -> str:
    told = []
    for entry, fault in faults[:_TOLD]:
        name = entry.meant.name if isinstance(entry.meant, Named) else entry.text
        told.append(f"{entry.where}{fault}.{addresses.meant(name, listed)}")
    if len(faults) > _TOLD:
        told.append(f"And {len(faults) - _TOLD:,} more.")
    return "\n".join(told)
