"""Results are readable on a terminal and by the next program in a pipe."""

import json

import pytest

from pipeline.limits import duration
from pipeline.terminal import JsonObject, show_table


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "under 1 s"),
        (0.4, "under 1 s"),
        (1, "1 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3_600, "1 h"),
        (90_061, "1 d 1 h"),
        (864_000, "10 d"),
    ],
)
def test_durations_are_written_as_people_do(seconds, written):
    assert duration(seconds) == written


def test_a_piped_table_is_one_whole_line_per_row(capsys):
    long = "An organisation with a name that is much wider than any terminal " * 3
    show_table(("a", "b", "c", "d"), [(1, True, None, long), (2, False, "with [brackets]\tand a tab", "")])
    assert capsys.readouterr().out.splitlines() == [
        f"1\tyes\t\t{long.strip()}",
        "2\tno\twith [brackets] and a tab\t",
    ]


def test_a_table_on_a_terminal_shows_brackets_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    show_table(("name",), [("Office [draft]",)])
    assert "Office [draft]" in capsys.readouterr().out


def test_no_color_is_respected(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    show_table(("name",), [("goose",)])
    assert "\x1b[3" not in capsys.readouterr().out


def test_a_terminal_gets_the_first_rows_and_the_number_of_the_others(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert show_table(("name",), ((f"goose{n}",) for n in range(1_000)), most=2) == 1_000
    shown = capsys.readouterr()
    assert "goose1" in shown.out
    assert "goose2" not in shown.out
    assert "998 more" in shown.err


def test_a_pipe_gets_every_row(capsys):
    assert show_table(("name",), ((n,) for n in range(100)), most=2) == 100
    assert capsys.readouterr().out.splitlines() == [str(n) for n in range(100)]


@pytest.mark.parametrize("lists", [{"a": []}, {"a": [1], "b": []}, {"a": [], "b": [{"c": None}, {"c": "ö"}]}])
def test_an_object_written_item_by_item_is_json(capsys, lists):
    answer = JsonObject()
    for name, items in lists.items():
        answer.show_list(name, items)
    answer.end()
    assert json.loads(capsys.readouterr().out) == lists


def test_an_item_is_written_as_soon_as_it_is_there(capsys):
    written = []

    def items():
        for item in ("goose", "gander"):
            yield item
            written.append(capsys.readouterr().out)

    JsonObject().show_list("jobs", items())
    assert ['"goose"' in written[0], '"gander"' in written[0], '"gander"' in written[1]] == [True, False, True]
