"""How long a list's length is kept."""

from api.cache import extents
from api.cache.extents import Extents
from api.cache.tags import Purges
from db.reads import Extent, Filters

EVERYBODY = Filters()


class Counted:
    """A list that grows with every count."""

    def __init__(self) -> None:
        self.now = 0.0
        self.purges = Purges()
        self.purges.connected()
        self.extents = Extents[Extent](self.purges, "summary", clock=lambda: self.now)
        self.counts = 0

    def total(self, filters: Filters = EVERYBODY) -> int:
        return self.extents.get(filters, self._count).total

    def _count(self) -> Extent:
        self.counts += 1
        return Extent(self.counts, None)


def test_a_list_is_counted_once_per_filter_until_its_tag_is_purged() -> None:
    of = Counted()
    assert [of.total(), of.total(), of.total(Filters(platform="x")), of.total()] == [1, 1, 2, 1]
    of.purges.purge({"account:7"})
    assert of.total() == 1
    of.purges.purge({"summary"})
    assert of.total() == 3


def test_a_commit_that_is_heard_of_while_counting_ends_the_count() -> None:
    of = Counted()
    of.extents.get(Filters(), lambda: (of.purges.purge({"summary"}), Extent(0, None))[1])
    assert of.total() == 1


def test_nothing_is_kept_for_long_nor_while_purges_cannot_be_heard() -> None:
    of = Counted()
    assert of.total() == 1
    of.now = extents.KEPT_S
    assert of.total() == 2
    of.purges.disconnected()
    assert [of.total(), of.total()] == [3, 4]


def test_ever_more_filters_take_no_more_memory() -> None:
    of = Counted()
    for number in range(3 * extents.MOST):
        of.total(Filters(text=f"{number}"))
    assert len(of.extents._kept) <= extents.MOST
