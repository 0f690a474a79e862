"""What a connection is set to, and what becomes of a transaction."""

import socket
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from db.engine import Connection, DatabaseError, Engine, commit, is_out_of_time, make_engine, reading, transaction


@pytest.fixture
def unreachable() -> Iterator[Engine]:
    """Return an engine of a server that isn't there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # held, never listened on
        engine = make_engine(f"postgresql+psycopg2://nobody@127.0.0.1:{bound.getsockname()[1]}/nothing")
        yield engine
        engine.dispose()


def test_a_session_speaks_utc_and_bears_its_processs_name(database_url: str) -> None:
    engine = make_engine(database_url, application_name="rollcall worker x")
    with reading(engine) as conn:
        assert conn.scalar(text("SHOW timezone")) == "UTC"
        named = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rollcall worker x'"
        assert conn.scalar(text(named)) == 1
    engine.dispose()


def test_the_server_ends_a_statement_that_takes_too_long(database_url: str) -> None:
    engine = make_engine(database_url, statement_timeout_s=0.05)
    with reading(engine) as conn:
        with pytest.raises(DatabaseError) as ended:
            conn.execute(text("SELECT pg_sleep(5)"))
        assert is_out_of_time(ended.value)
        with pytest.raises(DatabaseError) as wrong:
            conn.execute(text("SELECT 1 / 0"))
        assert not is_out_of_time(wrong.value)
    engine.dispose()


def test_the_server_ends_a_transaction_whose_process_fell_silent_and_frees_its_locks(
    database_url: str, engine: Engine
) -> None:
    silent = make_engine(database_url, idle_timeout_s=0.1)
    with silent.connect() as conn:
        conn.execute(text("LOCK TABLE dim_account IN ACCESS EXCLUSIVE MODE"))
        with transaction(engine) as other:  # waits for the lock
            assert other.scalar(text("SELECT count(*) FROM dim_account")) == 0
        conn.invalidate()
    silent.dispose()


def test_without_timeouts_the_server_waits_for_ever(database_url: str) -> None:
    engine = make_engine(database_url)
    with reading(engine) as conn:
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            assert conn.scalar(text(f"SHOW {name}")) == "0"
    engine.dispose()


def test_options_in_the_address_stand_beside_ours(database_url: str) -> None:
    engine = make_engine(f"{database_url}&options=-c%20work_mem%3D7MB")
    with reading(engine) as conn:
        assert conn.execute(text("SELECT current_setting('work_mem'), current_setting('timezone')")).one() == (
            "7MB",
            "UTC",
        )
    engine.dispose()


def test_a_transaction_that_raises_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), transaction(engine) as conn:
        conn.execute(text("INSERT INTO dataset (source) VALUES ('live')"))
        raise ZeroDivisionError
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT count(*) FROM dataset")) == 0


def test_a_transaction_is_tried_again_while_the_server_is_away_until_patience_ends(unreachable: Engine) -> None:
    began = time.monotonic()
    with pytest.raises(DatabaseError):
        commit(unreachable, lambda conn: conn.scalar(text("SELECT 1")), patience_s=0.3)
    assert time.monotonic() - began >= 0.3


def test_a_transaction_whose_connection_breaks_is_done_again_and_counts_once(engine: Engine) -> None:
    tries = 0

    def work(conn: Connection) -> int:
        nonlocal tries
        tries += 1
        conn.execute(text("INSERT INTO dataset (source) VALUES ('live')"))
        if tries == 1:
            conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return tries

    assert commit(engine, work, patience_s=10) == 2
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT count(*) FROM dataset")) == 1


def test_a_transaction_that_the_server_refuses_is_not_tried_again(engine: Engine) -> None:
    tries = []

    def work(conn: Connection) -> None:
        tries.append(1)
        conn.execute(text("SELECT 1 / 0"))

    with pytest.raises(DatabaseError):
        commit(engine, work, patience_s=10)
    assert tries == [1]
