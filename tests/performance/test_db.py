"""That the benchmark of history measures what it says: a small one, every chapter of it."""

import pytest

from tests.performance import counted, db
from tests.performance.rounds import Rounds


def test_a_small_history_goes_through_every_chapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "QUICK", db.Size(60, (5, 10, 40)))
    monkeypatch.setattr(db, "SERVER", {"fsync": "off"})
    for name in ("ROUNDS", "WRITES", "EXPORTS", "COUNTS"):
        monkeypatch.setattr(db, name, Rounds(1, 1))
    monkeypatch.setattr(counted, "ROUNDS", 1)
    monkeypatch.setattr(counted, "PAIRS", 10)

    chapters = list(db.run(quick=True))

    bounded = [line.name for chapter in chapters for line in chapter.lines if line.is_met is not None]
    assert len(bounded) == 12
    # So few requests may show that counting adds less than nothing.
    assert all(line.value > 0 or "added" in line.name for chapter in chapters for line in chapter.lines)
