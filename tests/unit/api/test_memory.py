from datetime import UTC, datetime, timedelta

import pytest

from api.cache import memory
from api.cache.entries import Answer, Kept, Key, Variant
from api.cache.memory import Memory
from api.cache.stats import Counts
from api.cache.tags import DEAF_S, STALE_S, Purges


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Level:
    """A memory whose answers all show one tag."""

    def __init__(self, entries: int = 10, tag: str = "summary") -> None:
        self.clock = Clock()
        self.purges = Purges(clock=self.clock)
        self.purges.connected()
        self.memory = Memory(self.purges, entries=entries, kept_s=60, clock=self.clock)
        self.counts = Counts()
        self.tag = tag

    def put(
        self,
        path: str,
        *,
        stamp: int | None = None,
        ttl_s: float = 1000,
        modified_at: datetime | None = None,
        account: str | None = None,
        **what: float,
    ) -> None:
        answer = Answer(
            digest=key(path).digest,
            content=path,
            status=200,
            tags=(self.tag,),
            modified_at=modified_at,
            ttl_s=ttl_s,
            account=account,
        )
        kept = Kept(
            answer=answer,
            variants={"identity": Variant("identity", '"1"', path.encode(), True)},
            counts=self.counts,
            stamp=self.purges.stamp() if stamp is None else stamp,
            read_at=self.clock(),
            until=self.clock() + ttl_s,
            **what,
        )
        self.memory.put(key(path), kept)

    def state(self, path: str) -> str | None:
        found = self.memory.get(key(path))
        return None if found is None else found[1]


NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def key(path: str) -> Key:
    return Key(path, (), "application/json")


def test_the_least_recently_used_answer_makes_room() -> None:
    level = Level(entries=2)
    level.put("/a")
    level.put("/b")
    assert level.state("/a") == "fresh"
    level.put("/c")
    assert [level.state(path) for path in ("/a", "/b", "/c")] == ["fresh", None, "fresh"]
    assert level.counts.evicted == 1


def test_an_answer_is_kept_no_longer_than_the_memory_keeps_any() -> None:
    level = Level()
    level.put("/a")
    level.clock.now += 59.9
    assert level.state("/a") == "fresh"
    level.clock.now += 0.1
    assert level.state("/a") is None
    assert level.counts.expired == 1


def test_an_answer_ends_with_its_time_to_live() -> None:
    level = Level()
    level.put("/a", ttl_s=5)
    level.clock.now += 5
    assert level.state("/a") is None


def test_a_purge_between_the_read_and_the_keeping_voids_what_shows_an_account() -> None:
    level = Level(tag="account:1")
    stamp = level.purges.stamp()
    level.purges.purge(["account:1"])
    level.put("/a", stamp=stamp)
    assert level.state("/a") is None
    assert level.counts.purged == 1


def test_an_aggregate_is_stale_for_a_while_after_the_first_commit_it_does_not_show_and_then_late() -> None:
    level = Level()
    level.put("/a")
    level.clock.now += 10
    for _ in range(19):  # a sweep: the last purge is always new, the first is what counts
        level.purges.purge(["summary"])
        assert level.state("/a") == "stale"
        level.clock.now += STALE_S / 20
    level.clock.now += STALE_S / 10
    assert level.state("/a") == "late"


def test_what_was_read_amid_a_sweep_is_stale_only_since_the_next_purge() -> None:
    level = Level()
    for _ in range(100):
        level.purges.purge(["summary"])
        level.clock.now += STALE_S / 4
    level.put("/a")
    assert level.state("/a") == "fresh"
    level.purges.purge(["summary"])
    level.clock.now += STALE_S * 0.9
    assert level.state("/a") == "stale"
    level.clock.now += STALE_S * 0.2
    assert level.state("/a") == "late"


def test_what_redis_gave_stale_is_as_old_as_redis_said() -> None:
    level = Level()
    level.put("/a", unseen_since=level.clock() - STALE_S + 0.1)
    assert level.state("/a") == "stale"
    level.clock.now += 0.2
    assert level.state("/a") == "late"


def test_while_purges_cannot_be_heard_an_answer_is_given_out_for_a_moment_only() -> None:
    level = Level(tag="account:1")
    level.purges.disconnected()
    level.put("/a")
    level.clock.now += DEAF_S
    assert level.state("/a") == "fresh"
    level.clock.now += 0.1
    assert level.state("/a") is None


def test_everything_is_forgotten_when_everything_is_purged() -> None:
    level = Level()
    level.put("/a")
    level.purges.purge(["*"])
    assert level.state("/a") is None
    level.put("/a")
    assert level.state("/a") == "fresh"


def test_what_was_shown_of_an_account_is_not_taken_back_under_another_address() -> None:
    level = Level(tag="account:1")
    level.put("/old", modified_at=NOON, account="account:1")
    level.put("/never read", modified_at=None, account="account:1")
    level.put("/another's", modified_at=NOON, account="account:2")
    level.put("/no account's", modified_at=NOON)
    level.put("/new", modified_at=NOON + timedelta(seconds=1), account="account:1")
    assert level.state("/old") is None
    assert level.state("/never read") is None
    assert [level.state(path) for path in ("/new", "/another's", "/no account's")] == ["fresh"] * 3
    assert level.counts.purged == 2


def test_a_time_that_was_put_right_is_what_is_shown_from_then_on() -> None:
    level = Level(tag="account:1")
    level.put("/a", modified_at=NOON, account="account:1")
    level.put("/b", modified_at=NOON - timedelta(days=1), account="account:1")
    assert [level.state(path) for path in ("/a", "/b")] == ["fresh", "fresh"]


def test_of_which_accounts_it_is_known_what_was_shown_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MOST_SHOWN", 2)
    level = Level()
    level.put("/old", modified_at=NOON, account="account:1")
    for number in (1, 2, 3):
        level.put(f"/{number}", modified_at=NOON + timedelta(seconds=1), account=f"account:{number}")
    assert level.state("/old") == "fresh"
    level.put("/old 3", modified_at=NOON, account="account:3")
    level.put("/new 3", modified_at=NOON + timedelta(seconds=1), account="account:3")
    assert level.state("/old 3") is None
