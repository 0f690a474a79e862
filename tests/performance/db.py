"""Years of history: what the reads cost as it grows, and what bulk writes and exports cost beside the bare minimum.

Ten thousand accounts with 36, 365 and 1,095 days, each in a database of its own, the largest also as a plain table. What
is compared is called in turn, in a new order each round; a line is the median of the rounds' ratios.
"""

import io
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
from msgspec import Struct
from sqlalchemy import event, text

from db import bulk, exports, grid, migrate, reads
from db.bulk import Snapshot
from db.engine import Connection, Engine, make_engine, reading, transaction
from db.exports import ExportedDay, Wanted
from db.keyset import After, Order, Window
from db.reads import SORTABLE, Clock, Filters
from db.standing import StaleAfter
from deploy import embedded
from pipeline import formats, platforms
from tests.performance import counted
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds
from tests.performance.snapshots import copy_to_plain, load

ROUNDS = Rounds(15, 40)
WRITES = Rounds(8, 16)
EXPORTS = Rounds(3, 6)
# Of what takes half a second a time.
COUNTS = Rounds(5, 10)
PAGE = 50
LAST = date(2026, 6, 30)
YEAR = timedelta(days=365)
CLOCK = Clock(datetime(2026, 6, 30, 18, tzinfo=UTC), StaleAfter(interval_s=86_400, after_s=93_600))
# What a machine of this size would be given: the rows and their indexes fit into memory.
SERVER = {"shared_buffers": "1GB", "max_wal_size": "8GB", "maintenance_work_mem": "512MB", "autovacuum": "off"}


# Of a call, per round, by what was called.
Seconds = Mapping[str, Sequence[float]]


class Size(Struct, frozen=True):
    """How many accounts, and for each of the databases how many days, smallest first."""

    accounts: int = 10_000
    days: Sequence[int] = (36, 365, 1_095)


QUICK = Size(1_000, (36, 90, 365))


class Store:
    """One database with its history, asked by Rollcall's reads and by psycopg2 alone."""

    def __init__(self, engine: Engine, conn: Connection, cursor: Any, *, accounts: int, days: int) -> None:
        self.engine = engine
        self.conn = conn
        self.cursor = cursor
        self.accounts = accounts
        self.rows = accounts * days

    def sent(self, read: Callable[[Connection], object]) -> tuple[str, Any]:
        """Return the last statement that a read sends, as psycopg2 gets it."""
        found: list[tuple[str, Any]] = []

        def note(_conn: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
            found.append((sql, values))

        event.listen(self.engine, "before_cursor_execute", note)
        read(self.conn)
        event.remove(self.engine, "before_cursor_execute", note)
        return found[-1]

    def raw(self, sql: str, values: Any) -> Callable[[], object]:
        """Return what asks psycopg2 alone and fetches all rows."""

        def ask() -> object:
            self.cursor.execute(sql, values)
            return self.cursor.fetchall()

        return ask


def run(*, quick: bool = False) -> Iterator[Chapter]:
    """Load, measure, and yield each chapter as it is found."""
    size = QUICK if quick else Size()
    with _server() as url, ExitStack() as open_:
        stores = {days: _store(open_, url, size, days) for days in size.days}
        largest = stores[size.days[-1]]
        copy_to_plain(largest.engine)
        yield _summaries(stores)
        yield _grid(stores)
        yield _history(largest)
        yield _export(stores[size.days[0]])
        yield counted.measure(largest.engine.url.render_as_string(hide_password=False), _requests(largest))
        yield _writes(largest)


@contextmanager
def _server() -> Iterator[str]:
    # Not below a folder of root's alone: PostgreSQL runs as another user then.
    folder = Path(tempfile.mkdtemp(prefix="rollcall-bench-"))
    try:
        postgres = embedded.start_postgres(folder / "postgres", SERVER)
        try:
            yield postgres.url
        finally:
            postgres.stop()
    finally:
        shutil.rmtree(folder)


def _store(open_: ExitStack, server: str, size: Size, days: int) -> Store:
    name = f"days_{days}"
    raw = psycopg2.connect(server)
    raw.autocommit = True
    with raw.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    raw.close()
    url = server.replace("/rollcall?", f"/{name}?")
    ours = url.replace("postgresql://", "postgresql+psycopg2://", 1)
    migrate.upgrade(ours)
    engine = make_engine(ours, application_name="benchmark")
    open_.callback(engine.dispose)
    # All have the same partitions, so that nothing differs but the rows.
    oldest = LAST - timedelta(days=size.days[-1] - 1)
    load(engine, accounts=size.accounts, days=days, last=LAST, covered_from=oldest)
    alone = psycopg2.connect(url, options="-c timezone=UTC -c random_page_cost=1.1")
    alone.autocommit = True
    open_.callback(alone.close)
    return Store(engine, open_.enter_context(reading(engine)), alone.cursor(), accounts=size.accounts, days=days)


def _summaries(stores: Mapping[int, Store]) -> Chapter:
    """Compare the newest numbers as they are kept with those looked up, and a page with the driver alone."""
    largest = stores[max(stores)]
    everybody = {days: store.raw(*store.sent(_summary(store.accounts))) for days, store in stores.items()}
    sql, values = largest.sent(_summary(largest.accounts))
    with transaction(largest.engine) as conn:
        conn.execute(text(_LATERAL))
    lateral = largest.raw(sql.replace("account_latest", "looked_up"), values)
    assert len(everybody[max(stores)]()) == len(lateral()), "both forms say the same"  # type: ignore[arg-type]
    page, bare = _summary(PAGE), largest.raw(*largest.sent(_summary(PAGE)))

    def ratios(found: Seconds) -> list[Line]:
        kept, smallest = found[str(max(stores))], found[str(min(stores))]
        return [
            _ratio("kept newest numbers / LATERAL", kept, found["lateral"], at_most=0.15),
            *(
                _ratio(f"{_rows(store)} / the smallest", found[str(days)], smallest, at_least=0.85, at_most=1.15)
                for days, store in stores.items()
                if days > min(stores)
            ),
        ]

    def alone(found: Seconds) -> list[Line]:
        return [_ratio(f"a page of {PAGE} / psycopg2 alone", found["page"], found["bare"], at_most=1.3)]

    found = _timed({"lateral": lateral, **{str(days): ask for days, ask in everybody.items()}}, ratios)
    pages = _timed({"page": lambda: page(largest.conn), "bare": bare}, alone, calls=20)
    return Chapter(
        "Newest numbers",
        [
            *(_ms(f"summary of all accounts, {_rows(store)}", found[str(days)]) for days, store in stores.items()),
            _ms("the same, each account's newest looked up (LATERAL)", found["lateral"]),
            *ratios(found),
            _ms(f"a page of {PAGE}", pages["page"]),
            *alone(pages),
        ],
        fails_when="each page's statement is put together anew: 2.4 times psycopg2 alone",
    )


_LATERAL = """
    CREATE VIEW looked_up AS
    SELECT dim_account.account_key, newest.snapshot_date, newest.captured_at, newest.followers, newest.following,
        newest.posts, newest.engagement, newest.source, newest.precision, CAST(NULL AS timestamptz) AS held_at,
        newest.followers - day.followers AS delta_1d, newest.followers - week.followers AS delta_7d,
        newest.followers - month.followers AS delta_30d
    FROM dim_account
    CROSS JOIN LATERAL (
        SELECT * FROM fact_followers_snapshot AS fact WHERE fact.account_key = dim_account.account_key
        ORDER BY snapshot_date DESC LIMIT 1
    ) AS newest
""" + "".join(
    f"""
    LEFT JOIN LATERAL (
        SELECT followers FROM fact_followers_snapshot AS fact
        WHERE fact.account_key = dim_account.account_key AND fact.snapshot_date = newest.snapshot_date - {days}
    ) AS {name} ON true"""
    for name, days in (("day", 1), ("week", 7), ("month", 30))
)


def _summary(limit: int) -> Callable[[Connection], object]:
    return lambda conn: reads.summary(conn, Filters(), Order(), Window(limit=limit), CLOCK)


def _grid(stores: Mapping[int, Store]) -> Chapter:
    """Compare pages of the grid by the history's length and by their depth, and its length with counting."""
    largest = stores[max(stores)]
    middle_of = {days: After(LAST - timedelta(days=days // 2), largest.accounts // 2) for days in stores}

    def keyset(days: int) -> Callable[[], object]:
        return lambda: _cells(stores[days].conn, Window(limit=PAGE, after=middle_of[days]))

    def at(offset: int) -> Callable[[], object]:
        return lambda: _cells(largest.conn, Window(limit=PAGE, offset=offset))

    def totals() -> object:
        return [grid.total(largest.conn, grid.Filters()) for _ in range(100)]

    def ratios(found: Seconds) -> list[Line]:
        smallest = found[str(min(stores))]
        return [
            *(
                _ratio(f"{_rows(store)} / the smallest", found[str(days)], smallest, at_most=1.15)
                for days, store in stores.items()
                if days > min(stores)
            ),
            _ratio("the deepest page / the first", found["deepest"], found["first"], at_most=2),
        ]

    def of_counting(found: Seconds) -> list[Line]:
        return [
            _ratio("kept counts / count(*)", [s / 100 for s in found["100 totals"]], found["count"], at_most=0.001)
        ]

    last = largest.rows - PAGE
    pages = {**{str(days): keyset(days) for days in stores}, "first": at(0), "deepest": at(last)}
    found = _timed(pages, ratios, calls=20)
    count = largest.raw("SELECT count(*) FROM fact_followers_snapshot", None)
    counts = _timed({"100 totals": totals, "count": count}, of_counting, rounds=COUNTS)
    assert grid.total(largest.conn, grid.Filters()) == largest.rows
    return Chapter(
        "The grid",
        [
            *(_ms(f"a page behind a row, {_rows(store)}", found[str(days)]) for days, store in stores.items()),
            _ms("the first page by its number", found["first"]),
            *ratios(found),
            _ms("how many rows there are", [s / 100 for s in counts["100 totals"]]),
            *of_counting(counts),
        ],
        fails_when="the index of the snapshots by day is left out: the deepest page took 5.7 times as long as the first",
    )


def _cells(conn: Connection, window: Window) -> object:
    return grid.part(conn, grid.Cell.__struct_fields__, grid.Filters(), grid.NEWEST_FIRST, window)


def _history(store: Store) -> Chapter:
    """Compare a year of one account out of partitions with the same out of one plain table."""
    keys = random.sample(range(1, store.accounts + 1), 20)

    def year(table: str) -> Callable[[], object]:
        asked = [store.sent(lambda conn, key=key: reads.days(conn, key, LAST - YEAR, LAST)) for key in keys]
        each = [store.raw(sql.replace("fact_followers_snapshot", table), values) for sql, values in asked]
        return lambda: [ask() for ask in each]

    def ratios(found: Seconds) -> list[Line]:
        return [_ratio("out of partitions / a plain table", found["partitioned"], found["plain"], at_most=1.35)]

    found = _timed({"partitioned": year("fact_followers_snapshot"), "plain": year("plain")}, ratios)
    return Chapter(
        "A year of one account",
        [
            _ms("out of partitions", [seconds / len(keys) for seconds in found["partitioned"]]),
            *ratios(found),
        ],
        fails_when="partitions are a month wide: 1.6 times a plain table",
    )


def _export(store: Store) -> Chapter:
    """Compare the time to an export's first bytes with the time to its last."""
    columns = formats.columns_of(ExportedDay)
    shares, wholes = list[float](), list[float]()

    def share() -> list[Line]:
        return [middle("first bytes / whole", shares, "", at_most=0.05)]

    for number in EXPORTS.until_steady(share):
        began = time.perf_counter()
        with transaction(store.engine) as conn:
            pieces = formats.encode("csv", "history", columns, exports.history(conn, Wanted()))
            next(piece for piece in pieces if piece.count(b"\n") > 1)  # more than a heading
            first = time.perf_counter() - began
            for _ in pieces:
                pass
        whole = time.perf_counter() - began
        if number:
            wholes.append(whole)
            shares.append(first / whole)
    return Chapter(
        f"Export of {_rows(store)} as CSV",
        [
            middle("rows per second", [store.rows / whole for whole in wholes], "rows/s"),
            *share(),
        ],
        fails_when="all rows are read before the first is written: 0.49 of the whole time",
    )


def _requests(store: Store) -> list[str]:
    """Return requests in turn of three kinds, none twice: a page of the summary, one account, a year of one account."""
    known = sorted(set(platforms.load()) - {"mastodon"})  # whose accounts have a host in their names
    with reading(store.engine) as conn:
        names = [f"{one.platform}/{one.handle}" for one in conn.execute(_NAMES, {"platforms": known})]
    orders = [f"{way}{column}" for way in ("", "-") for column in SORTABLE["summary"]]
    pages = [f"/api/summary?sort={order}&page={n + 1}" for n in range(store.accounts // PAGE) for order in orders]
    accounts = [f"/api/accounts/{name}" for name in names]
    years = [f"/api/history/{name}?from={LAST - YEAR}&to={LAST}" for name in names]
    return [path for kinds in zip(pages, accounts, years, strict=False) for path in kinds]


_NAMES = text("SELECT platform, handle FROM dim_account WHERE platform = ANY(:platforms) ORDER BY account_key")


def _writes(store: Store) -> Chapter:
    """Compare a new day of all accounts, with what follows from it, with a COPY of another into the same table."""
    shares, rates = list[float](), list[float]()

    def share() -> list[Line]:
        return [middle("its rows per second / those of a plain COPY", shares, "", at_least=0.4)]

    for number in WRITES.until_steady(share):
        bare = _copied(store, _day(LAST + timedelta(days=2 * number + 1), store.accounts))
        day = _day(LAST + timedelta(days=2 * number + 2), store.accounts)
        began = time.perf_counter()
        with transaction(store.engine) as conn:
            done = bulk.upsert_snapshots(conn, day)
        took = time.perf_counter() - began
        assert done.inserted == store.accounts
        if number:
            shares.append(bare / took)
            rates.append(store.accounts / took)
    return Chapter(
        f"{store.accounts:,} new snapshots beside {_rows(store)}",
        [
            middle("upsert with newest numbers and counts", rates, "rows/s"),
            *share(),
        ],
        fails_when="accounts are looked up and days counted one by one: 0.32 of a COPY",
    )


def _day(day: date, accounts: int) -> list[Snapshot]:
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return [
        Snapshot(account_key=key, snapshot_date=day, captured_at=at, followers=key + day.toordinal())
        for key in range(1, accounts + 1)
    ]


def _copied(store: Store, snapshots: Sequence[Snapshot]) -> float:
    """Return how long COPY takes for these records, from putting them into its words to the commit, as for an upsert."""
    connection: Any = store.engine.raw_connection()
    try:
        began = time.perf_counter()
        rows = "".join(
            f"{s.account_key},{s.snapshot_date},{s.captured_at},{s.followers},live,exact\n" for s in snapshots
        )
        with connection.cursor() as cursor:
            cursor.copy_expert(_COPY, io.StringIO(rows))
        connection.commit()
        return time.perf_counter() - began
    finally:
        connection.close()


_COPY = """
    COPY fact_followers_snapshot (account_key, snapshot_date, captured_at, followers, source, precision)
    FROM STDIN (FORMAT csv)
"""


def _timed(
    asks: Mapping[str, Callable[[], object]],
    ratios: Callable[[Seconds], Sequence[Line]],
    *,
    rounds: Rounds | None = None,
    calls: int = 1,
) -> Seconds:
    """Return the seconds of a call, per round until the ratios are steady: `calls` of each at a time, in a new order."""
    names, found = list(asks), {name: list[float]() for name in asks}
    for number in (rounds or ROUNDS).until_steady(lambda: ratios(found)):
        random.shuffle(names)
        for name in names:
            began = time.perf_counter()
            for _ in range(calls):
                asks[name]()
            if number:
                found[name].append((time.perf_counter() - began) / calls)
    return found


def _ms(name: str, seconds: Sequence[float]) -> Line:
    return middle(name, [second * 1_000 for second in seconds], "ms")


def _ratio(name: str, ours: Sequence[float], theirs: Sequence[float], **bounds: float) -> Line:
    return middle(name, [mine / other for mine, other in zip(ours, theirs, strict=True)], **bounds)


def _rows(store: Store) -> str:
    return f"{store.rows / 1e6:.2f}M rows"
