"""Statements that a connection prepares: planned once, and never an error that the plain statement hadn't had."""

from datetime import UTC, date, datetime

import pytest
from sqlalchemy import event, text

from db import prepared, reads
from db.engine import Connection, DatabaseError, Engine, is_out_of_time, make_engine, reading, rows, transaction
from db.keyset import After, Order, Window
from db.prepared import Prepared
from db.profiler import Profile, figures
from db.reads import Clock, Filters
from db.standing import StaleAfter
from tests.serving import add_account, keep

CLOCK = Clock(datetime(2026, 3, 1, tzinfo=UTC), StaleAfter(interval_s=86_400, after_s=93_600))
OFTEN = 12  # beyond what is sent plainly, and what PostgreSQL plans anew


def prepared_by(conn: Connection) -> dict[str, int]:
    """Return the prepared statements of this connection, with how often each was planned without its values."""
    return dict(conn.exec_driver_sql("SELECT statement, generic_plans FROM pg_prepared_statements").all())


def test_a_page_that_is_asked_for_often_is_parsed_and_planned_once(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = [add_account(conn, f"x/agency{number}") for number in range(4)]
        for key in keys:
            keep(conn, key, 10 * key)
    shown = []
    with reading(engine) as conn:
        for number in range(OFTEN):
            after = keys[number % 3]
            window = Window(limit=2, after=After(after, after))
            rows = reads.part(conn, ("account_key", "followers"), Filters(), Order(), window, CLOCK).rows
            shown.append((after, [tuple(row) for row in rows]))
        ((statement, planned),) = prepared_by(conn).items()
    assert planned >= OFTEN - prepared._WORTH - 6
    assert "LIMIT 3" in statement, "with a parameter for it, it would be planned anew each time"
    for after, rows in shown:
        assert rows == [(key, 10 * key) for key in keys if key > after][:2]


def test_where_the_values_decide_the_plan_nothing_is_prepared(engine: Engine) -> None:
    with reading(engine) as conn:
        for filters, offset in ((Filters(platform="x"), 0), (Filters(text="a%b"), 0), (Filters(), 50)):
            for _ in range(OFTEN):
                reads.part(conn, ("handle",), filters, Order(), Window(limit=2, offset=offset), CLOCK)
        assert prepared_by(conn) == {}


def test_a_value_beyond_the_parameter_s_type_is_compared_all_the_same(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 5)
    order = Order("followers", descending=True)
    with reading(engine) as conn:
        for _ in range(OFTEN):
            found = reads.part(conn, ("handle",), Filters(), order, Window(limit=2, after=After(10**25, 0)), CLOCK)
            assert [tuple(row) for row in found.rows] == [("agency",)]


def test_a_column_that_changes_its_type_meanwhile_costs_no_read_an_error(engine: Engine) -> None:
    sql = Prepared("SELECT value FROM changing WHERE value >= %(least)s")
    with transaction(engine) as conn:
        conn.execute(text("CREATE TABLE changing (value int)"))
        conn.execute(text("INSERT INTO changing VALUES (7)"))
    with reading(engine) as conn:
        for _ in range(OFTEN):
            assert conn.exec_driver_sql(sql, {"least": 1}).scalar_one() == 7
        with transaction(engine) as other:
            other.execute(text("ALTER TABLE changing ALTER value TYPE text"))
        assert conn.exec_driver_sql(sql, {"least": "1"}).scalar_one() == "7"
        assert conn.exec_driver_sql(sql, {"least": "1"}).scalar_one() == "7"


def test_what_somebody_between_us_and_the_server_threw_away_is_sent_plainly(engine: Engine) -> None:
    sql = Prepared("SELECT 5 + %(more)s::int")
    with reading(engine) as conn:
        for number in range(OFTEN):
            assert conn.exec_driver_sql(sql, {"more": number}).scalar_one() == 5 + number
        conn.exec_driver_sql("DISCARD ALL")
        assert conn.exec_driver_sql(sql, {"more": 1}).scalar_one() == 6
        assert conn.exec_driver_sql(sql, {"more": 2}).scalar_one() == 7


def test_in_a_transaction_which_a_refusal_would_end_nothing_is_prepared(engine: Engine) -> None:
    sql = Prepared("SELECT %(number)s::int")
    with transaction(engine) as conn:
        for number in range(OFTEN):
            assert conn.exec_driver_sql(sql, {"number": number}).scalar_one() == number
        assert prepared_by(conn) == {}


def test_a_connection_keeps_no_more_than_so_many(engine: Engine) -> None:
    with reading(engine) as conn:
        for number in range(2 * prepared.MOST):
            sql = Prepared(f"SELECT {number} + %(more)s::int")
            for _ in range(OFTEN):
                assert conn.exec_driver_sql(sql, {"more": 1}).scalar_one() == number + 1
        assert len(prepared_by(conn)) == prepared.MOST


def test_one_that_takes_too_long_is_not_tried_again(database_url: str) -> None:
    engine = make_engine(database_url, statement_timeout_s=0.2)
    sql = Prepared("SELECT pg_sleep(%(seconds)s)")
    with reading(engine) as conn:
        for _ in range(OFTEN):
            conn.exec_driver_sql(sql, {"seconds": 0})
        before = prepared_by(conn)
        with pytest.raises(DatabaseError) as failed:
            conn.exec_driver_sql(sql, {"seconds": 20})
        assert is_out_of_time(failed.value)
        assert len(before) == len(prepared_by(conn)) == 1
    engine.dispose()


def test_the_profiler_sees_the_statement_and_not_its_name(database_url: str) -> None:
    engine = make_engine(database_url)
    profile = Profile(slow_ms=1_000)
    profile.watch(engine)
    with reading(engine) as conn:
        sql = Prepared("SELECT %(number)s::int")
        for number in range(OFTEN):
            assert conn.exec_driver_sql(sql, {"number": number}).scalar_one() == number
        assert prepared_by(conn)
    counted = {one.statement: one.count for one in figures([profile.report()])}
    assert counted["SELECT ?::int"] == OFTEN
    assert not any("EXECUTE" in statement for statement in counted)
    engine.dispose()


def test_a_percent_sign_within_a_statement_stays_one(engine: Engine) -> None:
    sql = Prepared("SELECT 'a' LIKE '%%a%%' AND %(number)s::int %% 2 = 1")
    with reading(engine) as conn:
        assert all(conn.exec_driver_sql(sql, {"number": 3}).scalar_one() for _ in range(OFTEN))


TWICE = """SELECT number, day, at FROM (VALUES
    (1, date '2026-03-01', timestamptz '2026-03-01 12:00:00.25+02'),
    (2, date '2026-03-01', timestamptz '2026-03-01 10:00:00.25+00'),
    (3, NULL, NULL), (4, date '0044-03-15', timestamptz '1912-06-23 00:00+00')) AS rows (number, day, at)"""


def test_rows_as_the_driver_has_them_are_those_of_sqlalchemy(engine: Engine) -> None:
    with reading(engine) as conn:
        plain = conn.exec_driver_sql(TWICE).all()
        assert [tuple(row) for row in plain] == rows(conn, TWICE, {})
        assert rows(conn, TWICE, {}) == rows(conn, TWICE, {})
        conn.exec_driver_sql("SET timezone = 'Asia/Tokyo'")
        assert [row[2] for row in rows(conn, TWICE, {})] == [row[2] for row in plain], "the same moments"
        conn.exec_driver_sql("SET timezone = 'UTC'")
    assert plain[0][1:] == plain[1][1:] == (date(2026, 3, 1), datetime(2026, 3, 1, 10, 0, 0, 250_000, UTC))
    assert plain[2][1:] == (None, None)


def test_who_watches_statements_hears_of_those_too(engine: Engine) -> None:
    heard: list[str] = []

    def note(_conn: object, _cursor: object, sql: str, *_: object) -> None:
        heard.append(sql)

    event.listen(engine, "before_cursor_execute", note)
    try:
        with reading(engine) as conn:
            found = rows(conn, TWICE, {})
    finally:
        event.remove(engine, "before_cursor_execute", note)
    with reading(engine) as conn:
        assert [tuple(row) for row in found] == rows(conn, TWICE, {})
    assert heard == [TWICE]


def test_what_fails_there_is_an_error_as_everywhere(engine: Engine, database_url: str) -> None:
    with reading(engine) as conn, pytest.raises(DatabaseError, match="hidden due to hide_parameters"):
        rows(conn, "SELECT %(text)s::int", {"text": "secret"})
    with reading(engine) as conn, pytest.raises(DatabaseError) as away:
        rows(conn, "SELECT pg_terminate_backend(pg_backend_pid())", {})
    assert away.value.connection_invalidated
    with reading(engine) as conn:
        assert rows(conn, "SELECT 1", {}) == [(1,)]
    hasty = make_engine(database_url, statement_timeout_s=0.2)
    try:
        with reading(hasty) as conn, pytest.raises(DatabaseError) as slow:
            rows(conn, "SELECT pg_sleep(60)", {})
        assert is_out_of_time(slow.value)
    finally:
        hasty.dispose()
