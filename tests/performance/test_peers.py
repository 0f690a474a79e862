"""That peers answer, read and do what Rollcall does before they are measured; without them the run goes on."""

import pytest

from tests.performance import peers_answers, peers_collecting, peers_queueing, served
from tests.performance.machine import machine

FEW = peers_answers.Size(accounts=200, rounds=1, seconds=1)


@pytest.fixture
def python() -> str:
    found = served.peers_or_why()
    if isinstance(found, served.PeersMissing):
        pytest.skip(f"peers can't be had: {found}")
    return found


@pytest.mark.skipif(served.without_wrk() is not None, reason=served.HOW_TO_GET_WRK)
def test_answers_are_measured_without_peers_and_rows_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "nginx", lambda *_: None)
    with machine() as one:
        chapters = list(peers_answers.run(one, FEW, served.PeersMissing("nobody answers")))

    measured = [line for chapter in chapters for line in chapter.lines if line.value is not None]
    assert {line.name.partition(":")[0] for line in measured} == {"Rollcall", "Rollcall, compressed"}
    assert all(line.value > 0 for line in measured)
    reasons = {line.name for chapter in chapters for line in chapter.lines if line.value is None}
    assert reasons == {
        "nginx isn't measured: it is not installed (apt-get install nginx-light)",
        "Flask, FastAPI and datasette aren't measured: nobody answers",
    }


def test_peers_answer_what_rollcall_answers(python: str) -> None:
    with machine() as one:
        field = peers_answers.start(one, FEW, python)

        assert {"Rollcall", "Flask", "FastAPI", "datasette"} <= field.servers.keys()


def test_peers_read_and_do_what_rollcall_does(python: str) -> None:
    with machine() as one:
        collected = peers_collecting.run(one, peers_collecting.Size(batched=30, single=10, rounds=1), python)
        done = peers_queueing.run(one, peers_queueing.Size(tasks=30, forked=3, rounds=1), python)

    lines = [*collected.lines, *done.lines]
    assert [line.name for line in lines if line.value is None or line.value <= 0] == []
    assert len([line for line in lines if "/" in line.name]) == 4 + 8
