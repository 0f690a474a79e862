"""How far a request is can be seen: counts by platform and the newest failures."""

from array import array

import pytest
from rich.console import Console

from pipeline import follow
from pipeline.follow import Awaited, Ended, Standing


@pytest.fixture
def standing() -> Standing:
    return Standing({"1": Awaited("x", array("q", range(1_500))), "2": Awaited("flickr", array("q", [1]))})


def shown(standing: Standing) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(standing.table())
    return [line.split() for line in capture.get().splitlines()]


def test_the_table_counts_accounts_by_platform_and_standing(standing):
    standing.running["x"] = 100
    standing.end("x", Ended("x/goose", "1", "ok", None))
    standing.end("flickr", Ended("flickr/swan", "2", "gone", "not found"))
    assert shown(standing) == [
        ["platform", "queued", "running", "read", "failed"],
        ["flickr", "0", "0", "0", "1"],
        ["x", "1,399", "100", "1", "0"],
        ["flickr/swan:", "gone,", "not", "found"],
    ]


def test_only_the_newest_failures_are_shown(standing):
    for n in range(100):
        standing.end("x", Ended(f"x/goose{n}", "1", "failed", "cut [off]"))
    assert [line[0] for line in shown(standing)[3:]] == [f"x/goose{n}:" for n in range(95, 100)]
    assert "[off]" in shown(standing)[-1], "a reason is no markup"


def test_a_log_gets_a_line_when_something_changed_and_enough_time_passed(standing, capsys, monkeypatch):
    now = 1_000.0
    monkeypatch.setattr(follow.time, "monotonic", lambda: now)
    said = []
    with follow._shown(standing) as show:
        for seconds in (1, 10, 10, 1, 10):
            now += seconds
            if seconds == 1:
                standing.end("x", Ended("x/goose", "1", "ok", None))
            show()
            said.append(capsys.readouterr().err)
    assert said == ["", "1 of 1,501 read, 0 failed.\n", "", "2 of 1,501 read, 0 failed.\n", ""]
