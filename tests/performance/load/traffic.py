"""What is asked for under load: what people and programs ask for in the morning, some accounts far more than others."""

from collections.abc import Sequence
from random import Random

from msgspec import Struct

ZIPF = 1.1
# Of all requests, in percent.
_OF_ACCOUNTS = {"/api/history/{}": 30.0, "/api/accounts/{}": 20.0, "/accounts/{}": 5.0}
_OTHERS = {
    "/api/summary?per_page=50": 10.0,
    "/api/summary?per_page=50&sort=-followers": 8.0,
    "/api/accounts?per_page=50&status=failing": 5.0,
    "/api/totals?group=platform": 6.0,
    "/api/grid?per_page=50": 6.0,
    "/api/movers?days=7": 4.0,
    "/api/health/data": 2.0,
    "/": 4.0,
}


class Asked(Struct, frozen=True):
    """An address, and how often it is asked for in relation to the others."""

    path: str
    weight: float


def mix(names: Sequence[str], random: Random) -> list[Asked]:
    """Return what is asked for of these accounts (`platform/handle`), by Zipf's law, and of all."""
    shuffled = list(names)
    random.shuffle(shuffled)
    shares = [1 / rank**ZIPF for rank in range(1, len(shuffled) + 1)]
    whole = sum(shares)
    asked = [
        Asked(path.format(name), percent * share / whole)
        for path, percent in _OF_ACCOUNTS.items()
        for name, share in zip(shuffled, shares, strict=True)
    ]
    return asked + [Asked(path, percent) for path, percent in _OTHERS.items()]
