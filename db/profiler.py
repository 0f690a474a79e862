"""What statements cost, counted by fingerprint: their text without the values. No value is kept, sent or logged."""

import hashlib
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import psycopg2
import psycopg2.errors
import psycopg2.extensions
import structlog
from msgspec import Struct
from sqlalchemy import Engine, event

from db import prepared

log = structlog.get_logger()

# Texts told apart; what comes after them is counted together.
MOST_STATEMENTS = 500
OTHERS = "(all further statements)"
# So many executions are noted before they are counted.
MOST_NOTED = 64
# So often in one request or job, and it should have been one statement for all.
REPEATED = 10
# A table with fewer rows is read as fast without an index, and so is one of which more than this part is wanted.
MANY_ROWS = 10_000
_FEW = 0.1
_EXPLAINED_FOR_S = 600.0
# Times are counted in classes, each so much longer than the one before: a percentile is right to 5 percent.
_STEP = math.log(1.1)

T = TypeVar("T")


class Example(Struct, frozen=True):
    """One execution; `where` is the request or job it was part of, `rows` None if it didn't end."""

    took_ms: float
    rows: int | None
    where: str | None
    at: datetime


class Repetition(Struct, frozen=True):
    """How often one request or job sent the same statement."""

    where: str
    times: int


class Advice(Struct, frozen=True):
    """An index that is missing: `rows` are read from end to end, to keep about `kept` of them by these columns."""

    table: str
    columns: tuple[str, ...]
    rows: int
    kept: int


class Tally(Struct):
    """What one statement has cost one process. `classes` counts executions by the class of their time."""

    count: int = 0
    failed: int = 0
    slow: int = 0
    total_ms: float = 0.0
    rows: int | None = None
    classes: dict[int, int] = {}
    slowest: Example | None = None
    repetition: Repetition | None = None
    advice: Advice | None = None


class Report(Struct, frozen=True):
    """What one process has counted `since`, by the statements' texts."""

    since: datetime
    tallies: dict[str, Tally]


class Figures(Struct, frozen=True, kw_only=True):
    """A statement's cost in all processes. `rows` counts what was returned or changed; None where nobody said."""

    fingerprint: str
    statement: str
    count: int
    failed: int
    slow: int
    total_ms: float
    mean_ms: float
    p95_ms: float
    rows: int | None
    slowest: Example | None
    repetition: Repetition | None
    advice: Advice | None


class _Scope(Struct):
    where: str
    times: dict[str, int] = {}


_scope: ContextVar[_Scope | None] = ContextVar("scope", default=None)


@contextmanager
def scope(where: str) -> Iterator[None]:
    """Count what the block sends as that of one request or job; `where` names its kind, such as a route."""
    token = _scope.set(_Scope(where))
    try:
        yield
    finally:
        _scope.reset(token)


def scoped(where: str, work: Callable[..., T]) -> Callable[..., T]:
    """Return `work` with a scope around it, whichever thread it runs in."""

    def within(*args: Any) -> T:
        with scope(where):
            return work(*args)

    return within


# One that has ended: its text, when it began and ended (perf_counter), its rows or -1, whether it failed, and its scope.
_Execution = tuple[str, float, float, int, bool, _Scope | None]


class Profile:
    """Counts what engines send. Statements that take `slow_ms` or more are logged, and slow reads explained.

    An execution is only noted where it happens, in as few steps as can be, and counted later with many others: between
    two statements the rest of a request drives what counts out of the processor's caches, and counting each at once
    takes five times as long.
    """

    def __init__(self, *, slow_ms: float) -> None:
        self.slow_ms = slow_ms
        self._since = datetime.now(UTC)
        self.noted: deque[_Execution] = deque()
        self._tallies: dict[str, Tally] = {}
        self._known: dict[str, tuple[str, Tally]] = {}
        self._explained_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def watch(self, engine: Engine) -> None:
        """Count every statement of this engine, which has not connected yet."""
        noting = _noting(self)

        def set_cursor(connection: Any, _: object) -> None:
            connection.cursor_factory = noting

        event.listen(engine, "connect", set_cursor)

    def report(self) -> Report:
        """Return what was counted so far; it doesn't change any more."""
        self._count()
        with self._lock:
            copied = {
                text: msgspec.structs.replace(tally, classes=dict(tally.classes))
                for text, tally in self._tallies.items()
            }
        return Report(self._since, copied)

    def look_into(self, cursor: Any, sql: str, parameters: Any, took_ms: float, error: psycopg2.Error | None) -> None:
        """Count what is noted; explain this execution, the last one, if it was slow or took longer than it may."""
        self._count()
        if isinstance(error, psycopg2.errors.QueryCanceled) or (error is None and took_ms >= self.slow_ms):
            self._advise(cursor.connection, sql, parameters)

    def _count(self) -> None:
        """Count what is noted, and log what people should know of it."""
        news: list[tuple[str, str, dict[str, Any]]] = []
        with self._lock:
            while self.noted:
                sql, began, ended, rows, failed, within = self.noted.popleft()
                text, tally = self._known.get(sql) or self._learn(sql)
                took_ms = (ended - began) * 1000
                tally.count += 1
                tally.failed += failed
                tally.total_ms += took_ms
                if rows >= 0:
                    tally.rows = rows + (tally.rows or 0)
                timed = _class(took_ms)
                tally.classes[timed] = tally.classes.get(timed, 0) + 1
                if tally.slowest is None or took_ms > tally.slowest.took_ms:
                    tally.slowest = _example(took_ms, ended, rows, within)
                if within is not None and _repeat(within, text, tally):
                    news.append(("statement_repeated", text, {"where": within.where}))
                if took_ms >= self.slow_ms:
                    tally.slow += 1
                    said = {"took_ms": round(took_ms, 1), "rows": None if rows < 0 else rows, "failed": failed}
                    news.append(("statement_slow", text, {"where": within and within.where, **said}))
        for what, text, said in news:
            log.warning(what, fingerprint=fingerprint(text), statement=text, **said)

    def _learn(self, sql: str) -> tuple[str, Tally]:
        """Return the text of a statement that comes for the first time, and what it is counted in."""
        text = without_values(sql)
        if text not in self._tallies and len(self._tallies) >= MOST_STATEMENTS:
            text = OTHERS
        if len(self._known) >= 4 * MOST_STATEMENTS:  # one text is written in many ways: lists of every length
            self._known.clear()
        self._known[sql] = text, self._tallies.setdefault(text, Tally())
        return self._known[sql]

    def _advise(self, connection: Any, sql: str, parameters: Any) -> None:
        """Look into the plan of a slow read now and then. Not within a transaction, which a failure would end."""
        now = time.monotonic()
        with self._lock:
            text, tally = self._known.get(sql) or self._learn(sql)
        if text == OTHERS or not sql.startswith("SELECT") or not connection.autocommit:
            return
        if now < self._explained_at.get(text, -_EXPLAINED_FOR_S) + _EXPLAINED_FOR_S:
            return
        self._explained_at[text] = now
        try:
            with connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:  # one that doesn't count
                advice = _advice(cursor, sql, parameters)
        except psycopg2.Error:
            return
        with self._lock:
            tally.advice = advice


def figures(reports: Iterable[Report]) -> list[Figures]:
    """Add up what processes have counted; the statement that took most time of all comes first."""
    tallies: dict[str, list[Tally]] = {}
    for report in reports:
        for text, tally in report.tallies.items():
            tallies.setdefault(text, []).append(tally)
    found = [_figures(text, same) for text, same in tallies.items()]
    return sorted(found, key=lambda one: -one.total_ms)


def fingerprint(text: str) -> str:
    """Return a short name of a statement's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


_STRING = re.compile(r"'(?:[^']|'')*'")
_VALUE = re.compile(rf"{_STRING.pattern}|%\(\w+\)s|%s|(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
_LIST = re.compile(r"\(\?(?:, \?)+\)|(?<=IN )\(\?\)")
_LISTS = re.compile(r"\(\?, …\)(?:, \(\?, …\))+")


def without_values(sql: str) -> str:
    """Return a statement with `?` for each value and `(?, …)` for a list of any length, on one line."""
    text = _VALUE.sub("?", " ".join(sql.split()))
    return _LISTS.sub("(?, …), …", _LIST.sub("(?, …)", text))


def _noting(profile: Profile) -> type[Any]:
    """Return a class of cursors that note what they send: a tenth of what SQLAlchemy's events for it would cost."""
    plain = prepared.Cursor
    noted, slow_s, clock, within = profile.noted, profile.slow_ms / 1000, time.perf_counter, _scope.get

    def noting(run: Callable[..., None]) -> Callable[..., None]:
        def execute(cursor: Any, sql: str, parameters: Any = None) -> None:
            began = clock()
            try:
                run(cursor, sql, parameters)
            except psycopg2.Error as error:
                ended = clock()
                noted.append((sql, began, ended, -1, True, within()))
                profile.look_into(cursor, sql, parameters, (ended - began) * 1000, error)
                raise
            ended = clock()
            noted.append((sql, began, ended, cursor.rowcount, False, within()))
            if ended - began >= slow_s or len(noted) >= MOST_NOTED:
                profile.look_into(cursor, sql, parameters, (ended - began) * 1000, None)

        return execute

    return type("Noting", (plain,), {"execute": noting(plain.execute), "executemany": noting(plain.executemany)})


def _example(took_ms: float, ended: float, rows: int, within: _Scope | None) -> Example:
    at = datetime.now(UTC) - timedelta(seconds=time.perf_counter() - ended)
    return Example(took_ms, None if rows < 0 else rows, within.where if within else None, at)


def _class(took_ms: float) -> int:
    return math.floor(math.log(max(took_ms, 1e-3)) / _STEP)


def _repeat(within: _Scope, text: str, tally: Tally) -> bool:
    """Count a statement within its scope; tell whether its being repeated is new."""
    times = within.times[text] = within.times.get(text, 0) + 1
    if times <= REPEATED or (tally.repetition and times <= tally.repetition.times):
        return False
    is_new = tally.repetition is None
    tally.repetition = Repetition(within.where, times)
    return is_new


def _figures(text: str, tallies: list[Tally]) -> Figures:
    count = sum(tally.count for tally in tallies)
    total_ms = sum(tally.total_ms for tally in tallies)
    rows = [tally.rows for tally in tallies if tally.rows is not None]
    slowest = [tally.slowest for tally in tallies if tally.slowest]
    repetitions = [tally.repetition for tally in tallies if tally.repetition]
    return Figures(
        fingerprint=fingerprint(text),
        statement=text,
        count=count,
        failed=sum(tally.failed for tally in tallies),
        slow=sum(tally.slow for tally in tallies),
        total_ms=round(total_ms, 3),
        mean_ms=round(total_ms / count, 3),
        p95_ms=round(_p95_ms([tally.classes for tally in tallies], count), 3),
        rows=sum(rows) if rows else None,
        slowest=max(slowest, key=lambda example: example.took_ms, default=None),
        repetition=max(repetitions, key=lambda one: one.times, default=None),
        advice=next((tally.advice for tally in tallies if tally.advice), None),
    )


def _p95_ms(classes: Iterable[Mapping[int, int]], count: int) -> float:
    """Return the middle of the class in which the 95th of 100 executions lies."""
    merged: dict[int, int] = {}
    for some in classes:
        for timed, number in some.items():
            merged[timed] = merged.get(timed, 0) + number
    left = math.ceil(count * 0.95)
    for timed in sorted(merged):
        left -= merged[timed]
        if left <= 0:
            break
    return math.exp((timed + 0.5) * _STEP)


# Of a partition, its whole table.
_TABLE = """
    SELECT coalesce(pg_partition_root(oid), oid)::regclass::text, reltuples,
           ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 ORDER BY attnum)
    FROM pg_class WHERE oid = to_regclass(quote_ident(%s))
"""


def _advice(cursor: Any, sql: str, parameters: Any) -> Advice | None:
    """Return the index that would spare most rows, if one is missing: rows read one by one and most thrown away."""
    cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
    found = []
    for node in _nodes(cursor.fetchone()[0][0]["Plan"]):
        condition = _STRING.sub("", node.get("Filter", ""))
        # What contains a text (~~) no ordinary index finds.
        if node["Node Type"] != "Seq Scan" or not condition or "~~" in condition:
            continue
        cursor.execute(_TABLE, [node["Relation Name"]])
        table, rows, columns = cursor.fetchone()
        named = set(re.findall(r"\w+", condition))
        if rows >= MANY_ROWS and node["Plan Rows"] <= rows * _FEW:
            filtering = tuple(column for column in columns if column in named)
            found.append(Advice(table, filtering, round(rows), node["Plan Rows"]))
    return max(found, key=lambda advice: advice.rows, default=None)


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
