from collections.abc import Iterator

import pytest

from deploy.simulator.server import Simulator
from tests.unit.deploy.asker import Asker


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(port=0) as running:
        yield running


@pytest.fixture
def asker(simulator: Simulator) -> Iterator[Asker]:
    """Return a client of a simulator that remembers nothing of other tests."""
    asker = Asker(simulator.url)
    asker.order("reset")
    yield asker
    asker.pool.clear()
