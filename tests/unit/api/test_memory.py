from api.cache.entries import Answer, Key
from api.cache.memory import Memory
from api.cache.tags import Purges


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(path: str) -> Key:
    return Key(path, (), "application/json", "identity")


def answer(path: str, *, expires_at: float = 10_000.0) -> Answer:
    return Answer(
        digest=key(path).digest,
        body=path.encode(),
        encoding="identity",
        etag='"1"',
        tags=("summary",),
        modified_at=None,
        expires_at=expires_at,
    )


def memory(entries: int = 10) -> tuple[Memory, Purges, Clock]:
    purges, clock = Purges(), Clock()
    purges.connected()
    return Memory(purges, entries=entries, kept_s=60, clock=clock), purges, clock


def test_the_least_recently_used_answer_makes_room() -> None:
    kept, purges, _ = memory(entries=2)
    kept.put(key("/a"), answer("/a"), purges.stamp())
    kept.put(key("/b"), answer("/b"), purges.stamp())
    assert kept.get(key("/a"))
    kept.put(key("/c"), answer("/c"), purges.stamp())
    assert [kept.get(key(path)) is not None for path in ("/a", "/b", "/c")] == [True, False, True]


def test_an_answer_is_kept_no_longer_than_the_memory_keeps_any() -> None:
    kept, purges, clock = memory()
    kept.put(key("/a"), answer("/a"), purges.stamp())
    clock.now += 59.9
    assert kept.get(key("/a"))
    clock.now += 0.1
    assert kept.get(key("/a")) is None


def test_an_answer_from_redis_ends_when_it_ends_there() -> None:
    kept, purges, clock = memory()
    kept.put(key("/a"), answer("/a", expires_at=clock.now + 5), purges.stamp())
    clock.now += 5
    assert kept.get(key("/a")) is None


def test_a_purge_between_the_read_and_the_keeping_voids_the_answer() -> None:
    kept, purges, _ = memory()
    stamp = purges.stamp()
    purges.purge(["summary"])
    kept.put(key("/a"), answer("/a"), stamp)
    assert kept.get(key("/a")) is None
