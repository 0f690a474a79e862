"""Connections that break at odd moments: whoever reads meets the errors that it knows, or none."""

import pytest
from sqlalchemy import text

from db.engine import Engine, reading, transaction


def test_a_connection_that_breaks_after_the_read_costs_the_read_nothing(engine: Engine) -> None:
    with reading(engine) as conn:
        first = conn.scalar(text("SELECT pg_backend_pid()"))
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT pg_backend_pid()")) == first
        with transaction(engine) as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT pg_backend_pid()")) != first


def test_a_read_commits_each_statement_and_leaves_transactions_whole(engine: Engine) -> None:
    with reading(engine) as conn, reading(engine) as other:
        conn.execute(text("CREATE TABLE kept (a int)"))
        assert other.scalar(text("SELECT to_regclass('kept')::text")) == "kept"
    with transaction(engine) as conn:
        conn.execute(text("CREATE TABLE dropped (a int)"))
        conn.rollback()
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT to_regclass('dropped')")) is None


def test_only_a_connection_that_lay_idle_for_a_while_is_asked_whether_it_stands(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings: list[object] = []
    ping = engine.dialect.do_ping
    monkeypatch.setattr(engine.dialect, "do_ping", lambda driver: pings.append(driver) or ping(driver))
    with reading(engine) as conn:
        first = conn.scalar(text("SELECT pg_backend_pid()"))
    with reading(engine):
        assert not pings
    monkeypatch.setattr("db.engine._SURE_S", 0.0)
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT pg_backend_pid()")) == first
    assert len(pings) == 1


def test_when_one_connection_was_ended_all_that_lie_idle_are_replaced(engine: Engine) -> None:
    with reading(engine) as one, reading(engine) as other, reading(engine) as killer:
        ended = {conn.scalar(text("SELECT pg_backend_pid()")) for conn in (one, other)}
        for pid in ended:
            killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with reading(engine) as one, reading(engine) as other, reading(engine) as third:
        now = {conn.scalar(text("SELECT pg_backend_pid()")) for conn in (one, other, third)}
    assert len(now) == 3 and not now & ended
