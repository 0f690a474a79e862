"""A billion snapshots as PostgreSQL's planner sees them: partitions of days that nobody has, with files and statistics as if.

A small database with real rows says how large tables are and what stands in their columns. A second one gets the same
tables and partitions, without rows: its files are stretched by a factor (as holes, which take no disk), and the
statistics are written as ANALYZE would have found them (`pg_restore_relation_stats`, PostgreSQL 18). What the API sends
when it is asked of the first is then planned in the second.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
from msgspec import Struct
from sqlalchemy import text

from db import migrate, partitions
from db.engine import Engine, make_engine, reading, transaction
from db.totals import CARRIED_DAYS
from pipeline.report import facts
from pipeline.weeks import last_whole
from tests.browser.site import add_up
from tests.performance.counting import nodes, sent
from tests.performance.machine import Machine
from tests.performance.report import Chapter, Line
from tests.performance.snapshots import load
from tests.serving import InProcess, in_process

ACCOUNTS = 1_000_000
_FACTS = "fact_followers_snapshot"
_BLOCK = 8_192
_SEGMENT = 1 << 30
# As db.engine has it.
_AS_OURS = "-c timezone=UTC -c random_page_cost=1.1"


class Size(Struct, frozen=True):
    """So many accounts with so many days really are there; a million accounts with as many days are made of them."""

    accounts: int = 1_000
    days: int = 1_000

    @property
    def factor(self) -> int:
        return ACCOUNTS // self.accounts


QUICK = Size(accounts=200, days=130)


class Asked(Struct, frozen=True):
    """What is asked, and the spans of days that its answer needs; none where it is made of what is kept beside the days.

    Of a `page` it isn't known beforehand how many days fill it: they are gone through in their order until it is full,
    so that its plan names all that may follow. What is asked of `all` accounts needs every row of its days.
    """

    name: str
    ask: Callable[[InProcess], object]
    spans: Sequence[tuple[date, date]] = ()
    is_page: bool = False
    is_of_all: bool = False

    @property
    def needs(self) -> int:
        """Return how many partitions these days lie in: one a month."""
        return len({_partition(day) for day in self._days})

    def rightly_whole(self, days: Iterable[date]) -> set[str]:
        """Return the partitions of `days` in which every row is needed, as in a month's that began today."""
        if not self.is_of_all:
            return set()
        return {_partition(day) for day in days} - {_partition(day) for day in set(days) - self._days}

    @property
    def _days(self) -> set[date]:
        return {first + timedelta(days=n) for first, last in self.spans for n in range((last - first).days + 1)}


class Plan(Struct, frozen=True):
    """What PostgreSQL would do for an answer, as far as it concerns snapshots.

    `named` partitions stand in the plan, `whole` ones would be read from end to end though some rows aren't needed;
    `read` were read where the rows really are. `rows` is what it expects to find.
    """

    asked: Asked
    named: int
    whole: int
    read: int
    rows: float


def run(one: Machine, size: Size) -> Chapter:
    """Fill the machine's database, make the large one beside it, and plan in it what the API sends."""
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=ago) for ago in range(size.days)]
    _by_month(one.engine, days)
    load(one.engine, accounts=size.accounts, days=size.days, last=today, covered_from=today)
    add_up(one.engine)
    url = _large(one, size, days)
    with (
        in_process(one.settings()) as api,
        closing(psycopg2.connect(one.postgres.url, options=_AS_OURS)) as small,
        closing(psycopg2.connect(url, options=_AS_OURS)) as large,
        small.cursor() as there,
        large.cursor() as here,
    ):
        plans = [_plan(api, asked, days, there, here) for asked in _asks(one, size, today)]
        here.execute(_SIZE)
        rows, number = here.fetchone()
    return Chapter(
        f"{rows / 1e9:.2f} billion snapshots in {number} partitions, as planned",
        [*_lines(plans)],
        "a page of the grid is joined with its snapshots: it reads all days of its accounts, in 33 partitions",
    )


def _by_month(engine: Engine, days: Sequence[date]) -> None:
    """Make a partition of each month, where the schema begins with years."""
    with transaction(engine) as conn:
        for known in partitions.listed(conn):
            conn.execute(text(f"DROP TABLE {known.name}"))
        partitions.cover(conn, days, months=1)


def _asks(one: Machine, size: Size, today: date) -> Iterator[Asked]:
    with reading(one.engine) as conn:
        handle = conn.scalar(text("SELECT handle FROM dim_account WHERE platform = 'x' ORDER BY account_key LIMIT 1"))
    settings, week = one.settings(), last_whole(datetime.now(UTC))

    def get(path: str) -> Callable[[InProcess], object]:
        return lambda api: _got(api, path)

    def since(ago: int) -> tuple[date, date]:
        return (today - timedelta(days=ago), today)

    def counting(day: date) -> tuple[date, date]:
        """Return the days whose numbers may count on a day."""
        return (day - timedelta(days=CARRIED_DAYS), day)

    year = since(min(365, size.days - 30))
    between, day = f"from={year[0]}&to={today}", timedelta(days=1)
    yield Asked("a page of the summary", get("/api/summary"))
    yield Asked("a page by followers", get("/api/summary?sort=-followers"))
    yield Asked("who moved most", get("/api/movers"))
    yield Asked("overview", get("/"))
    yield Asked("a month of an account", get(f"/api/history/x/{handle}?from={since(29)[0]}"), [since(29)])
    yield Asked("a year of an account", get(f"/api/history/x/{handle}?{between}"), [year])
    yield Asked("an account's page", get(f"/accounts/x/{handle}"), [since(89)])
    # A day that is under way may fill no page, and a change is one to the day before.
    yield Asked("the grid's first page", get("/api/grid"), [since(2)], is_page=True)
    yield Asked(
        "the grid's page of a year ago", get(f"/api/grid?to={year[0]}"), [(year[0] - day, year[0])], is_page=True
    )
    yield Asked("the grid as people see it", get("/grid"), [since(30)])
    yield Asked(
        "totals, and their change in a year",
        get(f"/api/totals?{between}"),
        [counting(year[0]), counting(today)],
        is_of_all=True,
    )
    # Of the days that are over the totals are kept.
    yield Asked(
        "a year's totals, day by day",
        get(f"/api/totals?group=day&{between}"),
        [counting(year[0]), counting(today - day), counting(today)],
        is_of_all=True,
    )
    yield Asked(
        "a weekly report",
        lambda api: facts.gather(settings, api.engine, None, week, datetime.now(UTC)),
        [counting(week.before), counting(week.last)],
        is_of_all=True,
    )


def _got(api: InProcess, path: str) -> None:
    answer = api.get(path)
    assert answer.status_code == 200, (path, answer.text)


def _plan(api: InProcess, asked: Asked, days: Sequence[date], there: Any, here: Any) -> Plan:
    with sent(api.engine) as statements:
        asked.ask(api)
    named, whole, read, rows = set[str](), set[str](), set[str](), 0.0
    for sql, values in statements:
        if _FACTS not in sql:
            continue
        here.execute(f"EXPLAIN (FORMAT JSON) {sql}", values)
        plan = here.fetchone()[0][0]["Plan"]
        looks = [node for node in nodes(plan) if _is_of_days(node)]
        rows += plan["Plan Rows"]
        named |= {node["Relation Name"] for node in looks}
        whole |= {node["Relation Name"] for node in looks if node["Node Type"] == "Seq Scan"}
        there.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values)
        done = nodes(there.fetchone()[0][0]["Plan"])
        read |= {node["Relation Name"] for node in done if _is_of_days(node) and node["Actual Loops"]}
    here.execute(_EMPTY)
    empty = {name for (name,) in here.fetchall()}
    needless = whole - empty - asked.rightly_whole(days)
    return Plan(asked, len(named - empty), len(needless), len(read - empty), rows)


def _partition(day: date) -> str:
    return partitions.name_of(day.replace(day=1))


def _is_of_days(node: Mapping[str, Any]) -> bool:
    return str(node.get("Relation Name", "")).startswith(_FACTS)


def _large(one: Machine, size: Size, days: Sequence[date]) -> str:
    """Make a second database with the tables of the first, empty, and let it look as if a million accounts were in it."""
    small = one.postgres.url
    url = small.replace("/rollcall?", "/billion?")
    with closing(psycopg2.connect(small)) as known:
        known.autocommit = True
        with known.cursor() as cursor:
            cursor.execute("CREATE DATABASE billion TEMPLATE template0")
            cursor.execute("VACUUM (ANALYZE)")
            cursor.execute(_RELATIONS)
            relations = cursor.fetchall()
            cursor.execute(_COLUMNS)
            names = [column.name for column in cursor.description]
            columns = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    ours = url.replace("postgresql://", "postgresql+psycopg2://", 1)
    migrate.upgrade(ours)
    engine = make_engine(ours, application_name="benchmark")
    _by_month(engine, days)
    engine.dispose()
    scaled = {name for name, *_, grows in relations if grows}
    with closing(psycopg2.connect(url)) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            for name, pages, rows, visible, grows in relations:
                factor = size.factor if grows else 1
                cursor.execute("SELECT pg_relation_filepath(%s)", [name])
                (file,) = cursor.fetchone()
                if file is not None:  # a partitioned table has none
                    _stretch(one.folder / "postgres" / file, pages * factor * _BLOCK)
                _restore(
                    cursor,
                    "relation",
                    {
                        "relname": name,
                        "relpages": pages * factor,
                        "reltuples": rows * factor,
                        "relallvisible": visible * factor,
                    },
                )
            for column in columns:
                _restore(cursor, "attribute", _grown(column, size) if column["relname"] in scaled else column)
    return url


# Those of an account are as many times larger as there are more accounts; the others are as they are.
_RELATIONS = """
    SELECT known.relname, known.relpages, known.reltuples, known.relallvisible, EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = coalesce(indrelid, known.oid) AND attname = 'account_key' AND NOT attisdropped
    )
    FROM pg_class AS known LEFT JOIN pg_index ON indexrelid = known.oid
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i', 'p') AND reltuples >= 0
"""
_COLUMNS = """
    SELECT tablename AS relname, attname, inherited, null_frac, avg_width, n_distinct, most_common_vals::text,
        most_common_freqs, histogram_bounds::text, correlation
    FROM pg_stats WHERE schemaname = 'public'
"""
_SIZE = f"""
    SELECT reltuples, (SELECT count(*) FROM pg_inherits WHERE inhparent = pg_class.oid)
    FROM pg_class WHERE relname = '{_FACTS}'
"""
# Made ahead, or for what no other holds.
_EMPTY = f"SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = oid WHERE inhparent = '{_FACTS}'::regclass AND relpages = 0"
# Others are texts.
_TYPES = {
    "inherited": "boolean",
    "relpages": "integer",
    "reltuples": "real",
    "relallvisible": "integer",
    "null_frac": "real",
    "avg_width": "integer",
    "n_distinct": "real",
    "most_common_freqs": "real[]",
    "correlation": "real",
}


def _grown(column: Mapping[str, Any], size: Size) -> Mapping[str, Any]:
    """Return a column's statistics as they would be with a million accounts: only the account itself is another."""
    if column["attname"] != "account_key":
        return column
    distinct = column["n_distinct"] * (size.factor if column["n_distinct"] > 0 else 1)
    bounds = [1 + number * (ACCOUNTS - 1) // 100 for number in range(101)]
    rare = {"most_common_vals": None, "most_common_freqs": None}
    return {**column, **rare, "n_distinct": distinct, "histogram_bounds": f"{{{','.join(map(str, bounds))}}}"}


def _restore(cursor: Any, what: str, values: Mapping[str, Any]) -> None:
    given = {"schemaname": "public", **{name: value for name, value in values.items() if value is not None}}
    pairs = ", ".join(f"'{name}', CAST(%({name})s AS {_TYPES.get(name, 'text')})" for name in given)
    cursor.execute(f"SELECT pg_restore_{what}_stats({pairs})", given)
    assert cursor.fetchone() == (True,), f"PostgreSQL takes no statistics of {values}"


def _stretch(file: Path, size_bytes: int) -> None:
    """Let a table's file be as long as if it were full: what is added is a hole, which takes no disk."""
    owner = file.stat()
    if size_bytes <= owner.st_size:
        return
    for number in range(-(-size_bytes // _SEGMENT)):
        part = file if number == 0 else file.with_name(f"{file.name}.{number}")
        part.touch(mode=0o600)
        os.truncate(part, min(_SEGMENT, size_bytes - number * _SEGMENT))
        if number:
            os.chown(part, owner.st_uid, owner.st_gid)


def _lines(plans: Sequence[Plan]) -> Iterator[Line]:
    yield Line("partitions that any of these would read from end to end", sum(one.whole for one in plans), at_most=0)
    for one in plans:
        expected = f", {one.rows:,.0f} rows expected" if one.rows else ""
        most = one.read if one.asked.is_page else max(one.named, one.read)
        yield Line(f"{one.asked.name}{expected}", most, "partitions", at_most=one.asked.needs)
