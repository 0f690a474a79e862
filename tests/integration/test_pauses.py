"""Pauses of credentials: in the database for the planner, in Redis for every worker."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from db import pauses
from db.engine import Engine, transaction
from db.pauses import Pause
from pipeline import platforms
from tests.fakes import NOON
from workers.allowance import SharedAllowance
from workers.pauses import FEW_LEFT, Pauses
from workers.reset import Allowance

X = platforms.load()["x"]
HOUR = timedelta(hours=1)


@pytest.fixture
def allowance(redis_url: str) -> Iterator[SharedAllowance]:
    with Redis.from_url(redis_url) as client:
        yield SharedAllowance(client)


def test_the_later_end_of_a_pause_stands_and_each_credential_has_its_own(engine: Engine) -> None:
    long = Pause("x", "1", NOON + 2 * HOUR, "the day's quota is spent", "quota")
    other = Pause("x", "2", NOON + HOUR, "too many requests", "limited")
    with transaction(engine) as conn:
        pauses.add(conn, long)
        pauses.add(conn, Pause("x", "1", NOON + HOUR, "too many requests", "limited"))
        pauses.add(conn, other)

        assert sorted(pauses.standing(conn, NOON)) == [long, other]
        assert pauses.standing(conn, NOON + HOUR) == [long]
        assert pauses.standing(conn, NOON + 2 * HOUR) == []


def test_a_credential_that_works_ends_its_block_but_no_limit_and_no_others_block(engine: Engine) -> None:
    blocked = [Pause("x", label, NOON + HOUR, "refused", "blocked") for label in "12"]
    limited = Pause("youtube", "1", NOON + HOUR, "too many requests", "limited")
    with transaction(engine) as conn:
        for pause in (*blocked, limited):
            pauses.add(conn, pause)

        pauses.unblock(conn, "x", "1")
        pauses.unblock(conn, "youtube", "1")

        assert sorted(pauses.standing(conn, NOON)) == [blocked[1], limited]


def test_a_platform_is_free_while_one_of_its_credentials_is(engine: Engine, allowance: SharedAllowance) -> None:
    now = datetime.now(UTC)
    found = Pauses(engine, X, ["1", "2"], allowance)
    first, second = (
        Pause("x", label, now + hours * HOUR, "too many requests", "limited") for label, hours in (("1", 2), ("2", 1))
    )

    assert found.until_free([first]) is None
    assert found.until_free([first, second]) == second


def test_a_pause_that_only_redis_knows_counts_as_well(engine: Engine, allowance: SharedAllowance) -> None:
    pause = Pause("x", "1", datetime.now(UTC) + HOUR, "the day's quota of 10 is spent", "quota")
    allowance.pause(pause)

    assert Pauses(engine, X, ["1"], allowance).until_free([]) == pause


def test_a_refused_credential_rests_for_the_planner_but_a_person_may_try_it(
    engine: Engine, allowance: SharedAllowance
) -> None:
    Pauses(engine, X, ["1"], allowance).add(Pause("x", "1", datetime.now(UTC) + HOUR, "refused", "blocked"))

    with transaction(engine) as conn:
        assert [pause.result for pause in pauses.standing(conn, datetime.now(UTC))] == ["blocked"]
    assert allowance.reserve("scrape.x.profiles", X, ["1"], space_s=1, requests=1).credential == "1"


def test_every_worker_leaves_a_refused_credential_alone_until_it_works_again(
    engine: Engine, allowance: SharedAllowance
) -> None:
    found = Pauses(engine, X, ["1", "2"], allowance)
    found.add(Pause("x", "1", datetime.now(UTC) + HOUR, "refused", "blocked"))

    def taken(task: str) -> list[str | None]:
        return [allowance.reserve(task, X, ["1", "2"], space_s=30, requests=1).credential for _ in range(2)]

    assert taken("scrape.x.profiles") == ["2", None]
    found.unblock("1")
    assert taken("scrape.x.posts") == ["1", "2"]


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        (Allowance(remaining=FEW_LEFT, reset_at=NOON + HOUR, used_percent=None), 0),
        (Allowance(remaining=5, reset_at=NOON + timedelta(seconds=50), used_percent=None), 10),
        (Allowance(remaining=0, reset_at=NOON - HOUR, used_percent=None), 0),
        (Allowance(remaining=3, reset_at=None, used_percent=None), 0),
        (Allowance(remaining=None, reset_at=None, used_percent=74.0), 0),
        (Allowance(remaining=None, reset_at=None, used_percent=87.5), 15),
    ],
)
def test_what_is_left_of_a_limit_is_spread_over_its_window(
    engine: Engine, allowance: SharedAllowance, said: Allowance, waits: float
) -> None:
    Pauses(engine, X, ["1"], allowance).heed("profiles", "1", said, NOON)

    slot = allowance.reserve("scrape.x.profiles", X, ["1"], space_s=1, requests=1)
    assert slot.wait_s == pytest.approx(waits, abs=1)


@pytest.mark.parametrize(
    "said",
    [
        Allowance(remaining=0, reset_at=datetime.now(UTC) + HOUR, used_percent=None),
        Allowance(remaining=1, reset_at=datetime.now(UTC) + HOUR, used_percent=None),
        Allowance(remaining=None, reset_at=datetime.now(UTC) + HOUR, used_percent=100.0),
        Allowance(remaining=None, reset_at=None, used_percent=130.0),
    ],
)
def test_a_used_up_limit_pauses_before_the_platform_says_so(
    engine: Engine, allowance: SharedAllowance, said: Allowance
) -> None:
    now = datetime.now(UTC)

    Pauses(engine, X, ["1"], allowance).heed("profiles", "1", said, now)

    with transaction(engine) as conn:
        (pause,) = pauses.standing(conn, now)
    assert pause.until == (said.reset_at or now + HOUR)
    assert allowance.reserve("scrape.x.posts", X, ["1"], space_s=1, requests=1).credential is None
