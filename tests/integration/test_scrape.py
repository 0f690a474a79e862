"""One job behind Celery's door, with a real database and Redis and a platform that answers as the test says."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from redis import Redis
from sqlalchemy import select, update

from db import claims, pauses
from db.engine import Engine, reading, transaction
from db.models import account_latest, dim_account, scrape_job, scrape_state
from pipeline.accounts import import_list
from pipeline.app import make_celery
from pipeline.errors import BadPage, BatchRefused, NotAllowed, RateLimited, ScrapeError
from pipeline.messages import Purger
from pipeline.outbox import Outbox
from pipeline.platforms import Call
from pipeline.records import Account, Kind, Page, Profile
from tests.fakes import settings
from workers.allowance import SharedAllowance, Slot, TaskAllowance
from workers.pauses import LONGEST_HOLD_S, Pauses
from workers.platforms.bluesky import Bluesky
from workers.scrape import Deps, run_job
from workers.turn import NoSlot, Turn

Answer = Callable[[str, Sequence[Account]], ScrapeError | Exception | None]


class Harbour(Bluesky):
    """Bluesky's name and handles, with answers of the test's own: an error, or numbers for all that was asked."""

    calls: Mapping[Kind, Call] = {"profiles": Call(limit="2/s", batch=50)}

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[list[str]] = []
        self.followers = 5

    def fetch_profiles(self, accounts: Sequence[Account], http: Any) -> Page:
        self.asked.append([account.handle for account in accounts])
        if error := self._answer(http, accounts):
            raise error
        return Page(200, {}, None, datetime.now(UTC))

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile]:
        for account in accounts:
            yield Profile(
                account_key=account.account_key,
                external_id=f"id-{account.handle}",
                handle=account.handle,
                followers=self.followers,
            )


class Label(str):
    """A client that is its credential's label: enough for a platform that makes no request."""

    def named(self, reason: str) -> str:
        return f"{reason} [{self}]"


class Room:
    """What a worker has, and one job at a time."""

    def __init__(
        self,
        engine: Engine,
        database_url: str,
        redis_url: str,
        answer: Answer,
        labels: str = "1",
        **environ: str,
    ) -> None:
        found = settings(database_url, redis_url, **environ)
        celery = make_celery(found)
        redis = Redis.from_url(redis_url)
        self.allowance = SharedAllowance(redis)
        self.engine = engine
        self.platform = Harbour(answer)
        self.deps = Deps(
            settings=found,
            engine=engine,
            celery=celery,
            platform=self.platform,
            pauses=Pauses(engine, self.platform, list(labels), self.allowance),
            purger=Purger(celery, redis),
            outbox=Outbox(celery, engine, "worker"),
            clients={label: lambda heed, label=label: Label(label) for label in labels},
            now=lambda: datetime.now(UTC),
        )

    def claim(self, count: int) -> str:
        rows = "\n".join(["platform,handle", *(f"bluesky,h{n}.example" for n in range(count))])
        import_list(self.engine, rows.encode(), now=datetime.now(UTC))
        now = datetime.now(UTC)
        job_id = str(uuid.uuid4())
        with transaction(self.engine) as conn:
            (claimed,) = claims.claim_due(
                conn,
                platform="bluesky",
                kind="profiles",
                lane="core",
                batch=50,
                now=now,
                lease_until=now + timedelta(minutes=2),
                job_ids=[job_id],
            )
        assert len(claimed.accounts) == count
        return job_id

    def turn(self, slot: Slot) -> Turn:
        task = TaskAllowance(
            self.allowance,
            task="scrape.bluesky.profiles",
            platform=self.platform,
            credentials=tuple(self.deps.clients),
            rate="2/s",
            space_s=0.5,
            requests=1,
        )
        return Turn(task, slot)

    def run(self, job_id: str, credential: str | None = "1", wait_s: float = 0) -> str:
        """Deliver the job's message once and return the job's state."""
        run_job(job_id, self.deps, self.turn(Slot(credential, wait_s)))
        return str(self.job(job_id).state)

    def job(self, job_id: str) -> Any:
        with reading(self.engine) as conn:
            return conn.execute(select(scrape_job).where(scrape_job.c.job_id == job_id)).one()

    def results(self) -> dict[str, str]:
        states = select(dim_account.c.handle, scrape_state.c.result).join_from(scrape_state, dim_account)
        with reading(self.engine) as conn:
            return dict(conn.execute(states.where(scrape_state.c.subject == "profile")).all())


@pytest.fixture
def room(engine: Engine, database_url: str, redis_url: str) -> Callable[..., Room]:
    def make(answer: Answer = lambda http, accounts: None, labels: str = "1", **environ: str) -> Room:
        return Room(engine, database_url, redis_url, answer, labels, **environ)

    return make


def test_a_batch_refused_for_one_account_costs_few_calls_and_only_that_account(room: Callable[..., Room]) -> None:
    def refuse_h37(http: str, accounts: Sequence[Account]) -> ScrapeError | None:
        if any(account.handle == "h37.example" for account in accounts):
            return BatchRefused("bluesky", "not found, or not readable")
        return None

    found = room(refuse_h37)
    job_id = found.claim(50)
    deliveries = 0
    while (state := found.run(job_id)) == "queued":
        deliveries += 1
        assert deliveries < 20

    assert state == "partly_failed"
    assert found.results() == {f"h{n}.example": "gone" if n == 37 else "ok" for n in range(50)}
    assert len(found.platform.asked) <= 13
    job = found.job(job_id)
    assert job.attempt == 1
    assert sorted(one["result"] for one in job.outcomes) == ["gone"] + ["ok"] * 49


def test_an_account_that_the_refusal_names_costs_one_more_call(room: Callable[..., Room]) -> None:
    def refuse_h3(http: str, accounts: Sequence[Account]) -> ScrapeError | None:
        bad = [account.account_key for account in accounts if account.handle == "h3.example"]
        return BatchRefused("bluesky", "no such alias", bad=bad) if bad else None

    found = room(refuse_h3)
    job_id = found.claim(10)

    assert [found.run(job_id), found.run(job_id)] == ["queued", "partly_failed"]
    assert found.results()["h3.example"] == "gone"
    assert sum(result == "ok" for result in found.results().values()) == 9


def test_without_a_broker_the_rest_of_a_batch_waits_for_its_return_only(
    room: Callable[..., Room], tmp_path: Path
) -> None:
    found = room(lambda http, accounts: BatchRefused("bluesky", "invalid"), BROKER_URL=f"unix://{tmp_path}/no.sock")
    job_id = found.claim(4)

    assert found.run(job_id) == "queued"
    assert found.job(job_id).lease_until <= datetime.now(UTC)


def test_a_whole_batch_of_bad_accounts_ends(room: Callable[..., Room]) -> None:
    found = room(lambda http, accounts: BatchRefused("bluesky", "not readable"))
    job_id = found.claim(4)
    for _ in range(20):
        if (state := found.run(job_id)) != "queued":
            break

    assert state == "failed"
    assert set(found.results().values()) == {"gone"}


def test_a_429_pauses_the_credential_and_gives_the_job_back_at_no_cost(room: Callable[..., Room]) -> None:
    retry_at = datetime.now(UTC) + timedelta(minutes=5)
    found = room(lambda http, accounts: RateLimited("bluesky", "too many requests", retry_at=retry_at))
    job_id = found.claim(2)

    assert found.run(job_id) == "queued"

    job = found.job(job_id)
    assert (job.attempt, job.lease_until) == (0, retry_at)
    assert set(found.results().values()) == {None}


def test_a_limited_credential_leaves_the_job_to_another_one_at_once(room: Callable[..., Room]) -> None:
    def limit_the_first(http: str, accounts: Sequence[Account]) -> ScrapeError | None:
        later = datetime.now(UTC) + timedelta(minutes=5)
        return RateLimited("bluesky", "too many requests", retry_at=later) if http == "1" else None

    found = room(limit_the_first, labels="12")
    job_id = found.claim(2)

    assert found.run(job_id, "1") == "queued"
    assert found.job(job_id).lease_until <= datetime.now(UTC)
    assert found.run(job_id, "2") == "succeeded"


def test_a_refused_credential_blocks_only_when_no_other_is_left(room: Callable[..., Room]) -> None:
    found = room(lambda http, accounts: NotAllowed("bluesky", "refused (401)"), labels="12")
    job_id = found.claim(2)

    assert found.run(job_id, "1") == "queued"
    assert found.run(job_id, "2") == "failed"
    assert set(found.results().values()) == {"blocked"}


def test_a_refused_credential_is_not_asked_while_another_is_free(room: Callable[..., Room], engine: Engine) -> None:
    found = room(labels="12")
    job_id = found.claim(2)
    with transaction(engine) as conn:
        until = datetime.now(UTC) + timedelta(hours=1)
        pauses.add(conn, pauses.Pause("bluesky", "1", until, "refused (401)", "blocked"))

    assert found.run(job_id, "1") == "queued"
    assert found.platform.asked == []
    assert found.run(job_id, "2") == "succeeded"


@pytest.mark.parametrize("refused_h", [1, 3])
def test_while_a_limited_credential_will_be_free_again_nothing_is_blocked(
    room: Callable[..., Room], engine: Engine, refused_h: int
) -> None:
    found = room(lambda http, accounts: NotAllowed("bluesky", "refused (401)"), labels="12")
    job_id = found.claim(2)
    now = datetime.now(UTC)
    limited = pauses.Pause("bluesky", "2", now + timedelta(hours=2), "too many requests", "limited")
    with transaction(engine) as conn:
        pauses.add(conn, limited)
    assert found.run(job_id, "1") == "queued"  # it is refused now
    with transaction(engine) as conn:
        pauses.unblock(conn, "bluesky", "1")
        pauses.add(conn, pauses.Pause("bluesky", "1", now + timedelta(hours=refused_h), "refused (401)", "blocked"))

    assert found.run(job_id, "1") == "queued"

    assert found.job(job_id).lease_until == now + timedelta(hours=min(refused_h, 2))
    assert len(found.platform.asked) == 1
    assert set(found.results().values()) == {None}


def test_a_good_call_lets_every_worker_use_its_credential_again(room: Callable[..., Room]) -> None:
    found = room(labels="12")
    job_id = found.claim(2)
    until = datetime.now(UTC) + timedelta(hours=1)
    for label in "12":
        found.deps.pauses.add(pauses.Pause("bluesky", label, until, "refused (401)", "blocked"))
    with transaction(found.engine) as conn:
        conn.execute(update(scrape_job).values(lane="user_requested"))

    assert found.run(job_id, "2") == "succeeded"

    slots = [found.allowance.reserve("any", found.platform, ["1", "2"], space_s=30, requests=1) for _ in range(2)]
    assert [slot.credential for slot in slots] == ["2", None]


@pytest.mark.parametrize("error", [NotAllowed("bluesky", "refused (401)"), BatchRefused("bluesky", "not readable")])
def test_a_reason_names_credentials_as_the_client_says(room: Callable[..., Room], error: ScrapeError) -> None:
    found = room(lambda http, accounts: error)
    job_id = found.claim(1)

    found.run(job_id)

    assert found.job(job_id).reason == f"{error.reason} [1]"


def test_without_a_slot_no_call_is_made(room: Callable[..., Room]) -> None:
    found = room()
    job_id = found.claim(2)

    assert found.run(job_id, None) == "queued"

    assert found.platform.asked == []


@pytest.mark.parametrize(("slot_in_s", "comes_again_in_s"), [(3600, 3600 - LONGEST_HOLD_S / 2), (10, 0)])
def test_a_job_whose_slot_is_far_away_waits_in_the_database_until_it_is_near(
    room: Callable[..., Room], slot_in_s: float, comes_again_in_s: float
) -> None:
    found = room()
    job_id = found.claim(2)

    assert found.run(job_id, None, wait_s=slot_in_s) == "queued"

    job = found.job(job_id)
    assert (job.lease_until - datetime.now(UTC)).total_seconds() == pytest.approx(comes_again_in_s, abs=5)
    assert (job.attempt, found.platform.asked) == (0, [])


def test_a_call_that_missed_its_slot_gives_its_job_back_at_no_cost(room: Callable[..., Room]) -> None:
    found = room(lambda http, accounts: NoSlot(60))
    job_id = found.claim(2)

    assert found.run(job_id) == "queued"

    job = found.job(job_id)
    assert (job.lease_until - datetime.now(UTC)).total_seconds() == pytest.approx(60, abs=5)
    assert (job.attempt, set(found.results().values())) == (0, {None})


def test_a_second_delivery_costs_no_slot(room: Callable[..., Room]) -> None:
    found = room()
    job_id = found.claim(1)
    found.run(job_id)
    slot = found.allowance.reserve("scrape.bluesky.profiles", found.platform, ["1"], space_s=60, requests=1)

    run_job(job_id, found.deps, found.turn(slot))

    again = found.allowance.reserve("scrape.bluesky.profiles", found.platform, ["1"], space_s=60, requests=1)
    assert again.credential == "1"


def test_while_a_credential_is_refused_the_sweep_makes_no_call(room: Callable[..., Room], engine: Engine) -> None:
    found = room()
    job_id = found.claim(2)
    with transaction(engine) as conn:
        pauses.add(
            conn, pauses.Pause("bluesky", "1", datetime.now(UTC) + timedelta(hours=1), "refused (401)", "blocked")
        )

    assert found.run(job_id) == "failed"
    assert found.platform.asked == []
    assert found.job(job_id).reason == "refused (401)"


def test_an_error_of_ours_fails_the_job_with_its_reason_and_is_raised(room: Callable[..., Room]) -> None:
    found = room(lambda http, accounts: ZeroDivisionError("a secret in a message"))
    job_id = found.claim(2)

    with pytest.raises(ZeroDivisionError):
        found.run(job_id)

    job = found.job(job_id)
    assert job.state == "failed"
    assert "ZeroDivisionError" in job.reason
    assert "secret" not in str(job.outcomes)


def test_a_failure_keeps_the_last_good_numbers(room: Callable[..., Room], engine: Engine) -> None:
    answers: list[ScrapeError | None] = [None, BadPage("bluesky", "profiles[0].did")]
    found = room(lambda http, accounts: answers.pop(0))
    found.run(found.claim(1))
    with engine.begin() as conn:
        conn.execute(scrape_state.update().values(next_due_at=datetime.now(UTC)))

    assert found.run(found.claim(1)) == "failed"

    with reading(engine) as conn:
        assert conn.scalar(select(account_latest.c.followers)) == 5
    assert found.results() == {"h0.example": "failed"}


def test_a_second_delivery_and_an_unknown_job_find_nothing_to_do(room: Callable[..., Room]) -> None:
    found = room()
    job_id = found.claim(1)
    found.run(job_id)

    found.run(job_id)
    run_job(str(uuid.uuid4()), found.deps, found.turn(Slot("1")))

    assert len(found.platform.asked) == 1


def test_a_reading_is_held_by_the_bounds_of_the_settings(room: Callable[..., Room]) -> None:
    found = room()
    bounds = {"held_drop_pct": 10, "held_recheck_s": 60}
    found.deps = structs.replace(found.deps, settings=found.deps.settings.model_copy(update=bounds))
    for followers in (5_000, 4_500):
        found.platform.followers = followers
        found.run(found.claim(1))
        with transaction(found.engine) as conn:
            state = conn.execute(select(scrape_state).where(scrape_state.c.subject == "profile")).one()
            conn.execute(update(scrape_state).values(next_due_at=datetime.now(UTC)))

    assert state.next_due_at - state.last_success_at == timedelta(minutes=1)
    with reading(found.engine) as conn:
        row = conn.execute(select(account_latest)).one()
    assert (row.followers, row.held_followers) == (5_000, 4_500)


def test_a_platform_without_posts_to_read_has_none_due(room: Callable[..., Room], engine: Engine) -> None:
    found = room()

    assert found.run(found.claim(2)) == "succeeded"

    with reading(engine) as conn:
        assert set(conn.scalars(select(scrape_state.c.subject))) == {"profile"}
