"""That the benchmark of metrics measures what it says, in small."""

import pytest

from tests.performance import metrics


def test_every_chapter_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MESSAGES": 60, "ROUNDS": 1, "REQUESTS_COUNTED": 200, "READS": 5, "DAYS": 2}.items():
        monkeypatch.setattr(metrics, name, value)

    chapters = list(metrics.run())

    assert len(chapters) == 3
    assert all(line.value > 0 for chapter in chapters for line in chapter.lines)
    assert sum(line.is_met is not None for chapter in chapters for line in chapter.lines) == 3
