"""A sweep of everything that goes wrong with a platform, and the whole database searched afterwards.

A reading that fails, is refused or can't be understood writes no number; a number that an answer leaves out is null. So
no zero stands anywhere that the platform didn't say.
"""

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import BigInteger, select, text

from db import claims
from db.engine import Engine, reading, transaction
from db.models import account_latest, fact_followers_snapshot, fact_social_post, metadata
from db.rows import Subject
from deploy.simulator.faults import Fault
from deploy.simulator.server import Simulator
from deploy.simulator.simulation import Simulation
from deploy.simulator.site import Answer
from pipeline.accounts import import_list
from pipeline.app import make_celery
from tests import fakes
from tests.contract.counts import SUMS
from tests.contract.parts import mapped, walk
from tests.contract.playback import READERS
from tests.contract.test_simulator import named
from workers.allowance import SharedAllowance, Slot, TaskAllowance
from workers.app import make_deps
from workers.scrape import run_job
from workers.turn import Turn

FACTS = (fact_followers_snapshot, account_latest, fact_social_post)
COUNTS = {
    table: [column for column in table.c if isinstance(column.type, BigInteger) and column.name != "account_key"]
    for table in FACTS
}
BREAKS = (
    *(
        "status=503",
        "status=400",
        "status=401",
        "status=403",
        "status=404",
        "html=200",
        "empty",
        "truncated",
        "dropped",
    ),
    "retry_after=1",
)
# What tells the rows of a table apart, on one day.
_ROW = {fact_social_post: ("account_key", "post_id")}

Numbers = Mapping[tuple[str, Any, str], int]


class Meddling(Simulation):
    """Answers as ordered: every answer broken on its way, or without one field, wherever it stands."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.fault: Fault | None = None
        self.without: str | None = None
        self.numbers: set[str] = set()

    def answer(self, *request: Any) -> tuple[Answer, Fault | None]:
        answer, fault = super().answer(*request)
        self.numbers |= {
            path[-1] for path, value in walk(answer.body) if path and isinstance(path[-1], str) and _is_number(value)
        }
        if self.without:
            answer = answer._replace(body=mapped(answer.body, self._left_out))
        return answer, self.fault or fault

    def _left_out(self, part: Any) -> Any:
        return {k: v for k, v in part.items() if k != self.without} if isinstance(part, dict) else part


def _is_number(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())


class Sweep:
    """Two accounts of one platform, read by a worker's own code: one that can be read, one that never was."""

    def __init__(self, name: str, engine: Engine, settings: Any, simulation: Meddling) -> None:
        self.platform, self.engine, self.settings, self.simulation = READERS[name], engine, settings, simulation
        self._celery = make_celery(settings)
        rows = [f"{name},{a.handle}{a.host and f'@{a.host}'}" for a in named(name, "river", "meadow")]
        report = import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
        assert report.counts == {"imported": 2}, report.rows
        self.read_before, self.never_read = 1, 2

    def read(self, key: int, subject: Subject = "profile") -> str | None:
        """Read an account once, with a worker that knows of no pause; return how it then stands."""
        name, settings = self.platform.name, self.settings
        redis = Redis.from_url(settings.redis_url.get_secret_value())
        redis.flushdb()
        now = datetime.now(UTC)
        with transaction(self.engine) as conn:
            conn.execute(text("DELETE FROM platform_pause; UPDATE scrape_state SET job_id = NULL"))
            asked = claims.claim_requested(
                conn,
                account_keys=[key],
                subject=subject,
                batches={(name, kind): call.batch for kind, call in self.platform.calls.items()},
                now=now,
                lease_until=now + timedelta(minutes=2),
                new_job_id=lambda: str(uuid.uuid4()),
                requested_by="a test",
            )
        (job,) = asked.jobs
        deps = make_deps(settings, self.platform, self._celery, redis)
        call = self.platform.calls[job.kind]
        task = TaskAllowance(
            SharedAllowance(redis),
            task=f"scrape.{name}.{job.kind}",
            platform=self.platform,
            credentials=tuple(deps.clients),
            rate="1000/s",
            space_s=0.001,
            requests=call.requests,
        )
        try:
            run_job(job.job_id, deps, Turn(task, Slot("1", 0)))
        finally:
            deps.engine.dispose()
            redis.close()
        of_account = text("SELECT result FROM scrape_state WHERE account_key = :key AND subject = :subject")
        with reading(self.engine) as conn:
            return conn.scalar(of_account, {"key": key, "subject": subject})

    def numbers(self) -> dict[tuple[str, Any, str], int]:
        """Return every count in the database by table, row and column."""
        found = {}
        with reading(self.engine) as conn:
            for table, columns in COUNTS.items():
                for row in conn.execute(select(table)).mappings():
                    where = tuple(row[name] for name in _ROW.get(table, ("account_key",)))
                    for column in columns:
                        if row[column.name] is not None:
                            found[table.name, where, column.name] = row[column.name]
        return found

    def engagement(self) -> int | None:
        """Return what the kept posts of the last days say together; None where none of them says anything."""
        asked = text("""
            SELECT sum(told) FROM fact_social_post, unnest(ARRAY[likes, comments, shares]) AS told
            WHERE published_at > now() - :days * interval '1 day'
        """)
        with reading(self.engine) as conn:
            return conn.scalar(asked, {"days": self.settings.engagement_days})


@pytest.fixture(params=READERS)
def sweep(request: pytest.FixtureRequest, engine: Engine, database_url: str, redis_url: str) -> Iterator[Sweep]:
    simulation = Meddling()
    with Simulator(port=0, simulation=simulation) as simulator:
        settings = fakes.settings(database_url, redis_url, SIMULATOR_URL=simulator.url)
        yield Sweep(request.param, engine, settings, simulation)


def zeros(numbers: Numbers) -> set[tuple[str, Any, str]]:
    return {place for place, number in numbers.items() if number == 0}


def test_whatever_goes_wrong_no_number_is_written_that_the_platform_didn_t_say(sweep: Sweep) -> None:
    subjects: list[Subject] = ["profile", *(["posts"] if "posts" in sweep.platform.calls else [])]  # type: ignore[list-item]
    for subject in subjects:
        assert sweep.read(sweep.read_before, subject) == "ok"
    said = sweep.numbers()
    assert said, "there are numbers to lose"

    for broken in BREAKS:
        sweep.simulation.fault = Fault.read(broken)
        for subject in subjects:
            sweep.read(sweep.read_before, subject)
        assert sweep.read(sweep.never_read) != "ok", broken
        assert sweep.numbers() == said, broken
    sweep.simulation.fault = None

    # What a sum lacks adds nothing to it (see tests/contract/counts.py).
    sums = SUMS.get(sweep.platform.name, ())
    for field in sorted(sweep.simulation.numbers):
        sweep.simulation.without = field
        for subject in subjects:
            sweep.read(sweep.read_before, subject)
        invented = {place for place in zeros(sweep.numbers()) - zeros(said) if place[2] not in sums}
        if sweep.engagement() == 0:  # all that is still told says zero, and so does the sum
            invented = {place for place in invented if place[2] != "engagement"}
        assert not invented, f"without {field}"


def test_every_count_of_the_schema_is_searched() -> None:
    counted = {"followers", "following", "posts", "engagement", "likes", "comments", "shares", "views"}
    for table in metadata.tables.values():
        if counted & set(table.c.keys()) and table.name != "day_total":
            assert table in FACTS, table.name
            assert counted & set(table.c.keys()) <= {column.name for column in COUNTS[table]}
