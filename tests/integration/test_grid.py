"""The grid: every account and day once, day by day, at a price that doesn't grow with the depth."""

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import text

from db import bulk, derived, grid
from db.engine import Connection, Engine, reading, transaction
from db.grid import NEWEST_FIRST, Cell, Filters
from db.keyset import After, Order, Part, Window
from db.reads import Clock
from db.standing import StaleAfter
from tests.fakes import NOON
from tests.history import snapshot
from tests.jobs import listed

DAY = timedelta(days=1)
TODAY = NOON.date()


@pytest.fixture
def flock(engine: Engine) -> Engine:
    """Keep eleven accounts' numbers of thirty days over a new year, a third of them missing at random."""
    chance = Random(5)
    with transaction(engine) as conn:
        keys = listed(conn, "goose", "gander", "gosling", org_name="Geese", is_core_account=True)
        keys += listed(conn, "duck", "drake", org_name="Ducks")
        keys += listed(conn, "swan", "cob", "pen", platform="flickr", org_name="Geese")
        keys += listed(conn, "office", "town", platform="mastodon", host="pond.example")
        keys += listed(conn, "coot")
        kept = [
            snapshot(key, TODAY - back * DAY, 100 * key + back, following=back, precision=_precision(key, back))
            for key in keys
            for back in range(50, 80)
            if chance.random() > 0.3
        ]
        bulk.upsert_snapshots(conn, kept)
    return engine


def _precision(key: int, back: int) -> Any:
    return "held" if (key + back) % 13 == 0 else "exact"


_ALL = text("""
    SELECT account_key, platform, handle || CASE WHEN host <> '' THEN '@' || host ELSE '' END, org_name,
        snapshot_date, is_core_account, precision, followers, following, posts, engagement
    FROM fact_followers_snapshot JOIN dim_account USING (account_key)
    ORDER BY snapshot_date DESC, account_key
""")


def _expected(conn: Connection, filters: Filters) -> list[Cell]:
    """Return what the grid should be, said in plain Python."""
    rows = conn.execute(_ALL).all()
    believed = {(row.account_key, row.snapshot_date): row.followers for row in rows if row.precision != "held"}

    def cell(row: Any) -> Cell:
        now = believed.get((row.account_key, row.snapshot_date))
        then = believed.get((row.account_key, row.snapshot_date - DAY))
        numbers = (None,) * 4 if row.precision == "held" else row[-4:]
        return Cell(*row[:5], *numbers, None if now is None or then is None else now - then)

    return [
        cell(row)
        for row in rows
        if (filters.platform is None or row.platform == filters.platform)
        and (filters.org is None or row.org_name == filters.org)
        and (filters.core is None or row.is_core_account == filters.core)
        and (filters.text is None or filters.text in f"{row[2]} {row.org_name}".lower())
        and (filters.first is None or row.snapshot_date >= filters.first)
        and (filters.last is None or row.snapshot_date <= filters.last)
    ]


FILTERS = [
    Filters(),
    Filters(platform="x"),
    Filters(platform="flickr", first=TODAY - 70 * DAY),
    Filters(org="Geese", last=TODAY - 61 * DAY),
    Filters(org="Geese", platform="x"),
    Filters(core=True),
    Filters(core=False, first=TODAY - 65 * DAY, last=TODAY - 60 * DAY),
    Filters(text="goos"),
    Filters(text="@pond"),
    Filters(text="%"),
    Filters(platform="reddit"),
    Filters(org="Nobody"),
    Filters(first=TODAY, last=TODAY - DAY),
]


@pytest.fixture(params=["few", "many"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let accounts that pass be looked up one by one, or be met in the index of a day."""
    if request.param == "many":
        monkeypatch.setattr(grid, "_FEW", 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_pages_show_every_account_and_day_once_and_in_order(flock: Engine, filters: Filters) -> None:
    with reading(flock) as conn:
        expected = _expected(conn, filters)
        assert (len(expected) > 12) == (filters not in FILTERS[-4:])

        assert [row for page in _pages(conn, filters, limit=7) for row in page] == expected
        assert _cells(_part(conn, filters, limit=1_000)) == expected
        assert grid.total(conn, filters) == len(expected)
        for offset in {0, 1, 6, 40, max(len(expected) - 3, 0), len(expected), len(expected) + 50}:
            page = _part(conn, filters, limit=7, offset=offset)
            assert _cells(page) == expected[offset : offset + 7], offset
            assert (page.after is None) == (offset + 7 >= len(expected)), offset


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_the_oldest_day_may_come_first(flock: Engine, filters: Filters) -> None:
    oldest_first = Order("snapshot_date")
    with reading(flock) as conn:
        expected = sorted(_expected(conn, filters), key=lambda cell: (cell.snapshot_date, cell.account_key))
        assert [row for page in _pages(conn, filters, limit=7, order=oldest_first) for row in page] == expected
        for offset in {0, 1, 40, len(expected)}:
            page = _part(conn, filters, order=oldest_first, limit=7, offset=offset)
            assert _cells(page) == expected[offset : offset + 7], offset


def test_accounts_may_be_those_that_stand_in_a_way_today(flock: Engine) -> None:
    clock = Clock(NOON, StaleAfter(interval_s=86_400, after_s=93_600))
    with transaction(flock) as conn:
        whole = _expected(conn, Filters())
        conn.execute(
            text("UPDATE scrape_state SET result = 'gone' WHERE account_key % 3 = 0 AND subject = 'profile'")
        )
        filters = Filters(status="gone", clock=clock)
        expected = [cell for cell in whole if cell.account_key % 3 == 0]
        assert len(expected) > 12
        assert _cells(_part(conn, filters, limit=1_000)) == expected
        assert grid.total(conn, filters) == len(expected)
        assert grid.total(conn, Filters(status="fresh", clock=clock)) == 0


@pytest.mark.parametrize(
    "names", [("followers",), ("delta_1d", "account_key"), ("handle", "snapshot_date"), ()], ids=repr
)
def test_only_the_fields_asked_for_are_read(flock: Engine, names: tuple[str, ...]) -> None:
    with reading(flock) as conn:
        expected = [tuple(getattr(cell, name) for name in names) for cell in _expected(conn, Filters())]
        part = grid.part(conn, names, Filters(), NEWEST_FIRST, Window(limit=20))
        assert [tuple(row) for row in part.rows] == expected[:20]
        behind = grid.part(conn, names, Filters(), NEWEST_FIRST, Window(limit=20, after=part.after))
        assert [tuple(row) for row in behind.rows] == expected[20:40]


def test_pages_go_on_where_a_cursor_says_though_rows_have_come_in(flock: Engine) -> None:
    with transaction(flock) as conn:
        first = _part(conn, Filters(), limit=5)
        expected = _expected(conn, Filters())[5:10]
        bulk.upsert_snapshots(conn, [snapshot(_cells(first)[0].account_key, TODAY)])

        assert first.after is not None
        assert _cells(_part(conn, Filters(), limit=5, after=first.after)) == expected


def test_a_cursor_of_a_row_that_is_gone_still_leads_on(flock: Engine) -> None:
    with reading(flock) as conn:
        expected = _expected(conn, Filters())
        newest = expected[0].snapshot_date
        after = After(newest + DAY, 10**9)

        assert _cells(_part(conn, Filters(), limit=5, after=after)) == expected[:5]


def _part(conn: Connection, filters: Filters, *, order: Order = NEWEST_FIRST, **window: Any) -> Part:
    return grid.part(conn, Cell.__struct_fields__, filters, order, Window(**window))


def _cells(part: Part) -> list[Cell]:
    return [Cell(*row) for row in part.rows]


def _pages(conn: Connection, filters: Filters, *, limit: int, order: Order = NEWEST_FIRST) -> Iterator[list[Cell]]:
    after = None
    while True:
        part = _part(conn, filters, order=order, limit=limit, after=after)
        yield _cells(part)
        if (after := part.after) is None:
            return
        assert len(part.rows) == limit


MANY, DAYS = 5_000, 40


@pytest.fixture
def large(engine: Engine) -> Engine:
    """Keep 200,000 rows; one account in 500 is of an organisation of its own."""
    with transaction(engine) as conn:
        conn.execute(
            text("""
                INSERT INTO dim_account (platform, handle, url, org_name)
                SELECT CASE WHEN n % 10 = 0 THEN 'flickr' ELSE 'x' END, 'duck' || n, 'https://x.example/duck' || n,
                    CASE WHEN n % 500 = 0 THEN 'Rare' ELSE 'Ducks' END
                FROM generate_series(1, :many) AS n;
                INSERT INTO fact_followers_snapshot
                    (account_key, snapshot_date, followers, captured_at, source, precision)
                SELECT account_key, :today - back, account_key + back, now(), 'live', 'exact'
                FROM generate_series(0, :days - 1) AS back, dim_account;
            """),
            {"many": MANY, "days": DAYS, "today": TODAY},
        )
        derived.recount(conn)
    with reading(engine) as conn:
        # Rows whose commit isn't on the disk yet aren't visible to all for a vacuum.
        for statement in ("ANALYZE", "CHECKPOINT", "VACUUM"):
            conn.execute(text(statement))
    return engine


_READ = text("""
    SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables
    WHERE starts_with(relname, 'fact_followers_snapshot') OR relname = 'dim_account'
""")


def _rows_read(conn: Connection) -> int:
    return int(conn.scalar(_READ))


@pytest.mark.parametrize(
    ("filters", "after", "most"),
    [
        (Filters(), None, 3),
        (Filters(), After(TODAY - 3 * DAY, 4_990), 3),
        (Filters(), After(TODAY - (DAYS - 1) * DAY, 4_000), 3),
        (Filters(platform="x"), After(TODAY - 20 * DAY, 2_500), 30),
        (Filters(platform="flickr"), After(TODAY - 20 * DAY, 2_500), 30),
    ],
    ids=repr,
)
def test_a_page_is_found_first_and_joined_afterwards(
    large: Engine, filters: Filters, after: After | None, most: int
) -> None:
    """The bound of one table doesn't carry across a join: joined first, it would read thousands of rows."""
    with transaction(large) as conn:
        before = _rows_read(conn)
        rows = _part(conn, filters, limit=50, after=after).rows
        read = _rows_read(conn) - before
    assert len(rows) == 50
    assert read <= most * 51 + 5


def test_a_page_far_down_is_landed_on_without_reading_what_lies_before_it(large: Engine) -> None:
    with transaction(large) as conn:
        before = _rows_read(conn)
        rows = _cells(_part(conn, Filters(), limit=50, offset=MANY * DAYS - 60))
        read = _rows_read(conn) - before
    assert [row.account_key for row in rows] == list(range(MANY - 59, MANY - 9))
    assert read <= 3 * 51 + 5


def test_rows_are_counted_without_reading_one(large: Engine) -> None:
    with transaction(large) as conn:
        before = _rows_read(conn)
        assert grid.total(conn, Filters(last=TODAY - DAY)) == MANY * (DAYS - 1)
        assert _rows_read(conn) == before


def test_accounts_of_a_small_organisation_are_looked_up_instead_of_met_by_chance(large: Engine) -> None:
    """Ten accounts, so a page of fifty lies in five days; those days hold 25,000 rows."""
    with transaction(large) as conn:
        rows = _cells(_part(conn, Filters(org="Rare"), limit=50))
        assert len({row.snapshot_date for row in rows}) == 5
        before = _rows_read(conn)
        _part(conn, Filters(org="Rare"), limit=50)
        assert _rows_read(conn) - before <= MANY + 10 * 51, "the list of accounts once, and their days"
