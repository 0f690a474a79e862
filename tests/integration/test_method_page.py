"""/method: what the numbers mean, said from the platforms' declarations and the settings."""

from collections.abc import Iterator

import pytest

from db.gaps import REASONS
from pipeline import platforms
from tests import fakes
from tests.serving import InProcess, in_process, words


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    chosen = {"RETENTION_MONTHS": "18", "HELD_DROP_PCT": "41", "ENGAGEMENT_DAYS": "21", "READ_INTERVAL_S_X": "7200"}
    with in_process(fakes.settings(database_url, redis_url, **chosen)) as api:
        yield api


def test_every_count_of_every_platform_says_what_it_means_or_why_there_is_none(api: InProcess) -> None:
    page = words(api, "/method")
    for platform in platforms.load().values():
        why_not = platform.not_offered.reasons
        for name in platform.meanings.__struct_fields__:
            said = f"n/a {why_not[name]}" if name in why_not else getattr(platform.meanings, name)
            assert said in page, (platform.name, name)


def test_what_is_set_is_said_as_it_is_set(api: InProcess) -> None:
    page = words(api, "/method")
    assert "kept for 18 whole months; older ones are taken out of the tables" in page
    assert "41 % fewer" in page
    assert "posts of the last 21 days" in page
    assert "X read every 2 h" in page
    assert "YouTube read daily" in page
    assert all(reason in page for reason in REASONS)


def test_what_cannot_be_meant_is_refused(api: InProcess) -> None:
    assert api.get("/method?span=day").status_code == 400
