"""What a profile counts, and that it keeps no value."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import pytest
from sqlalchemy import bindparam, text
from structlog.testing import capture_logs

from db import profiler
from db.engine import DatabaseError, Engine, make_engine, reading, transaction
from db.profiler import OTHERS, REPEATED, Figures, Profile, Report, Tally, figures, scoped, without_values


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a\nFROM t  WHERE b = %(b_1)s", "SELECT a FROM t WHERE b = ?"),
        ("SELECT 'it''s' || x, -12.5, 7 FROM t", "SELECT ? || x, -?, ? FROM t"),
        ("SELECT delta_7d, t1.c2 FROM t1 LIMIT 51", "SELECT delta_7d, t1.c2 FROM t1 LIMIT ?"),
        ("WHERE k IN (%(k_1_1)s, %(k_1_2)s, %(k_1_3)s)", "WHERE k IN (?, …)"),
        ("WHERE k IN (%(k_1_1)s)", "WHERE k IN (?, …)"),
        ("VALUES (%(a__0)s, %(b__0)s), (%(a__1)s, %(b__1)s)", "VALUES (?, …), …"),
        ("SELECT lower(%(x)s), f(1)", "SELECT lower(?), f(?)"),
    ],
)
def test_statements_that_differ_in_their_values_only_have_one_text(sql: str, expected: str) -> None:
    assert without_values(sql) == expected


@pytest.fixture
def profile() -> Profile:
    return Profile(slow_ms=50)


@pytest.fixture
def watched(database_url: str, profile: Profile) -> Iterator[Engine]:
    engine = make_engine(database_url, statement_timeout_s=0.3)
    profile.watch(engine)
    yield engine
    engine.dispose()


def _of(profile: Profile, part: str) -> Figures:
    (found,) = [one for one in figures([profile.report()]) if part in one.statement]
    return found


def test_executions_are_counted_with_their_times_and_rows(watched: Engine, profile: Profile) -> None:
    began = datetime.now(UTC)
    with reading(watched) as conn:
        for rows in (1, 2, 3):
            conn.execute(text("SELECT * FROM generate_series(1, :rows)"), {"rows": rows}).all()
    found = _of(profile, "generate_series")
    assert (found.count, found.failed, found.slow, found.rows) == (3, 0, 0, 6)
    assert 0 < found.mean_ms <= found.total_ms == pytest.approx(found.mean_ms * 3, abs=0.01)
    assert found.slowest is not None
    assert found.p95_ms == pytest.approx(found.slowest.took_ms, rel=0.06)
    assert began <= found.slowest.at <= datetime.now(UTC)


def test_what_many_threads_send_is_counted_to_the_last_and_not_hoarded(watched: Engine, profile: Profile) -> None:
    def send(_: int) -> int:
        with reading(watched) as conn:
            for _ in range(100):
                conn.execute(text("SELECT count(*) FROM dim_account"))
        return len(profile.noted)

    with ThreadPoolExecutor(4) as threads:
        noted = list(threads.map(send, range(12)))
    assert _of(profile, "dim_account").count == 1_200
    assert max(noted) < profiler.MOST_NOTED + 4
    assert not profile.noted


def test_a_slow_statement_is_counted_and_logged_without_its_values(watched: Engine, profile: Profile) -> None:
    with capture_logs() as logged, reading(watched) as conn:
        conn.execute(text("SELECT pg_sleep(:s), :name"), {"s": 0.06, "name": "a secret"})
        conn.execute(text("SELECT pg_sleep(0.06), 'another secret'"))
    found = _of(profile, "pg_sleep(?), ?")
    assert (found.count, found.slow) == (2, 2)
    slow = [entry for entry in logged if entry["event"] == "statement_slow"]
    assert [entry["statement"] for entry in slow] == ["SELECT pg_sleep(?), ?"] * 2
    assert slow[0]["took_ms"] >= 60
    kept = msgspec.json.encode([profile.report(), figures([profile.report()])]).decode()
    assert "secret" not in kept + str(logged)


def test_a_statement_that_fails_counts_with_the_time_that_it_took(watched: Engine, profile: Profile) -> None:
    with reading(watched) as conn, pytest.raises(DatabaseError):
        conn.execute(text("SELECT pg_sleep(30)"))
    found = _of(profile, "pg_sleep")
    assert (found.count, found.failed, found.slow, found.rows) == (1, 1, 1, None)
    assert found.slowest is not None and found.slowest.took_ms >= 300


def test_an_index_that_a_slow_read_misses_is_named(watched: Engine, profile: Profile, engine: Engine) -> None:
    with transaction(engine) as conn:
        conn.execute(
            text("""
                INSERT INTO dim_account (platform, host, handle, url, owner_team)
                SELECT 'x', '', 'h' || n, 'u', 'team' || n % 100 FROM generate_series(1, 20000) n
            """)
        )
        conn.execute(text("ANALYZE dim_account"))
    with reading(watched) as conn:
        conn.execute(
            text("SELECT handle FROM dim_account, pg_sleep(0.06) WHERE owner_team = :team AND url <> 'bio'"),
            {"team": "team7"},
        )
        conn.execute(text("SELECT handle FROM dim_account, pg_sleep(0.06) WHERE account_key = 5"))
        with pytest.raises(DatabaseError):
            conn.execute(text("SELECT url FROM dim_account, pg_sleep(30) WHERE owner_team = 'team7'"))
    advice = _of(profile, "SELECT handle FROM dim_account, pg_sleep(?) WHERE owner_team").advice
    assert advice is not None
    assert (advice.table, advice.columns) == ("dim_account", ("url", "owner_team"))
    assert advice.rows == pytest.approx(20_000, rel=0.05)
    assert advice.kept == pytest.approx(200, rel=0.5)
    assert _of(profile, "SELECT url").advice is not None, "one that was ended, too"
    assert _of(profile, "account_key").advice is None


def test_a_slow_read_in_a_transaction_leaves_it_alone(watched: Engine, profile: Profile) -> None:
    with transaction(watched) as conn:
        conn.execute(text("SELECT pg_sleep(0.06)"))
        assert conn.scalar(text("SELECT 1")) == 1


def test_a_statement_sent_again_and_again_within_one_request_is_noticed_once(
    watched: Engine, profile: Profile
) -> None:
    def work(times: int) -> None:
        with reading(watched) as conn:
            for number in range(times):
                conn.execute(text("SELECT handle FROM dim_account WHERE account_key = :key"), {"key": number})

    with capture_logs() as logged:
        for _ in range(3):  # requests that send it seldom are none the worse for their number
            scoped("/few", work)(REPEATED)
        assert _of(profile, "handle").repetition is None
        scoped("/many", work)(REPEATED + 5)
        scoped("/many", work)(REPEATED + 2)
        work(REPEATED * 2)  # outside of any request
        repetition = _of(profile, "handle").repetition
    assert repetition == profiler.Repetition("/many", REPEATED + 5)
    assert [entry["where"] for entry in logged if entry["event"] == "statement_repeated"] == ["/many"]


def test_what_does_not_fit_is_counted_together(
    watched: Engine, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "MOST_STATEMENTS", 3)
    with reading(watched) as conn:
        for number in range(40):
            conn.execute(text(f"SELECT 1 AS column{number}"))
    report = profile.report()
    assert len(report.tallies) == 4
    assert report.tallies[OTHERS].count + sum(t.count for n, t in report.tallies.items() if n != OTHERS) >= 40


def test_a_list_of_any_length_is_one_statement(watched: Engine, profile: Profile) -> None:
    query = text("SELECT 1 FROM dim_account WHERE account_key IN :keys").bindparams(bindparam("keys", expanding=True))
    with reading(watched) as conn:
        for length in (1, 2, 30):
            conn.execute(query, {"keys": list(range(length))})
    assert _of(profile, "account_key IN").count == 3


def test_the_numbers_of_several_processes_are_added_up() -> None:
    def report(count: int, took_class: int, rows: int | None) -> Report:
        tally = Tally(count=count, total_ms=10.0 * count, rows=rows, classes={took_class: count})
        return Report(profiler.datetime.now(profiler.UTC), {"SELECT ?": tally})

    few_ms, many_ms = profiler._class(2), profiler._class(100)
    (found,) = figures([report(95, few_ms, 5), report(5, many_ms, None)])
    assert (found.count, found.mean_ms, found.rows) == (100, 10.0, 5)
    assert found.p95_ms == pytest.approx(2, rel=0.06)
    (found,) = figures([report(94, few_ms, None), report(6, many_ms, None)])
    assert found.p95_ms == pytest.approx(100, rel=0.06)
    assert found.rows is None
