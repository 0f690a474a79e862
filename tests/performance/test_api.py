"""That the benchmark of the API measures what it says: a small one, every chapter of it."""

import shutil

import pytest

from tests.performance import api, served
from tests.performance.rounds import Rounds


@pytest.mark.skipif(shutil.which("wrk") is None, reason=served.HOW_TO_GET_WRK)
def test_a_small_api_goes_through_every_chapter(monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(why := served.peers_or_why(), served.PeersMissing):
        pytest.skip(f"peers can't be had: {why}")
    small = api.Size(accounts=200, days=2, rounds=Rounds(1, 1), seconds=1, zipf_s=1, requests=500, export_days=2)
    monkeypatch.setattr(api, "QUICK", small)

    chapters = list(api.run(quick=True))

    bounded = [line.name for chapter in chapters for line in chapter.lines if line.is_met is not None]
    assert len(bounded) == 10
    # So few requests may leave the memory as it was, or smaller, and meet one level not once.
    by_chance = ("more after", "of them")
    empty = [line.name for chapter in chapters for line in chapter.lines if line.value <= 0]
    assert not [name for name in empty if not any(part in name for part in by_chance)]
