import threading
from collections.abc import Iterator

import pytest

from api.cache import tags
from api.cache.tags import Purges


def listening() -> Purges:
    purges = Purges()
    purges.connected()
    return purges


def test_an_answer_holds_until_one_of_its_tags_is_purged() -> None:
    purges = listening()
    stamp = purges.stamp()
    assert purges.hold(["account:1", "summary"], stamp)
    purges.purge(["account:2"])
    assert purges.hold(["account:1", "summary"], stamp)
    purges.purge(["summary"])
    assert not purges.hold(["account:1", "summary"], stamp)


def test_a_read_that_began_before_a_purge_was_heard_is_void_and_one_begun_after_holds() -> None:
    purges = listening()
    before = purges.stamp()
    purges.purge(["summary"])
    assert not purges.hold(["summary"], before)
    assert purges.hold(["summary"], purges.stamp())


def test_nothing_holds_while_purges_cannot_be_heard() -> None:
    purges = Purges()
    assert not purges.hold(["summary"], purges.stamp())
    purges.connected()
    stamp = purges.stamp()
    assert purges.hold(["summary"], stamp)
    purges.disconnected()
    assert not purges.hold(["summary"], stamp)


def test_a_new_connection_voids_all_that_was_read_before_it() -> None:
    purges = listening()
    stamp = purges.stamp()
    purges.disconnected()
    purges.connected()
    assert not purges.hold(["summary"], stamp)
    assert purges.hold(["summary"], purges.stamp())


def test_forgetting_old_purges_revives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "MOST_TAGS", 3)
    purges = listening()
    stamp = purges.stamp()
    purges.purge(["account:1"])
    purges.purge(["account:2", "account:3", "account:4"])
    assert not purges.hold(["account:1"], stamp)
    assert purges.hold(["account:1"], purges.stamp())


def test_two_threads_that_purge_a_tag_leave_it_purged_by_the_later_one() -> None:
    purges = listening()
    later = threading.Thread(target=lambda: purges.purge(["summary"]))
    stamps = []

    def meanwhile() -> Iterator[str]:
        stamps.append(purges.stamp())  # of a read that begins between the two commits
        later.start()
        later.join(0.3)  # it waits for its turn
        yield "summary"

    purges.purge(meanwhile())
    later.join()
    assert not purges.hold(["summary"], stamps[0])
