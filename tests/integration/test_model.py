"""Any row of writes, against a model in plain Python: snapshots, newest numbers, counts of days, and what reads say.

The model keeps the snapshots in a dictionary and works everything else out from them, each time anew.
"""

import uuid
from collections import Counter
from datetime import date, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs
from sqlalchemy import Connection, text

from db import accounts, bulk, check, derived, partitions, reads, writes
from db.accounts import Facts
from db.engine import Engine, transaction
from db.keyset import Order, Window
from db.reads import Clock, Filters
from db.standing import StaleAfter
from tests.fakes import NOON
from tests.history import snapshot
from tests.jobs import decided, listed, requested, said

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
DELTAS = (1, 7, 30)


class Seen(Struct, frozen=True):
    """A snapshot, as far as it decides what follows."""

    followers: int | None
    at: datetime
    precision: str
    source: str = "simulated"

    @property
    def is_held(self) -> bool:
        return self.precision == "held"


class Model:
    """What three accounts should look like. `held` are the readings that await a second one."""

    def __init__(self, keys: list[int]) -> None:
        self.days: dict[int, dict[date, Seen]] = {key: {} for key in keys}
        self.orgs: dict[int, str | None] = dict.fromkeys(keys)
        self.held: dict[int, Seen] = {}

    def newest(self, key: int) -> date | None:
        return max((day for day, seen in self.days[key].items() if not seen.is_held), default=None)

    def read(self, key: int, seen: Seen) -> None:
        day, newest, held = seen.at.date(), self.newest(key), self.held.get(key)
        known = self.days[key][newest] if newest else None
        is_newest = bool(
            known and newest and newest <= day and known.at <= seen.at and not (held and held.at > seen.at)
        )
        if is_newest and known and newest and far(seen.followers, known.followers, (day - newest).days):
            if held is None or far(seen.followers, held.followers, (day - held.at.date()).days):
                self.held[key] = seen
                self.keep(key, day, structs.replace(seen, precision="held"))
                return
            held_day = self.days[key].get(held.at.date())
            if held_day and held_day.is_held:
                self.days[key][held.at.date()] = structs.replace(held_day, precision=held.precision)
        self.keep(key, day, seen)
        if is_newest:
            self.held.pop(key, None)
        self.settle(key)

    def keep(self, key: int, day: date, seen: Seen) -> None:
        standing = self.days[key].get(day)
        if standing and standing.source != "imported" and standing.at > seen.at:
            return
        if standing and seen.is_held and not standing.is_held:
            return
        self.days[key][day] = seen

    def bring(self, key: int, days: dict[date, Seen], *, overwrite_live: bool) -> None:
        for day, seen in days.items():
            standing = self.days[key].get(day)
            if standing is None or standing.source == "imported" or overwrite_live:
                self.days[key][day] = seen
        if days:
            self.settle(key)

    def settle(self, key: int) -> None:
        """Forget a held reading that is older than the newest accepted one, or whose day is gone."""
        held, newest = self.held.get(key), self.newest(key)
        if held is None:
            return
        standing = self.days[key].get(held.at.date())
        is_its_own = standing and (
            not standing.is_held or (standing.at, standing.followers) == (held.at, held.followers)
        )
        if newest is None or self.days[key][newest].at > held.at or not is_its_own:
            del self.held[key]

    def latest(self, key: int) -> tuple[Any, ...] | None:
        newest = self.newest(key)
        if newest is None:
            return None
        seen, held = self.days[key][newest], self.held.get(key)
        deltas = [self.delta(key, seen, newest - n * DAY) for n in DELTAS]
        waiting = (held.followers, held.at, held.precision) if held else (None, None, None)
        return (newest, seen.at, seen.followers, *deltas, seen.source, seen.precision, *waiting)

    def delta(self, key: int, seen: Seen, day: date) -> int | None:
        past = self.days[key].get(day)
        if past is None or past.is_held or past.followers is None or seen.followers is None:
            return None
        return seen.followers - past.followers

    def counts(self) -> Counter[tuple[str, str, date]]:
        found: Counter[tuple[str, str, date]] = Counter()
        for key, days in self.days.items():
            for day in days:
                org = self.orgs[key]
                found.update([("", "", day), ("x", "", day), *([("", org, day)] if org else [])])
        return found


def far(count: int | None, known: int | None, days: int) -> bool:
    if count is None or known is None or max(count, known) < 1_000:
        return False
    return (count - known) * 100 <= -50 * known or (count - known) * 100 >= 300 * max(days, 1) * known


class Both:
    """A database and its model, changed together."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.keys = listed(conn, *(uuid.uuid4().hex for _ in range(3)))
        self.model = Model(self.keys)
        self.now = NOON

    def read(self, n: int, hours: int, followers: int | None, precision: Any) -> None:
        key, self.now = self.keys[n], self.now + hours * HOUR
        if key not in self.model.days:
            return
        job = requested(self.conn, [key], now=self.now)
        profiles = said(job, followers, precision=precision, external_id=f"id-{key}")
        nexts = decided(job, now=self.now)
        assert writes.save(self.conn, job, nexts=nexts, profiles=profiles, source="simulated", now=self.now)
        self.model.read(key, Seen(followers, self.now, precision))

    def fail(self, n: int) -> None:
        if self.keys[n] in self.model.days:
            job = requested(self.conn, [self.keys[n]], now=self.now)
            nexts = decided(job, "failed", "timed out", now=self.now)
            assert writes.save(self.conn, job, nexts=nexts, source="simulated", now=self.now)

    def bring(self, n: int, ago: set[int], followers: int | None, overwrite_live: bool) -> None:
        key = self.keys[n]
        if key in self.model.days:
            given = [snapshot(key, self.now.date() - days * DAY, followers) for days in sorted(ago)]
            bulk.upsert_snapshots(self.conn, given, overwrite_live=overwrite_live)
            seen = {g.snapshot_date: Seen(followers, g.captured_at, "exact", "imported") for g in given}
            self.model.bring(key, seen, overwrite_live=overwrite_live)

    def delete(self, n: int, ago: int) -> None:
        """Delete a day's snapshot by hand, and let the repair see to the rest."""
        day = self.now.date() - ago * DAY
        self.conn.execute(
            text("DELETE FROM fact_followers_snapshot WHERE account_key = :key AND snapshot_date = :day"),
            {"key": self.keys[n], "day": day},
        )
        check.repair(self.conn)
        if self.model.days.get(self.keys[n], {}).pop(day, None):
            self.model.settle(self.keys[n])

    def remove(self, n: int) -> None:
        """Remove an account by hand, and let the repair see to the rest."""
        self.conn.execute(text("DELETE FROM dim_account WHERE account_key = :key"), {"key": self.keys[n]})
        check.repair(self.conn)
        self.model.days.pop(self.keys[n], None)
        self.model.held.pop(self.keys[n], None)

    def move(self, n: int, org: str | None) -> None:
        if self.keys[n] in self.model.days:
            accounts.change(self.conn, {self.keys[n]: Facts(org_name=org)}, now=self.now)
            self.model.orgs[self.keys[n]] = org

    def retire(self) -> None:
        today = self.now.date()
        partitions.ensure(self.conn, today=today, months=1)
        gone = partitions.retire(self.conn, today=today, months=2, action="drop")
        kept_from = (today.replace(day=1) - DAY).replace(day=1)
        kept_from = (kept_from - DAY).replace(day=1)
        for key, days in self.model.days.items():
            past = [day for day in days if day < kept_from]
            assert gone or not past
            for day in past:
                del days[day]
            self.model.settle(key)

    def clear(self) -> None:
        writes.clear_simulated(self.conn, resolving=[])
        for days in self.model.days.values():
            for day in [day for day, seen in days.items() if seen.source == "simulated"]:
                del days[day]
        self.model.held.clear()

    def compare(self) -> None:
        conn, model = self.conn, self.model
        for key in self.keys:
            rows = conn.execute(
                text("SELECT * FROM fact_followers_snapshot WHERE account_key = :key"), {"key": key}
            ).all()
            kept = {r.snapshot_date: Seen(r.followers, r.captured_at, r.precision, r.source) for r in rows}
            assert kept == model.days.get(key, {})
            assert self.stored_latest(key) == (model.latest(key) if key in model.days else None)
        counted = conn.execute(
            text("SELECT platform, org_name, snapshot_date, snapshots FROM day_count WHERE snapshots > 0")
        )
        assert {(platform, org, day): n for platform, org, day, n in counted} == dict(model.counts())
        assert derived.rederive(conn, self.keys) == 0
        assert list(check.differences(conn)) == []
        self.compare_reads()

    def stored_latest(self, key: int) -> tuple[Any, ...] | None:
        query = text("SELECT * FROM account_latest WHERE account_key = :key")
        row = self.conn.execute(query, {"key": key}).one_or_none()
        if row is None:
            return None
        deltas = [getattr(row, f"delta_{n}d") for n in DELTAS]
        held = (row.held_followers, row.held_at, row.held_precision)
        return (row.snapshot_date, row.captured_at, row.followers, *deltas, row.source, row.precision, *held)

    def compare_reads(self) -> None:
        clock = Clock(self.now, StaleAfter(interval_s=86_400, after_s=93_600))
        found = reads.summary(self.conn, Filters(), Order(), Window(limit=9), clock).rows
        assert [row.account_key for row in found] == sorted(self.model.days)
        for row in found:
            newest = self.model.latest(row.account_key)
            shown = (row.snapshot_date, row.captured_at, row.followers, row.delta_1d, row.delta_7d, row.delta_30d)
            assert shown == (newest[:6] if newest else (None,) * 6)
            days = reads.days(self.conn, row.account_key, date(2000, 1, 1), date(2100, 1, 1))
            assert {day.snapshot_date: (day.followers, day.is_held) for day in days} == {
                day: (None if seen.is_held else seen.followers, seen.is_held)
                for day, seen in self.model.days[row.account_key].items()
            }


NUMBER = st.integers(0, 2)
FOLLOWERS = st.sampled_from([None, 0, 400, 999, 1_000, 2_000, 2_500, 4_000, 10_000]) | st.integers(0, 50_000)
HOURS = st.sampled_from([-30, -2, 0, 1, 5, 24, 24, 24, 48, 6 * 24, 7 * 24, 30 * 24])
AGO = st.sampled_from([0, 1, 2, 6, 7, 8, 30, 31, 100])
WRITES = st.one_of(
    st.tuples(st.just("read"), NUMBER, HOURS, FOLLOWERS, st.sampled_from(["exact", "rounded"])),
    st.tuples(st.just("read"), NUMBER, HOURS, FOLLOWERS, st.just("exact")),
    st.tuples(st.just("fail"), NUMBER),
    st.tuples(st.just("bring"), NUMBER, st.sets(AGO, min_size=1, max_size=4), FOLLOWERS, st.booleans()),
    st.tuples(st.just("delete"), NUMBER, AGO),
    st.tuples(st.just("move"), NUMBER, st.sampled_from([None, "Org", "Other"])),
    st.tuples(st.sampled_from(["remove"]), NUMBER),
    st.tuples(st.sampled_from(["retire", "clear"])),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(WRITES, min_size=1, max_size=9))
@example(steps=[("read", 0, -30, None, "exact"), ("bring", 0, {0, 1}, None, False), ("delete", 0, 0)])
def test_any_row_of_writes_ends_as_in_the_model(engine: Engine, steps: list[tuple[Any, ...]]) -> None:
    with transaction(engine) as conn:
        both = Both(conn)
        for step, *values in steps:
            getattr(both, step)(*values)
            both.compare()
        conn.rollback()
