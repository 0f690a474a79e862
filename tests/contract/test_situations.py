"""Every platform with a reader is shown in the same situations, by recorded answers; a further one too."""

from collections.abc import Iterator, Mapping

import pytest
from pytest_httpserver import HTTPServer

from pipeline.platforms import Call
from pipeline.records import Kind
from tests.contract import playback
from tests.contract.playback import READERS, client, play
from tests.contract.situations import EXCUSED, SITUATIONS, lacking, shown
from workers.platforms.base import Base

RECORDINGS = playback.load()


@pytest.mark.parametrize("name", READERS)
def test_a_platform_is_shown_in_every_situation_or_excused_with_a_reason(name: str) -> None:
    missing = lacking(READERS[name], RECORDINGS, EXCUSED.get(name, {}))
    assert not missing, f"{name} is neither shown in nor excused from: {'; '.join(missing)}"


@pytest.mark.parametrize("name", EXCUSED)
def test_no_excuse_is_out_of_date(name: str) -> None:
    known = {one.name: one for one in SITUATIONS}
    for situation, reason in EXCUSED.get(name, {}).items():
        assert reason
        assert known[situation].applies(READERS[name]), f"{situation} can't happen there by what is declared"
        assert not shown(known[situation], READERS[name], RECORDINGS), f"{situation} is shown by a recording"


class Thirteenth(Base):
    name = "thirteenth"
    title = "Thirteenth"
    base_url = "https://api.thirteenth.example"
    calls: Mapping[Kind, Call] = {"profiles": Call(limit="2/s", batch=10), "posts": Call(limit="2/s")}
    needs = ("THIRTEENTH_KEY",)


def test_a_thirteenth_platform_is_told_the_name_of_every_situation_it_lacks() -> None:
    everywhere = [one.name for one in SITUATIONS if one.name != "the day's quota is spent"]
    assert lacking(Thirteenth(), RECORDINGS, {}) == everywhere
    assert lacking(Thirteenth(), RECORDINGS, {"rounded count": "exact"}) == [
        name for name in everywhere if name != "rounded count"
    ]


# What a platform doesn't offer


def told(name: str) -> Iterator[str]:
    """Yield the numbers that a platform's recorded answers were read as."""
    for one in RECORDINGS:
        if one.platform == name:
            yield from (
                number
                for profile in one.profiles
                for number in ("followers", "following", "posts")
                if number in profile
            )
            yield from (
                "engagement" for post in one.posts or () if {"likes", "comments", "shares", "views"} & post.keys()
            )


@pytest.mark.parametrize("name", READERS)
def test_a_number_that_is_declared_as_not_offered_is_never_told(name: str) -> None:
    not_offered = READERS[name].not_offered
    assert {number for number in told(name) if getattr(not_offered, number) is not None} == set()


@pytest.mark.parametrize("name", [name for name, kind in playback.CALLS if kind == "posts"])
def test_each_number_of_a_post_is_told_or_declared_as_lacking(name: str) -> None:
    numbers = {"likes", "comments", "shares", "views"}
    told = {key for one in playback.load() if one.platform == name for post in one.posts or () for key in post}
    assert numbers - told == set(READERS[name].post_lacks)


# Credentials


@pytest.mark.parametrize(("name", "kind"), playback.CALLS)
def test_nothing_is_asked_while_a_needed_credential_is_missing(name: str, kind: Kind, httpserver: HTTPServer) -> None:
    recording = playback.shortest_good(name, kind)
    asked = play(httpserver, recording.exchanges)
    for missing in READERS[name].needs:
        others = [one for one in READERS[name].needs if one != missing]
        outcome = playback.outcome_of(recording, client(READERS[name], httpserver, credentials=others))
        assert outcome == {"error": "NotAllowed", "reason": f"needs {missing}"}
    assert asked == []
