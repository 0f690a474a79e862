"""That the benchmark of metrics measures what it says, in small."""

import pytest

from tests.performance import metrics
from tests.performance.rounds import Rounds


def test_every_chapter_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "MESSAGES": 60,
        "ROUNDS": Rounds(1, 1),
        "ROUNDS_OF_A_MONTH": 1,
        "STREAM_S": 1,
        "REQUESTS_COUNTED": 200,
        "READS": 5,
        "ASKED": 5,
        "DAYS": 2,
    }
    for name, value in small.items():
        monkeypatch.setattr(metrics, name, value)

    chapters = list(metrics.run())

    assert len(chapters) == 4
    # A recorder may just then be behind by nothing.
    assert all(line.value > 0 or line.unit == "s" for chapter in chapters for line in chapter.lines)
    assert sum(line.is_met is not None for chapter in chapters for line in chapter.lines) == 9
