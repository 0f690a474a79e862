"""Every reader against answers in its platform's documented shapes, through the real client and a real socket."""

from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from tests.contract.playback import CALLS, READERS, Recording, client, load, outcome_of, play


@pytest.mark.parametrize("recording", load(), ids=lambda one: f"{one.platform}-{one.name}")
def test_a_documented_answer_is_read_as_what_it_says(recording: Recording, httpserver: HTTPServer) -> None:
    asked = play(httpserver, recording.exchanges)

    found = outcome_of(recording, client(READERS[recording.platform], httpserver))

    assert found == expected(recording.expect)
    assert [request.path for request in asked] == [one["request"]["path"] for one in recording.exchanges]
    for request, exchange in zip(asked, recording.exchanges, strict=True):
        for name, value in exchange["request"]["query"].items():
            assert request.args.getlist(name) == ([value] if isinstance(value, str) else value), name


def test_every_reader_is_held_to_recorded_answers_of_each_of_its_calls() -> None:
    assert set(CALLS) - {(one.platform, one.kind) for one in load()} == set()


def expected(said: Any) -> Any:
    """Give each result in a file the key of its account."""
    if isinstance(said, list):
        return [{"account_key": key} | one for key, one in enumerate(said, 1)]
    return said if "error" in said else {"account_key": 1} | said
