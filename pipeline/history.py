"""Bring a history into the database: judge each row, keep the good ones, tell the others; resumable, in flat memory.

A file is done by the batch: a batch's snapshots and how far the import came are one commit. An import that was
interrupted goes on behind its last batch when the same file is imported again.
"""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from itertools import chain, islice
from pathlib import Path

from msgspec import Struct

from db import accounts, bulk, partitions, provenance, tags
from db.bulk import Snapshot
from db.engine import Connection, Engine, reading, transaction
from db.provenance import Counts, Given, Import
from pipeline import addresses, history_file, platforms
from pipeline.accounts import named_by
from pipeline.addresses import Named, Unclear
from pipeline.history_file import STDIN, BadRow, Format, HistoryFile, Row
from pipeline.history_row import FIRST_DAY, Faulty, Name, Wanted, judge
from pipeline.rejects import Rejects

# Jobs wait while a batch is written, for about a second; smaller ones derive the newest numbers more often.
_BATCH = 50_000
# Names that are remembered with their accounts, before all are forgotten and asked for again.
_REMEMBERED = 200_000

Account = tuple[str, int]
"""A platform and an account_key."""


class Options(Struct, frozen=True, kw_only=True):
    """How a file is imported. Days before `oldest` are not taken; `overwrite` lets readings of platforms give way."""

    rejects: Path
    imported_by: str
    oldest: date = FIRST_DAY
    format: Format | None = None
    overwrite: bool = False
    partition_months: int = 12


class Step(Struct, frozen=True, kw_only=True):
    """How far an import is after one more batch, and the cache tags to purge now that it is committed.

    `of` is None in a dry run, where good rows count as unchanged. `resumed_at` is the number of rows that an
    interrupted import had done.
    """

    of: Import | None
    counts: Counts
    file: HistoryFile
    resumed_at: int = 0
    tags: frozenset[str] = frozenset()


def given_file(name: str, options: Options) -> Given:
    """Say which file someone brings. Reads it once, to know it again. Raises OSError."""
    path = Path(name)
    is_file = name != STDIN and path.is_file()
    sha256 = None
    if is_file:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Given(
        file_name=path.name,
        sha256=sha256,
        size_bytes=path.stat().st_size if is_file else None,
        imported_by=options.imported_by,
        overwrite=options.overwrite,
    )


def import_file(engine: Engine, name: str, options: Options, *, now: datetime) -> Generator[Step, None, None]:
    """Import a file (`-`: standard input), yielding after every batch; the rows not taken go to a file of rejects.

    Raises NotAHistory, provenance.Underway and OSError; what was yielded before then stands.
    """
    given = given_file(name, options)
    with (
        provenance.alone_with(engine, given.sha256),
        history_file.opened(name, options.format) as file,
        ExitStack() as stack,
    ):
        rows = _begun(file)
        with transaction(engine) as conn:
            current = _current(conn, given, options, now)
            rejects = stack.enter_context(Rejects(options.rejects, current.rejects_bytes))
        keeper = _Keeper(engine, current.import_id, options, now)
        resumed_at = current.counts.rows
        done = current.counts
        for _ in islice(rows, resumed_at):
            pass
        yield Step(of=current, counts=done, file=file, resumed_at=resumed_at)
        while batch := list(islice(rows, _BATCH)):
            counts, touched = keeper.keep(batch, rejects)
            done += counts
            yield Step(of=current, counts=done, file=file, resumed_at=resumed_at, tags=touched)
        with transaction(engine) as conn:
            provenance.finish(conn, current.import_id, now=datetime.now(UTC))


def try_file(engine: Engine, name: str, options: Options, *, now: datetime) -> Generator[Step, None, None]:
    """Judge a file as `import_file` does, and write the rejects alone."""
    done = Counts()
    with (
        history_file.opened(name, options.format) as file,
        reading(engine) as conn,
        Rejects(options.rejects) as rejects,
    ):
        rows, judges = _begun(file), _Judge(options, now)
        while batch := list(islice(rows, _BATCH)):
            rejected = sum(isinstance(verdict, str) for verdict in judges.verdicts(conn, batch, rejects))
            done += Counts(rows=len(batch), unchanged=len(batch) - rejected, rejected=rejected)
            yield Step(of=None, counts=done, file=file)


def _begun(file: HistoryFile) -> history_file.Rows:
    """Return the rows of a file; raise NotAHistory where it doesn't even begin as one, before anything is written."""
    first = next(file.rows, None)
    return file.rows if first is None else chain([first], file.rows)


def _current(conn: Connection, given: Given, options: Options, now: datetime) -> Import:
    """Return the interrupted import that is to go on, else a new one."""
    interrupted = provenance.interrupted(conn, given)
    if interrupted and Rejects.holds(options.rejects, interrupted.rejects_bytes):
        return interrupted
    return provenance.begin(conn, given, now=now)


class _Keeper:
    """Keeps batches of rows as the snapshots of one import."""

    def __init__(self, engine: Engine, import_id: int, options: Options, now: datetime) -> None:
        self._engine = engine
        self._import_id = import_id
        self._options = options
        self._judge = _Judge(options, now)
        self._covered: set[date] = set()

    def keep(self, rows: Sequence[Row | BadRow], rejects: Rejects) -> tuple[Counts, frozenset[str]]:
        """Commit a batch; return what became of its rows, and the cache tags of what it touched."""
        with reading(self._engine) as conn:
            verdicts = self._judge.verdicts(conn, rows, rejects)
        good = [verdict for verdict in verdicts if not isinstance(verdict, str)]
        chosen: dict[tuple[int, date], Snapshot] = {}
        updated = 0
        for _, snapshot in good:
            # Of a day that is given twice the last row counts.
            before = chosen.get(day := (snapshot.account_key, snapshot.snapshot_date))
            updated += before not in (None, snapshot)
            chosen[day] = snapshot
        self._cover({snapshot.snapshot_date.replace(day=1) for snapshot in chosen.values()})
        with transaction(self._engine) as conn:
            kept = bulk.upsert_snapshots(
                conn, chosen.values(), import_id=self._import_id, overwrite_live=self._options.overwrite
            )
            counts = Counts(
                rows=len(rows),
                inserted=kept.inserted,
                updated=kept.updated + updated,
                unchanged=len(good) - kept.inserted - kept.updated - updated - kept.outranked,
                outranked=kept.outranked,
                rejected=len(rows) - len(good),
            )
            provenance.advance(conn, self._import_id, counts, rejects_bytes=rejects.flush())
        if not (kept.inserted or kept.updated):
            return counts, frozenset()
        return counts, tags.of_history({platform for platform, _ in good}, {s.account_key for _, s in good})

    def _cover(self, months: set[date]) -> None:
        """Make the partitions of these months in a transaction of its own, so that its locks are soon gone."""
        if new := months - self._covered:
            with transaction(self._engine) as conn:
                partitions.cover(conn, new, months=self._options.partition_months)
            self._covered |= new


class _Judge:
    """Says of rows which snapshots they are, and remembers which accounts the names mean."""

    def __init__(self, options: Options, now: datetime) -> None:
        self._oldest = options.oldest
        self._now = now
        self._platforms = platforms.load()
        self._accounts: dict[Name, Account | str] = {}

    def verdicts(
        self, conn: Connection, rows: Sequence[Row | BadRow], rejects: Rejects
    ) -> list[tuple[str, Snapshot] | str]:
        """Return for each row its platform and snapshot, or why it isn't taken, which goes to the rejects, too."""
        judged = [self._judged(row) for row in rows]
        self._look_up(conn, {wanted.name for wanted in judged if isinstance(wanted, Wanted)})
        verdicts = [self._verdict(wanted) for wanted in judged]
        for row, verdict in zip(rows, verdicts, strict=True):
            if isinstance(verdict, str):
                rejects.add(row.number, verdict, row.written)
        return verdicts

    def _judged(self, row: Row | BadRow) -> Wanted | str:
        if isinstance(row, BadRow):
            return row.reason
        try:
            return judge(row.values, oldest=self._oldest, now=self._now)
        except Faulty as exc:
            return str(exc)

    def _verdict(self, wanted: Wanted | str) -> tuple[str, Snapshot] | str:
        if isinstance(wanted, str):
            return wanted
        account = self._accounts[wanted.name]
        if isinstance(account, str):
            return account
        platform, account_key = account
        followers, following, posts, engagement = wanted.numbers
        return platform, Snapshot(
            account_key=account_key,
            snapshot_date=wanted.day,
            captured_at=wanted.captured_at,
            followers=followers,
            following=following,
            posts=posts,
            engagement=engagement,
            precision=wanted.precision,
        )

    def _look_up(self, conn: Connection, names: set[Name]) -> None:
        if len(self._accounts) > _REMEMBERED:
            self._accounts.clear()
        new = sorted(names - self._accounts.keys())
        meant = [self._meant(*name) for name in new]
        sought = [named for named in meant if isinstance(named, Named)]
        keys = iter(accounts.find_each(conn, sought))
        for name, account in zip(new, meant, strict=True):
            self._accounts[name] = account if isinstance(account, str) else _found(account, next(keys))

    def _meant(self, account: str, url: str, platform: str, handle: str) -> Named | str:
        try:
            if account:
                return addresses.of_text(account, self._platforms)
            return named_by({"url": url, "platform": platform, "handle": handle}, self._platforms)
        except Unclear as exc:
            return str(exc)


def _found(account: Named, account_key: int | None) -> Account | str:
    if account_key is None:
        return f"{account.name} is not in the account list: bring it in by `rollcall accounts import` first"
    return account.platform, account_key
