"""One rule says what a name may be, whichever door it comes by; and what a platform says can't turn or command anything."""

import pytest

from api.problems import Problem
from api.schemas import AccountBody, check_lines
from db import lines
from pipeline import account_file, terminal
from workers.node import Node

NAMES = ["Office", "Müller & Söhne", "مكتب", "نیم‌فاصله", "👩‍👩‍👧", "a\u00a0b", "\u200fמשרד"]
NO_NAMES = ["a\u202eb", "a\u2066b", "a\u2069", "a\ufffd", "a\x1b[31m", "a\x9b31m", "a\x7f", "a\x00"]


@pytest.mark.parametrize(
    ("name", "is_one"), [*((n, True) for n in NAMES), *((n, False) for n in NO_NAMES)], ids=range(15)
)
def test_the_importer_and_the_api_take_the_same_names(name: str, is_one: bool) -> None:
    (row,) = account_file.read(f"platform,handle,org_name\nx,agency,{name}".encode()).rows
    try:
        check_lines(AccountBody(org_name=name))
    except Problem:
        is_taken = False
    else:
        is_taken = True

    assert is_taken == isinstance(row, account_file.Row) == lines.is_line(name) == is_one


def test_the_importer_says_what_is_wrong_with_a_name() -> None:
    (row,) = account_file.read("platform,handle,org_name\nx,agency,a\u202eb".encode()).rows
    assert isinstance(row, account_file.BadRow)
    assert row.reason == "org_name holds characters that turn the direction of text: write it without them"


def test_what_a_platform_says_commands_no_terminal_and_turns_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = Node("x", {"name": "a\x1b]52;c;AAAA\x07\u202eb\x9b2J\x00", "text": "one\n\ttwo"})

    assert said.text("name") == "a]52;c;AAAA\u202eb2J"
    assert said.text("text") == "one\n\ttwo"
    terminal.show_table(["name"], [["a\x1b[2J\u202eb\x9b\nc"]])
    assert capsys.readouterr().out == "a[2Jb c\n"
