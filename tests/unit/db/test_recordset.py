"""Rows as one JSON parameter."""

import json

import pytest

from db.recordset import as_json


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\0b", "ab"),
        ("\0\0", ""),
        (r"the text \u0000", r"the text \u0000"),
        ("a backslash \\\0 and a NUL", "a backslash \\ and a NUL"),
        ("naïve 🏛", "naïve 🏛"),
    ],
)
def test_only_nul_characters_are_left_out_of_texts(text: str, kept: str) -> None:
    assert json.loads(as_json([{"bio": text}])) == [{"bio": kept}]
