"""Which connection a reader gets."""

import socket
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from db.engine import DatabaseError, Engine, Engines, make_engine, reading, transaction


@pytest.fixture
def unreachable() -> Iterator[Engine]:
    """Return an engine of a server that isn't there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # held, never listened on
        engine = make_engine(f"postgresql+psycopg2://nobody@127.0.0.1:{bound.getsockname()[1]}/nothing")
        yield engine
        engine.dispose()


@pytest.fixture
def replica(database_url: str) -> Iterator[Engine]:
    """Return an engine that shows itself by its name."""
    engine = make_engine(database_url, application_name="replica")
    yield engine
    engine.dispose()


def _name(engines: Engines) -> str:
    with engines.reading() as conn:
        return str(conn.scalar(text("SHOW application_name")))


def test_reads_go_to_the_replica_and_transactions_to_the_primary(engine: Engine, replica: Engine) -> None:
    engines = Engines(engine, replica)
    assert _name(engines) == "replica"
    with engines.transaction() as conn:
        assert conn.scalar(text("SHOW application_name")) == "tests"


def test_reads_go_to_the_primary_while_the_replica_is_away(engine: Engine, unreachable: Engine) -> None:
    assert _name(Engines(engine, unreachable)) == "tests"


def test_a_replica_that_is_away_is_not_asked_at_every_read(
    engine: Engine, unreachable: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines(engine, unreachable)
    asked = []
    connect = unreachable.connect
    monkeypatch.setattr(unreachable, "connect", lambda: asked.append(1) or connect())
    for _ in range(3):
        assert _name(engines) == "tests"
    assert len(asked) == 1


def test_reads_raise_when_neither_answers(unreachable: Engine) -> None:
    with pytest.raises(DatabaseError), Engines(unreachable, unreachable).reading():
        pass


def test_sessions_speak_utc_and_end_statements_that_take_too_long(database_url: str) -> None:
    engine = make_engine(database_url, statement_timeout_s=0.05)
    with reading(engine) as conn:
        assert conn.scalar(text("SHOW timezone")) == "UTC"
        with pytest.raises(DatabaseError, match="statement timeout"):
            conn.execute(text("SELECT pg_sleep(5)"))
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
