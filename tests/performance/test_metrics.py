"""That the benchmark of metrics measures what it says, in small."""

import pytest

from tests.performance import metrics
from tests.performance.rounds import Rounds


def test_every_chapter_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = metrics.Size(
        rounds=Rounds(1, 1),
        messages=60,
        stream_s=1,
        requests=200,
        days=2,
        rounds_of_a_month=1,
        reads=5,
        asked=5,
    )
    monkeypatch.setattr(metrics, "QUICK", small)

    chapters = list(metrics.run(quick=True))

    assert len(chapters) == 4
    # A recorder may just then be behind by nothing.
    assert all(line.value > 0 or line.unit == "s" for chapter in chapters for line in chapter.lines)
    assert sum(line.is_met is not None for chapter in chapters for line in chapter.lines) == 9
