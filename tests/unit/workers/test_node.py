"""Fields of an answer: absent is None, wrong is an error with its path."""

from datetime import UTC, datetime

import pytest

from pipeline.errors import BadPage
from workers.node import Index, Node


def node(**fields: object) -> Node:
    return Node("x", {"data": [{}, fields]}).nodes("data")[1]


@pytest.mark.parametrize(
    ("said", "count"),
    [(0, 0), ("0", 0), (2**53 + 1, 2**53 + 1), ("9007199254740993", 2**53 + 1), (None, None), (-1, None)],
)
def test_a_count_is_exact_and_an_untold_one_is_none(said: object, count: int | None) -> None:
    assert node(likes=said).count("likes") == count


def test_an_absent_count_is_none_unless_the_platform_always_sends_it() -> None:
    assert node().count("likes") is None
    with pytest.raises(BadPage, match=r"^not as documented: data\[1\]\.likes$"):
        node().need_count("likes")


@pytest.mark.parametrize("said", [True, 1.5, "many", "", [], {}, 2**63, "9" * 5000])
def test_what_is_no_count_is_an_error_with_its_path(said: object) -> None:
    with pytest.raises(BadPage, match=r"^not as documented: data\[1\]\.likes$"):
        node(likes=said).count("likes")


def test_text_is_kept_in_a_form_that_the_database_takes() -> None:
    # A platform that cuts texts at a length leaves half an emoji.
    assert node(text="tide\0 \ud83d").text("text") == "tide ?"
    assert node(id=9007199254740993).text("id") == "9007199254740993"
    assert node(text=None).text("text") is None


@pytest.mark.parametrize("said", [None, "", [], {}, True])
def test_a_needed_text_is_there_and_not_empty(said: object) -> None:
    with pytest.raises(BadPage, match=r"data\[1\]\.id$"):
        node(id=said).need_text("id")


@pytest.mark.parametrize(
    "said", ["2026-03-02T12:00:00Z", "2026-03-02T12:00:00.000Z", "2026-03-02T13:00:00+01:00", "2026-03-02T12:00:00"]
)
def test_times_are_utc(said: str) -> None:
    assert node(at=said).time("at") == datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize("said", [None, "", "today", "0001-01-01T00:00:00+23:00", 1772452800])
def test_a_time_that_is_none_is_an_error_with_its_path(said: object) -> None:
    with pytest.raises(BadPage, match=r"data\[1\]\.at$"):
        node(at=said).time("at")


@pytest.mark.parametrize("said", [1772452800, 1772452800.0, "1772452800"])
def test_seconds_since_1970_are_a_time_as_a_number_and_in_a_string(said: object) -> None:
    assert node(at=said).epoch("at") == datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize("said", [None, "", "today", True, [], 1e300, float("nan"), float("inf"), "2026-03-02"])
def test_seconds_that_are_none_are_an_error_with_their_path(said: object) -> None:
    with pytest.raises(BadPage, match=r"data\[1\]\.at$"):
        node(at=said).epoch("at")


def test_an_object_that_is_missing_is_named_by_the_first_field_needed_in_it() -> None:
    for body in (None, [], "text", {"user": None}, {"user": []}):
        with pytest.raises(BadPage, match=r"^not as documented: user\.metrics\.followers$"):
            Node("x", body).node("user").node("metrics").need_count("followers")


def test_a_list_may_be_absent_but_not_something_else() -> None:
    assert node().nodes("items") == []
    with pytest.raises(BadPage, match=r"data\[1\]\.items$"):
        node().need_nodes("items")
    with pytest.raises(BadPage, match=r"data\[1\]\.items$"):
        node(items={"a": 1}).nodes("items")


def test_an_object_is_found_by_a_field_in_any_case_where_case_doesn_t_count() -> None:
    users = Node("x", {"data": [{"name": "Rivers"}, {"name": "Lakes"}]}).nodes("data")
    assert Index(users, "name", ignore_case=True).get("LAKES") is users[1]
    assert Index(users, "name").get("LAKES") is None


def test_nothing_counts_as_left_out_while_an_object_can_t_be_told() -> None:
    found = Index(Node("x", {"data": [{"name": "Rivers"}, {"name": None}]}).nodes("data"), "name")
    assert found.get("Rivers") is not None
    with pytest.raises(BadPage, match=r"data\[1\]\.name$"):
        found.get("Lakes")
