"""That the benchmark of the pages measures what it says: a small one, every chapter of it."""

import shutil
from pathlib import Path

import pytest

from tests.browser import chromium
from tests.performance import dashboard
from tests.performance.report import Chapter, Line, missed
from tests.performance.rounds import Rounds


@pytest.mark.skipif(chromium.chromium() is None, reason=chromium.HOW_TO_GET_IT)
def test_a_small_dashboard_goes_through_every_chapter(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dashboard.Size(accounts=400, days=5, rounds=Rounds(1, 1), requests=20, visits=1, draws=1, lighthouse=1)
    monkeypatch.setattr(dashboard, "QUICK", small)
    monkeypatch.setattr(dashboard, "lighthouse", lambda: "it is left out here")

    *chapters, last = dashboard.run(quick=True)

    bounded = [line for chapter in chapters for line in chapter.lines if line.is_met is not None]
    assert len(bounded) == 9 + 8 + 3
    # CPU is counted in hundredths of a second: of so few requests it may be none.
    assert all(line.value is not None and line.value >= 0 for chapter in chapters for line in chapter.lines)
    assert [(line.name, line.value) for line in last.lines] == [("not run: it is left out here", None)]


def test_without_node_it_says_so_and_fails_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)

    said = dashboard.lighthouse()

    assert said == "node and npm are not installed (https://nodejs.org)"
    assert missed([Chapter("Lighthouse", [Line(f"not run: {said}", None, at_least=100)])]) == []
