"""Small functions that run for each request, row or job, beside the least that does their work, in turn.

Each is CPU of one thread; what asks the database is timed by the clock.
"""

import base64
import csv
import gc
import io
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct, structs
from sqlalchemy import text

from api import schemas
from api.cache.entries import Answer, Kept, Key
from api.cache.memory import Memory
from api.cache.stats import Counts
from api.cache.tags import Purges
from api.client import Proxies
from api.front import Front, Question
from api.lists import Page
from api.media import Rows
from db import partitions
from db.engine import Engine, transaction
from db.keyset import After, Order
from db.reads import AccountSummary
from pipeline import formats
from pipeline.records import Account, Profile
from pipeline.records import Page as Read
from tests import jobs
from tests.performance.accounts import load_due
from tests.performance.machine import machine
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds
from workers.platforms.x import X

ROUNDS = Rounds(10, 60)
QUICK = Rounds(3, 3)
# Of each side in a round.
ROUND_S = 0.01
BATCH = 100
SAVES = 5
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
# Never touched by what is measured here.
_UNUSED: Any = None


class Case(Struct, frozen=True):
    """Two ways to do a thing, of which `ours` may cost `at_most` as much as the yardstick. `agree` compares what they return."""

    name: str
    ours: Callable[[], Any]
    yardstick: Callable[[], Any]
    agree: Callable[[Any, Any], bool]
    at_most: float


def run(*, quick: bool = False) -> Iterator[Chapter]:
    """Measure, and yield each chapter as it is found."""
    rounds = QUICK if quick else ROUNDS
    yield Chapter(
        "Functions without a database, CPU",
        [line for make in CASES.values() for line in _compared(make(), rounds)],
        fails_when="rows become dicts instead of structs before they are JSON: 0.2 of dicts and json.dumps; CSV is written"
        " through dicts: 2.1; a request's headers are taken apart: 44; an answer's key is hashed anew: 26; users are indexed"
        " for each account: 87; a row's types are looked up for each cursor: 18",
    )
    with machine() as running:
        load_due(running.engine, BATCH, now=NOON, posts_due=False)
        # The disk's time would hide the work's.
        with transaction(running.engine) as conn:
            conn.execute(text("ALTER DATABASE rollcall SET synchronous_commit = off"))
        running.engine.dispose()
        yield _job(Jobs(running.engine), rounds)


def _compared(case: Case, rounds: Rounds) -> Sequence[Line]:
    """Return what ours costs as a multiple of the yardstick, and both."""
    calls = {side: _calls(side) for side in (case.ours, case.yardstick)}
    found: dict[Callable[[], Any], list[float]] = {side: [] for side in calls}
    sides = [*calls]

    def lines() -> list[Line]:
        pairs = zip(found[case.ours], found[case.yardstick], strict=True)
        return [
            middle(case.name, [mine / bare for mine, bare in pairs], "times", at_most=case.at_most),
            middle("  its CPU", [1e6 * spent_s for spent_s in found[case.ours]], "µs"),
        ]

    for number in rounds.until_steady(lines):
        random.shuffle(sides)
        for side in sides:
            spent_s = _cpu_s(side, calls[side])
            if number:
                found[side].append(spent_s)
    return lines()


def _calls(work: Callable[[], Any]) -> int:
    """Return how many calls take about as long as a round should."""
    calls = 1
    while calls * _cpu_s(work, calls) < ROUND_S:
        calls *= 2
    return calls


def _cpu_s(work: Callable[[], Any], calls: int) -> float:
    """Return the CPU seconds of one call; garbage is looked for at another time."""
    gc.disable()
    try:
        began = time.thread_time()
        for _ in range(calls):
            work()
        return (time.thread_time() - began) / calls
    finally:
        gc.enable()


def _job(both: "Jobs", rounds: Rounds) -> Chapter:
    ours, bare = list[float](), list[float]()

    def lines() -> list[Line]:
        return [
            middle(
                "claimed, begun and saved / a COPY of as many bare rows",
                [mine / other for mine, other in zip(ours, bare, strict=True)],
                "times",
                at_most=28,
            ),
            middle("claimed, begun and saved", [1_000 * took_s for took_s in ours], "ms"),
        ]

    for number in rounds.until_steady(lines):
        took = [(_took_s(both.claim_and_save), _took_s(both.copy)) for _ in range(SAVES)]
        if number:
            ours.append(median(mine for mine, _ in took))
            bare.append(median(other for _, other in took))
    return Chapter(
        f"A job of {BATCH}, with the database",
        lines(),
        fails_when="snapshots are written ten at a time: 45 times a COPY; one by one: 230",
    )


def _took_s(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Jobs:
    """A job of a hundred accounts of X that are due, each time a day later and with other numbers; and a plain table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._day = 0
        with transaction(engine) as conn:
            conn.execute(
                text("CREATE TABLE plain (account_key bigint, day date, followers bigint, captured_at timestamptz)")
            )
            partitions.cover(conn, [NOON.date(), NOON.date() + timedelta(days=1_000)])

    def claim_and_save(self) -> int:
        """Claim what is due, begin it, save a reading of each; return how many were new. They are due the next day."""
        self._day += 1
        now = NOON + timedelta(days=self._day)
        with transaction(self._engine) as conn:
            job = jobs.running(conn, batch=BATCH, now=now)
        profiles = [
            Profile(
                account_key=one.account_key, external_id=str(one.external_id), handle=one.handle, followers=self._day
            )
            for one in job.accounts
        ]
        with transaction(self._engine) as conn:
            changes = jobs.saved(conn, job, profiles, now=now)
            assert changes is not None
        return len(profiles)

    def copy(self) -> int:
        """Copy as many bare rows into the plain table, and commit."""
        rows = "".join(f"{n}\t{NOON:%Y-%m-%d}\t{n}\t{NOON.isoformat()}\n" for n in range(BATCH))
        connection = self._engine.raw_connection()
        try:
            with connection.cursor() as cursor:
                cursor.copy_expert("COPY plain FROM STDIN", io.StringIO(rows))
                copied = int(cursor.rowcount)
            connection.commit()
            return copied
        finally:
            connection.close()


def _encoded() -> Case:
    """Write a page of 50 accounts, from the rows as the database gives them."""
    rows = _rows(50)

    def ours() -> bytes:
        items = Rows(AccountSummary, AccountSummary.__struct_fields__, rows).objects()
        return msgspec.json.encode(
            Page(items=items, page=1, per_page=50, total=50, next=None, next_cursor=None, as_of=NOON)
        )

    def plain() -> str:
        items = [dict(zip(AccountSummary.__struct_fields__, row, strict=True)) for row in rows]
        return json.dumps({"items": items}, default=_text)

    return Case(
        "a page of 50 as JSON / dicts and json.dumps",
        ours,
        plain,
        lambda mine, other: json.loads(mine)["items"] == json.loads(other)["items"],
        at_most=0.15,
    )


def _csv() -> Case:
    """Write 1,000 accounts as CSV, cells made safe for spreadsheets."""
    rows = _rows(1_000)
    columns = formats.columns_of(AccountSummary)

    def plain() -> bytes:
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(AccountSummary.__struct_fields__)
        writer.writerows(rows)
        return out.getvalue().encode()

    def same(mine: bytes, other: bytes) -> bool:
        written = other.replace(b"True", b"true").replace(b"2026-03-02 12:00:00+00:00", b"2026-03-02T12:00:00Z")
        return mine == written

    return Case(
        "1,000 accounts as CSV / csv.writer",
        lambda: b"".join(formats.encode("csv", "", columns, [rows])),
        plain,
        same,
        at_most=2,
    )


def _recalled() -> Case:
    """Know a request by its bytes, which is all the parsing that a hit gets."""
    raw = b"GET /api/summary HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a\r\nAccept: */*\r\nAccept-Encoding: zstd\r\n\r\n"
    known: Any = "what it is answered with"
    question = Question(_UNUSED, known, None, "GET", None, None, "", None, False)
    front = Front(_UNUSED, _UNUSED, _UNUSED, _UNUSED, _UNUSED, Proxies(()), timeout_s=1)
    front.remember(raw, "127.0.0.1", question)
    heads = {raw: question}
    return Case(
        "a request known by its bytes / a dict",
        lambda: front.recall(raw, "127.0.0.1"),
        lambda: heads.get(raw),
        lambda mine, other: mine == other == question,
        at_most=10,
    )


def _kept() -> Case:
    """Find an answer in memory, with its age and the purges of its tags looked at."""
    purges = Purges()
    purges.connected()
    memory = Memory(purges, entries=1_000, kept_s=3_600)
    keys = [Key(f"/api/accounts/x/h{number}", (), "application/json") for number in range(1_000)]
    for key in keys:
        answer = Answer(
            digest=key.digest, content="", status=200, tags=("account:1", "platform:x"), modified_at=None, ttl_s=3_600
        )
        now = time.monotonic()
        memory.put(
            key,
            Kept(answer=answer, variants={}, counts=Counts(), stamp=purges.stamp(), read_at=now, until=now + 3_600),
        )
    key = keys[500]
    plain = {one: memory.peek(one) for one in keys}
    return Case(
        "an answer found in memory / a dict",
        lambda: memory.get(key),
        lambda: plain[key],
        lambda mine, other: mine == (other, "fresh"),
        at_most=12,
    )


def _parsed() -> Case:
    """Read 100 profiles out of an answer of X."""
    x = X()
    accounts = [
        Account(account_key=n, platform="x", handle=f"agency{n}", url="https://x.example", external_id=str(n))
        for n in range(1, 101)
    ]
    body = json.dumps({"data": [_user(one) for one in accounts]})
    return Case(
        "100 profiles of X out of an answer / json.loads of it",
        lambda: [*x.parse_profiles(Read(200, {}, msgspec.json.decode(body), NOON), accounts)],
        lambda: json.loads(body)["data"],
        lambda mine, other: (
            [(one.external_id, one.followers) for one in mine]
            == [(one["id"], one["public_metrics"]["followers_count"]) for one in other]
        ),
        at_most=8,
    )


def _user(account: Account) -> Mapping[str, Any]:
    counts = {
        "followers_count": 1_000 + account.account_key,
        "following_count": 7,
        "tweet_count": 70,
        "listed_count": 1,
    }
    return {
        "id": account.external_id,
        "username": account.handle,
        "name": f"Agency {account.account_key}",
        "description": "Health for all. " * 8,
        "profile_image_url": f"https://pbs.example/{account.account_key}.jpg",
        "verified": True,
        "public_metrics": counts,
    }


def _cursor() -> Case:
    """Write the place behind a row, and read it as it comes back: from anyone, so it is looked at closely."""
    order, after = Order("followers", descending=True), After(123_456, 4_711)

    def plain() -> list[Any]:
        packed = base64.urlsafe_b64encode(json.dumps(["followers", True, 123_456, 4_711]).encode())
        found: list[Any] = json.loads(base64.urlsafe_b64decode(packed))
        return found

    return Case(
        "a cursor written and read / base64 and json",
        lambda: schemas.place_of(schemas.cursor_of(order, after), order, AccountSummary),
        plain,
        lambda mine, other: [mine.value, mine.key] == other[2:],
        at_most=1.5,
    )


def _rows(number: int) -> list[tuple[Any, ...]]:
    return [
        structs.astuple(
            AccountSummary(
                account_key=n,
                platform="x",
                handle=f"agency{n}",
                display_name=f"Agency {n}",
                org_name=f"Organisation {n % 20}",
                is_core_account=True,
                account_url=f"https://x.com/agency{n}",
                followers=100_000 + n,
                following=n,
                posts=7 * n,
                engagement=None,
                delta_1d=n % 7,
                delta_7d=n % 70,
                delta_30d=None,
                growth_7d_pct=n / 8,
                snapshot_date=NOON.date(),
                captured_at=NOON,
                status="ok",
                reason=None,
                precision="exact",
                source="live",
            )
        )
        for n in range(1, number + 1)
    ]


def _text(value: Any) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else value.isoformat()


CASES: Mapping[str, Callable[[], Case]] = {
    "page as JSON": _encoded,
    "accounts as CSV": _csv,
    "known request": _recalled,
    "kept answer": _kept,
    "profiles of X": _parsed,
    "cursor": _cursor,
}
