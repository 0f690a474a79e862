"""A list is read as people save it, and a row that can't be read costs only itself."""

import json

import pytest

from pipeline import account_file
from pipeline.account_file import BadRow, NotAList, Row


def rows(text: str | bytes) -> list[tuple[int, dict[str, str]]]:
    """Return number and values of each row; all must be readable."""
    read = account_file.read(text.encode() if isinstance(text, str) else text).rows
    assert all(isinstance(row, Row) for row in read)
    return [(row.number, dict(row.values)) for row in read]


def test_csv_rows_are_numbered_by_their_line():
    assert rows("url,org\na.example/1,One\n\na.example/2,Two\n") == [
        (2, {"url": "a.example/1", "org_name": "One"}),
        (4, {"url": "a.example/2", "org_name": "Two"}),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_common_way_of_saving_csv_reads_the_same(separator, line_end, mark):
    lines = [separator.join(cells) for cells in (("url", "org", "is_core"), ("a.example/1", "Ämter", "yes"))]
    assert rows(mark + (line_end.join(lines) + line_end).encode()) == [
        (2, {"url": "a.example/1", "org_name": "Ämter", "is_core": "yes"})
    ]


def test_quoted_values_hold_separators_quotes_and_line_ends():
    assert rows('url,org\na.example/1,"Research, ""Planning""\nand Evaluation"\na.example/2,Two\n') == [
        (2, {"url": "a.example/1", "org_name": 'Research, "Planning" and Evaluation'}),
        (4, {"url": "a.example/2", "org_name": "Two"}),
    ]


@pytest.mark.parametrize(
    "column", ["organization", "Organisation", "ORG", "org_name", "Org Name", "org-name", " org "]
)
def test_columns_are_known_by_several_names(column):
    assert rows(f"url,{column}\na.example/1,One\n")[0][1]["org_name"] == "One"


def test_unknown_columns_are_named_once_and_their_values_left_out():
    file = account_file.read(b"url,colour,mood\na.example/1,red,good\na.example/2,blue,bad\n")
    assert file.unknown_columns == ("colour", "mood")
    assert all(isinstance(row, Row) and set(row.values) == {"url"} for row in file.rows)


def test_rows_without_any_value_are_no_rows():
    assert rows("url;org\n;;;\n \na.example/1;One\n;\n") == [(4, {"url": "a.example/1", "org_name": "One"})]


def test_missing_cells_at_the_end_of_a_row_are_empty():
    assert rows("url,org,is_core\na.example/1\n") == [(2, {"url": "a.example/1"})]


def test_a_row_with_too_many_values_is_rejected_alone():
    one, bad, two = account_file.read(b"url,org\na.example/1,One\na.example/2,Two, too\na.example/3,Three\n").rows
    assert isinstance(bad, BadRow)
    assert (bad.number, "in quotes" in bad.reason) == (3, True)
    assert isinstance(one, Row)
    assert isinstance(two, Row)


def test_an_unclosed_quotation_mark_costs_its_own_row_only():
    lines = ["url,org", 'a.example/1,"One', *(f"a.example/{n},Org {n}" for n in range(2, 60))]
    first, *rest = account_file.read("\n".join(lines).encode()).rows
    assert first == BadRow(2, "has a quotation mark that is not closed")
    assert [row.number for row in rest] == list(range(3, 61))
    assert all(isinstance(row, Row) for row in rest)


def test_an_unclosed_quotation_mark_takes_no_row_with_a_good_one():
    lines = ["url,org", 'a.example/1,"One', 'a.example/2,"Two, too"', "a.example/3,Three"]
    first, *rest = account_file.read("\n".join(lines).encode()).rows
    assert isinstance(first, BadRow)
    assert [row.values["url"] for row in rest if isinstance(row, Row)] == ["a.example/2", "a.example/3"]


@pytest.mark.parametrize("value", [b"\xe4mter", b"nul\x00", b"bell\x07", "\ufffdmter".encode()])
def test_bytes_that_are_no_text_cost_their_own_row_only(value):
    bad, good = account_file.read(b"url,org\na.example/1," + value + b"\na.example/2,Two\n").rows
    assert isinstance(bad, BadRow)
    assert "UTF-8" in bad.reason
    assert isinstance(good, Row)


def test_an_endless_value_costs_its_own_row_only():
    bad, good = account_file.read(b"url,org\na.example/1," + b"x" * 200_000 + b"\na.example/2,Two\n").rows
    assert isinstance(bad, BadRow)
    assert isinstance(good, Row)


def test_a_json_array_is_numbered_by_place():
    assert rows('[{"url": "a.example/1", "is_core": true, "org": null}, {"platform": "birds", "handle": 12}]') == [
        (1, {"url": "a.example/1", "is_core": "True"}),
        (2, {"platform": "birds", "handle": "12"}),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_within_a_json_object_is_read_as_the_list(indent):
    wrapped = {"page": 1, "accounts": [{"url": "a.example/1"}, {"url": "a.example/2"}], "next": None}
    assert rows(json.dumps(wrapped, indent=indent)) == [
        (1, {"url": "a.example/1"}),
        (2, {"url": "a.example/2"}),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_object_that_is_an_account_is_one_row_whatever_lists_it_holds(indent):
    alone = {"URL": "a.example/1", "tags": [{"url": "a.example/2"}]}
    assert rows(json.dumps(alone, indent=indent)) == [(1, {"url": "a.example/1"})]


def test_json_lines_are_numbered_by_line():
    assert rows('{"url": "a.example/1"}\r\n\r\n{"URL": "a.example/2"}\r\n') == [
        (1, {"url": "a.example/1"}),
        (3, {"url": "a.example/2"}),
    ]


@pytest.mark.parametrize(
    "bad", ["{", "[]", '"text"', '{"url": ["a"]}', '{"url": 1.5}', '{"url": "\\ud800"}', "[" * 9999]
)
def test_a_bad_line_of_json_costs_itself_only(bad):
    first, second, third = account_file.read(
        f'{{"url": "a.example/1"}}\n{bad}\n{{"url": "a.example/2"}}'.encode()
    ).rows
    assert isinstance(second, BadRow)
    assert isinstance(first, Row)
    assert isinstance(third, Row)


def test_a_bad_element_of_a_json_array_costs_itself_only():
    bad, good = account_file.read(b'["a.example/1", {"url": "a.example/2"}]').rows
    assert isinstance(bad, BadRow)
    assert isinstance(good, Row)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" \n\n",
        b"\xef\xbb\xbf",
        b"name,org\nWren,One\n",
        b"platform,org\nbirds,One\n",
        b'[{"url": "a.example/1"}',
        b"[" * 9999,
        b"{}",
        b'{"mood": "good"}',
        b'{"accounts": [{"url": "a.example/1"}], "more": [{"url": "a.example/2"}]}',
        b'"url,org\na.example/1,One\n',
        bytes(range(256)),
    ],
)
def test_what_is_no_list_at_all_is_said_in_a_message(raw):
    with pytest.raises(NotAList) as refused:
        account_file.read(raw)
    assert str(refused.value).endswith(".")
