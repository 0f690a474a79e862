"""How often a benchmark measures the same: until its ratios are steady."""

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from tests.performance.report import Line


class Rounds(Struct, frozen=True):
    """At least so many rounds, and at most so many."""

    least: int
    most: int

    def until_steady(self, lines: Callable[[], Iterable[Line]]) -> Iterator[int]:
        """Yield 0 for a round that only warms up, then 1, 2 and so on until each of what `lines` gives by then is steady."""
        yield 0
        for number in range(1, self.most + 1):
            yield number
            if number >= self.least and all(line.is_steady is not False for line in lines()):
                return
