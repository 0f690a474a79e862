"""What the simulator told of each account, and what was kept of it: two books that are compared line by line."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from msgspec import Struct
from sqlalchemy import text

from db import derived, partitions
from db.engine import Engine, reading, transaction
from deploy.simulator.faults import Fault
from deploy.simulator.site import Answer
from tests.chaos import Witness

# Every reading that is kept, as it's written: of a day's snapshot only the last stands in the end.
_WATCH = """
    CREATE TABLE kept (
        account_key bigint NOT NULL, followers bigint, captured_at timestamptz NOT NULL,
        committed_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE FUNCTION note_kept() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO kept (account_key, followers, captured_at) VALUES (NEW.account_key, NEW.followers, NEW.captured_at);
            RETURN NULL;
        END
    $$;
    CREATE TRIGGER note_kept AFTER INSERT OR UPDATE ON fact_followers_snapshot FOR EACH ROW EXECUTE FUNCTION note_kept()
"""
_KEPT = """
    SELECT handle, kept.followers, extract(epoch FROM captured_at)::float8 AS at
    FROM kept JOIN dim_account USING (account_key) ORDER BY captured_at
"""


# Some weeks before the first reading: histories are as long as people look at.
DAYS = 60
_PAST = """
    INSERT INTO fact_followers_snapshot
        (account_key, snapshot_date, followers, following, posts, engagement, captured_at, source, precision)
    SELECT account_key, snapshot_date - age, (followers * (1 - 0.0005 * age))::bigint, following, posts, engagement,
        captured_at - age * interval '1 day', source, precision
    FROM fact_followers_snapshot CROSS JOIN generate_series(1, :days) AS age
"""


class Told(Struct, frozen=True):
    """A number that the simulator told (epoch seconds), in an answer that its caller could read."""

    at: float
    account: str
    platform: str
    followers: int


class Kept(Struct, frozen=True):
    """A number that was kept, with the time that it was captured at (epoch seconds)."""

    at: float
    account: str
    followers: int | None


class Teller(Witness):
    """A witness that notes every number it tells, and every call."""

    def __init__(self, random: Random, *, spoiled: float) -> None:
        super().__init__(random, spoiled=spoiled)
        self.told: list[Told] = []
        self.calls_at: list[tuple[float, str]] = []
        """When each call came (epoch seconds), and for which platform."""
        self.asked: Counter[str] = Counter()
        """The number of calls by platform."""
        self._telling = threading.Lock()

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[Answer, Fault | None]:
        answer, fault = super().answer(method, target, headers, body)
        platform = target.split("/")[1]
        if platform == "_simulator":
            return answer, fault
        now = time.time()
        with self._telling:
            self.calls_at.append((now, platform))
            self.asked[platform] += 1
            if answer.status == 200 and (fault is None or fault.kind == "latency"):
                self.told += [Told(now, name, platform, followers) for name, followers in numbers(answer.body)]
        return answer, fault

    def count(self) -> tuple[int, int]:
        """Return how many calls came, and how many numbers were told."""
        with self._telling:
            return len(self.calls_at), len(self.told)

    def calls_of(self, platform: str, *, since: float = 0.0) -> int:
        with self._telling:
            return sum(at >= since and of == platform for at, of in self.calls_at)


def numbers(body: Any) -> Iterator[tuple[str, int]]:
    """Yield the account and followers of every profile in an answer of X, Bluesky, Mastodon or YouTube."""
    match body:
        case {"username": name, "public_metrics": {"followers_count": count}}:
            yield name, count
        case {"username": name, "followers_count": count} | {"handle": name, "followersCount": count}:
            yield name, count
        case {"snippet": {"customUrl": name}, "statistics": {"subscriberCount": count}}:
            yield name.removeprefix("@"), int(count)
        case dict():
            for part in body.values():
                yield from numbers(part)
        case list():
            for part in body:
                yield from numbers(part)


def watch(engine: Engine) -> None:
    """Note every reading that is kept from now on."""
    with transaction(engine) as conn:
        conn.execute(text(_WATCH))


def kept(engine: Engine) -> list[Kept]:
    """Return every reading that was kept, the oldest first."""
    with reading(engine) as conn:
        return [Kept(row.at, row.handle, row.followers) for row in conn.execute(text(_KEPT))]


def write_past(engine: Engine) -> None:
    """Give every account that has been read once the weeks before."""
    today = datetime.now(UTC).date()
    with transaction(engine) as conn:
        partitions.cover(conn, [today - timedelta(days=age) for age in range(DAYS + 2)])
    with transaction(engine) as conn:
        derived.alone(conn)
        conn.execute(
            text("SET LOCAL session_replication_role = replica")
        )  # neither noted as kept nor counted one by one
        conn.execute(text(_PAST), {"days": DAYS})
        derived.rederive(conn, list(conn.scalars(text("SELECT account_key FROM dim_account"))))
        derived.recount(conn)
