"""Bring an account list into the database: parse the file, judge each row, commit what is new or changed.

Every row gets a verdict of its own, and one bad row never rejects the rest.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs

from db import accounts as db
from db import tags
from db.engine import Connection, Engine, reading, transaction
from pipeline import account_file, addresses, platforms
from pipeline.account_file import BadRow, Row
from pipeline.addresses import Named, Platforms, Unclear
from pipeline.limits import parse_interval
from pipeline.platforms import Platform

Word = Literal["imported", "updated", "unchanged", "duplicate", "rejected"]
NO_READER = "no reader yet"

_YES_NO = {"yes": True, "true": True, "1": True, "x": True, "no": False, "false": False, "0": False}


class Change(Struct, frozen=True):
    """A field's value before and after."""

    before: str | bool | int | None
    after: str | bool | int | None


class Verdict(Struct, frozen=True, kw_only=True):
    """What became of one row. `changes` is by field."""

    row: int
    verdict: Word
    account: str | None = None
    reason: str | None = None
    changes: Mapping[str, Change] = {}


class Report(Struct, frozen=True):
    """What an import did, or would do. `tags` are the cache tags to purge now that it is committed.

    `fingerprint` is the same for the same verdicts on the same file alone.
    """

    rows: tuple[Verdict, ...]
    unknown_columns: tuple[str, ...]
    tags: frozenset[str]
    dry_run: bool
    fingerprint: str

    @property
    def counts(self) -> Counter[Word]:
        return Counter(row.verdict for row in self.rows)


class _Wanted(Struct, frozen=True):
    """A row that names an account. `facts` holds only what the row says: the rest stays as it is."""

    row: int
    named: Named
    facts: Mapping[str, Any]

    def verdict(self, word: Word, reason: str | None = None) -> Verdict:
        return Verdict(row=self.row, verdict=word, account=self.named.name, reason=reason)


class _Step(Struct, frozen=True):
    """What to do for one row: add an account, change one to how it should stand, or neither."""

    verdict: Verdict
    add: _Wanted | None = None
    change: db.Known | None = None


class Otherwise(Exception):
    """The verdicts aren't those that were shown before: nothing was written. `report` is that of a dry run now."""

    def __init__(self, report: Report) -> None:
        super().__init__("the verdicts have changed")
        self.report = report


def import_list(
    engine: Engine,
    raw: bytes,
    *,
    now: datetime,
    dry_run: bool = False,
    shown: str | None = None,
    most_rows: int | None = None,
) -> Report:
    """Import a file (see account_file.read) in one transaction; a dry run gives the same verdicts and writes nothing.

    An account that stands in the list already keeps what the file doesn't speak of. Raises NotAList when the file
    as a whole can't be read, and Otherwise where the verdicts have another fingerprint than `shown`.
    """
    registered = platforms.load()
    file = account_file.read(raw, most_rows=most_rows)
    judged = [judge(row, registered) for row in file.rows]
    wanted = [row for row in judged if isinstance(row, _Wanted)]
    opened: AbstractContextManager[Connection] = reading(engine) if dry_run else transaction(engine)
    with opened as conn:
        if not dry_run:
            db.lock_list(conn)
        steps = _steps(wanted, _standing(conn, wanted))
        taken = [] if dry_run else _commit(conn, steps, registered, now)
        verdicts = {step.verdict.row: step.verdict for step in steps} | {row.row: row for row in taken}
        rows = tuple(row if isinstance(row, Verdict) else verdicts[row.row] for row in judged)
        report = Report(rows, file.unknown_columns, _tags(steps), dry_run, _fingerprint(raw, rows))
        if shown is not None and report.fingerprint != shown:
            raise Otherwise(structs.replace(report, dry_run=True))
    return report


def _fingerprint(raw: bytes, rows: Sequence[Verdict]) -> str:
    return hashlib.sha256(hashlib.sha256(raw).digest() + msgspec.json.encode(rows)).hexdigest()


class Amended(Struct, frozen=True):
    """An account after some of its facts were set. `tags` are the cache tags to purge now that it is committed."""

    account: str
    changes: Mapping[str, Change]
    tags: frozenset[str]


def amend(
    engine: Engine, account_key: int, said: Mapping[str, str | bool | None], *, now: datetime
) -> Amended | None:
    """Set some facts of an account that stands in the list; None where it doesn't. What is so already isn't written.

    One that becomes inactive is read no more; one that becomes active is due at once.
    """
    with transaction(engine) as conn:
        db.lock_list(conn)  # two that change different facts must both count
        known = db.known(conn, [account_key]).get(account_key)
        if known is None:
            return None
        changes = _changes(known.facts, said)
        if changes:
            db.change(conn, {account_key: structs.replace(known.facts, **said)}, now=now)
    return Amended(known.name, changes, tags.of_facts([account_key]) if changes else frozenset())


def judge(row: Row | BadRow, known_platforms: Platforms) -> _Wanted | Verdict:
    """Say which account a row means and what it says of it, or why it is rejected. Pure."""
    if isinstance(row, BadRow):
        return Verdict(row=row.number, verdict="rejected", reason=row.reason)
    try:
        return _Wanted(row.number, named_by(row.values, known_platforms), dict(_facts(row.values)))
    except Unclear as exc:
        return Verdict(row=row.number, verdict="rejected", reason=str(exc))


def named_by(values: Mapping[str, str], known_platforms: Platforms) -> Named:
    """Read which account a row means: its URL decides, and a platform beside it must agree. Raises Unclear."""
    title, url, handle = values.get("platform"), values.get("url"), values.get("handle")
    platform = addresses.platform_called(title, known_platforms) if title else None
    if url:
        named = addresses.of_url(url, known_platforms)
        if platform and platform.name != named.platform:
            of = known_platforms[named.platform].title
            raise Unclear(f"the platform says {title!r}, but the URL is one of {of}: correct one of the two")
        return named
    if platform and handle:
        return addresses.of_handle(platform, handle)
    raise Unclear("needs a url, or a platform and a handle")


def _facts(values: Mapping[str, str]) -> Iterator[tuple[str, str | bool | int | None]]:
    for field in ("org_name", "owner_team", "account_type"):
        if field in values:
            yield field, values[field]
    for field, column in (("is_core", "is_core_account"), ("is_active", "is_active")):
        if field in values:
            said = _YES_NO.get(values[field].lower())
            if said is None:
                raise Unclear(f"{field} must be yes or no, not {values[field]!r}")
            yield column, said
    if "read_interval" in values:
        yield "read_interval_s", _interval_s(values["read_interval"])


def _interval_s(text: str) -> int | None:
    """Read an account's own interval; `default` takes it back."""
    if text.lower() == "default":
        return None
    try:
        return parse_interval(text)
    except ValueError as exc:
        raise Unclear(f"read_interval: {exc}, or default") from exc


def _standing(conn: Connection, rows: Sequence[_Wanted]) -> list[db.Known | None]:
    """Return the account that each row means, as it stands in the list now."""
    keys = db.find_each(conn, [row.named for row in rows])
    known = db.known(conn, [key for key in keys if key is not None])
    return [None if key is None else known[key] for key in keys]


def _steps(rows: Sequence[_Wanted], standing: Sequence[db.Known | None]) -> list[_Step]:
    """Decide what to do for each row. The first row of an account speaks; later ones are duplicates."""
    first_row: dict[object, int] = {}
    steps = []
    for row, known in zip(rows, standing, strict=True):
        identities = _identities(row.named, known)
        same_as = next((first_row[identity] for identity in identities if identity in first_row), None)
        for identity in identities:
            first_row.setdefault(identity, row.row)
        if same_as is not None:
            steps.append(_Step(row.verdict("duplicate", f"the same account as row {same_as}")))
        elif known is None:
            steps.append(_Step(row.verdict("imported"), add=row))
        else:
            steps.append(_compare(row, known))
    return steps


def _identities(named: Named, known: db.Known | None) -> list[tuple[str | int | None, ...]]:
    """Return everything that makes two rows mean the same account."""
    identities: list[tuple[str | int | None, ...]] = [("name", named.platform, named.host, named.handle.lower())]
    if named.external_id:
        identities.append(("id", named.platform, named.host, named.external_id))
    if known:
        identities.append(("key", known.account_key))
    return identities


def _compare(row: _Wanted, known: db.Known) -> _Step:
    """Say what a row changes in an account that stands in the list."""
    changes = _changes(known.facts, row.facts)
    word: Word = "updated" if changes else "unchanged"
    moved_on = row.named.name.lower() != known.name.lower()
    reason = f"{row.named.name} is called {known.name} now" if moved_on else None
    verdict = Verdict(row=row.row, verdict=word, account=known.name, reason=reason, changes=changes)
    after = structs.replace(known, facts=structs.replace(known.facts, **row.facts))
    return _Step(verdict, change=after if changes else None)


def _changes(facts: db.Facts, said: Mapping[str, Any]) -> dict[str, Change]:
    return {
        field: Change(getattr(facts, field), value) for field, value in said.items() if getattr(facts, field) != value
    }


def _commit(conn: Connection, steps: Sequence[_Step], registered: Platforms, now: datetime) -> list[Verdict]:
    """Write what was decided; return new verdicts for rows whose account came in from elsewhere at this moment."""
    new = [step.add for step in steps if step.add]
    changed = {step.change.account_key: step.change.facts for step in steps if step.change}
    db.change(conn, changed, now=now)
    added = db.add(conn, [_new(row, registered[row.named.platform]) for row in new], now=now)
    reason = "its name or id was taken at this moment: import the row again"
    return [row.verdict("rejected", reason) for row in new if row.named.name not in added]


def _new(row: _Wanted, platform: Platform) -> db.New:
    named = row.named
    return db.New(
        sought=named,
        url=named.url,
        facts=structs.replace(db.Facts(), **row.facts),
        kind=platforms.first_kind(platform, named.external_id),
        reason=None if platform.calls else NO_READER,
    )


def _tags(steps: Sequence[_Step]) -> frozenset[str]:
    """Return the cache tags of what changed. No answer can show an account that is new under its own tag yet."""
    if not any(step.add or step.change for step in steps):
        return frozenset()
    names = {tags.NAMES} if any(step.add for step in steps) else set()
    return tags.of_facts(step.change.account_key for step in steps if step.change) | names
