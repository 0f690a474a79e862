"""How far a reading has come: what is due, what is on its way, and what nobody waits for."""

from datetime import UTC, datetime, timedelta

from db import explained, progress
from db.engine import Engine, transaction
from db.models import scrape_state
from db.progress import Progress
from tests.jobs import claimed, listed

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=1)


def test_what_is_due_or_on_its_way_is_waited_for(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "due", "also-due", now=NOW)
        listed(conn, "read-already", now=LATER)
        assert progress.of_reading(conn) == Progress(wanted=3, done=1)

        assert claimed(conn, now=NOW) is not None
        assert progress.of_reading(conn) == Progress(wanted=3, done=1)


def test_an_account_that_is_due_again_is_waited_for_although_it_was_read_before(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "read-yesterday", now=LATER)
        conn.execute(scrape_state.update().values(last_attempt_at=NOW, last_success_at=NOW, result="ok"))
        assert progress.of_reading(conn) == Progress(wanted=1, done=1)

        conn.execute(scrape_state.update().values(next_due_at=NOW))
        assert progress.of_reading(conn) == Progress(wanted=1, done=0)


def test_nobody_waits_for_what_cannot_be_read_or_is_switched_off(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "without-a-key", now=NOW)
        listed(conn, "paused", platform="youtube", now=NOW, is_active=False)
        explained.explain(conn, platform="x", result="blocked", reason="needs X_BEARER_TOKEN")

        assert progress.of_reading(conn) == Progress(wanted=1, done=1)


def test_the_platforms_in_use_are_those_of_active_accounts(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "a", now=NOW)
        listed(conn, "b", platform="youtube", now=NOW, is_active=False)

        assert progress.platforms_in_use(conn) == ["x"]
