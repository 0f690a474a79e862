import base64
from datetime import UTC, date, datetime, timedelta

import pytest

from api.problems import Problem
from api.schemas import (
    HistoryQuery,
    MoversQuery,
    SummaryQuery,
    chosen_fields,
    cursor_of,
    parameters,
    parse,
    parse_list,
    place_of,
)
from db.jobs import Shown
from db.keyset import After, Order
from db.posts import ListedPost
from db.reads import SORTABLE, AccountSummary

TODAY = date(2026, 3, 2)


def faults(problem: Problem) -> dict[str, str]:
    assert problem.status_code == 400
    return {fault.field: fault.reason for fault in problem.faults}


def test_a_query_is_read_whatever_the_order_and_spelling_of_its_characters() -> None:
    assert parameters(b"q=a%20b&org=Caf%C3%A9") == {"q": "a b", "org": "Café"}
    assert parameters("q=Café+x".encode()) == {"q": "Café x"}
    assert parameters(b"") == {}
    assert parameters(b"q=") == {"q": ""}


@pytest.mark.parametrize("raw", ["a=b=c&d", "&&a=1&", "a", "a=é&b=;c", "", "&".join(f"a{n}={n}" for n in range(40))])
def test_a_query_without_escapes_is_read_as_with_them(raw: str) -> None:
    assert parameters(raw.encode()) | {"z": "-"} == parameters(f"{raw}&z=%2d".encode())


@pytest.mark.parametrize(
    "raw", [b"q=%ff", b"q=\xff", b"q=a&q=b", b"q=%00", b"%00=a", b"&".join(b"a%d=1" % n for n in range(99))]
)
def test_a_query_that_can_not_be_read_is_refused(raw: bytes) -> None:
    with pytest.raises(Problem) as refused:
        parameters(raw)
    assert faults(refused.value)


def test_every_wrong_parameter_is_named_with_what_it_should_be() -> None:
    with pytest.raises(Problem) as refused:
        parse({"page": "0", "per_page": "1001", "core": "yes", "status": "dead", "colour": "red"}, SummaryQuery)
    named = faults(refused.value)
    assert set(named) == {"page", "per_page", "core", "status", "colour"}
    assert named["per_page"] == "'1001' is not a whole number from 1 to 1000"
    assert "per_page" in named["colour"], "offers those it knows"


@pytest.mark.parametrize("page", ["", "-1", "1.5", "abc", "9" * 40, "null", "true", "１０"])
def test_a_page_number_is_a_number(page: str) -> None:
    with pytest.raises(Problem) as refused:
        parse({"page": page}, SummaryQuery)
    assert "page" in faults(refused.value)


def test_the_word_null_is_a_text_like_any_other() -> None:
    assert parse({"q": "null"}, SummaryQuery).q == "null"


def test_a_list_refuses_what_does_not_exist() -> None:
    for params, field in [
        ({"sort": "bio"}, "sort"),
        ({"sort": "--followers"}, "sort"),
        ({"sort": "-"}, "sort"),
        ({"page": "1", "cursor": "abc"}, "cursor"),
    ]:
        with pytest.raises(Problem) as refused:
            parse_list(params, SummaryQuery, SORTABLE["summary"])
        assert field in faults(refused.value)


def test_fields_come_in_the_order_asked_for_and_none_is_made_up() -> None:
    assert chosen_fields("followers,handle", AccountSummary) == ("followers", "handle")
    assert chosen_fields(None, AccountSummary) is None
    for wrong in ("", "handle,", "handle,secret", "handle,handle"):
        with pytest.raises(Problem) as refused:
            chosen_fields(wrong, AccountSummary)
        assert "fields" in faults(refused.value)


@pytest.mark.parametrize(
    ("order", "value"),
    [
        (Order("followers", True), 12),
        (Order("followers", True), None),
        (Order("handle"), 'a"b@c,Ü'),
        (Order("growth_7d_pct"), -1.25),
        (Order("snapshot_date"), TODAY),
    ],
)
def test_a_cursor_leads_back_to_its_place(order: Order, value: object) -> None:
    after = After(value, 42)
    assert place_of(cursor_of(order, after), order, AccountSummary) == after


def test_a_cursor_of_another_order_or_a_forged_one_is_refused() -> None:
    order = Order("followers", True)
    good = cursor_of(order, After(1, 2))

    def forged(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).decode()

    wrong = [
        cursor_of(Order("followers"), After(1, 2)),
        cursor_of(Order("posts", True), After(1, 2)),
        good[:-3],
        "",
        "é",
        "!!!!",
        forged("[]"),
        forged('["followers",true,"x",2]'),
        forged('["followers",true,1,-2]'),
        forged('["followers",true,1,99999999999999999999]'),
        forged("{}"),
        forged("\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
    ]
    for cursor in wrong:
        with pytest.raises(Problem) as refused:
            place_of(cursor, order, AccountSummary)
        assert "cursor" in faults(refused.value)
    with pytest.raises(Problem):
        place_of(forged('["handle",false,"a\\u0000b",2]'), Order("handle"), AccountSummary)


def test_a_cursor_of_rows_with_keys_of_other_kinds_leads_back_and_forged_keys_are_refused() -> None:
    at = datetime(2026, 3, 2, 12, 30, 1, 123456, tzinfo=UTC)
    for row_type, order, key, forgeries in (
        (ListedPost, Order("published_at", True), 'p"1,Ü', ("7", "null", '"a\\u0000b"')),
        (Shown, Order("created_at", True), "7b0f8f3e-6f7f-4a57-9d7c-0d6f2f1c2a10", ('"7b0f"', '"\' OR 1=1"', "{}")),
    ):
        assert place_of(cursor_of(order, After(at, key)), order, row_type) == After(at, key)
        for forgery in forgeries:
            text = f'["{order.column}",true,"2026-03-02T12:30:01Z",{forgery}]'
            with pytest.raises(Problem) as refused:
                place_of(base64.urlsafe_b64encode(text.encode()).decode(), order, row_type)
            assert "cursor" in faults(refused.value)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_cursor_of_a_time_that_no_calendar_has_in_utc_is_refused(time: str) -> None:
    forged = base64.urlsafe_b64encode(f'["published_at",true,"{time}","p1"]'.encode()).decode()
    with pytest.raises(Problem) as refused:
        place_of(forged, Order("published_at", True), ListedPost)
    assert "cursor" in faults(refused.value)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": "2026-02-30"}, "from"),
        ({"from": "1999-12-31"}, "from"),
        ({"to": "2100-01-01"}, "to"),
        ({"from": "2026-03-02", "to": "2026-03-01"}, "from"),
        ({"from": "2010-01-01", "to": "2026-03-01"}, "from"),
    ],
)
def test_a_range_that_is_none_is_refused(params: dict[str, str], field: str) -> None:
    with pytest.raises(Problem) as refused:
        parse(params, HistoryQuery).span(TODAY)
    assert field in faults(refused.value)


def test_days_are_one_of_three_intervals() -> None:
    assert parse({"days": "30"}, MoversQuery).days == 30
    for wrong in ("2", "-1", "7.0", "", "07", "week"):
        with pytest.raises(Problem) as refused:
            parse({"days": wrong}, MoversQuery)
        assert faults(refused.value)["days"].endswith("is not one of 1, 7, 30")


def test_a_range_is_a_year_to_today_unless_said_otherwise() -> None:
    assert parse({}, HistoryQuery).span(TODAY) == (TODAY - timedelta(days=364), TODAY)
    assert parse({"to": "2020-12-31"}, HistoryQuery).span(TODAY) == (date(2020, 1, 2), date(2020, 12, 31))
    assert parse({"from": "2026-02-27"}, HistoryQuery).span(TODAY) == (date(2026, 2, 27), TODAY)
    assert parse({"from": "2016-02-27", "to": "2026-03-05"}, HistoryQuery).span(TODAY)[1] == date(2026, 3, 5)
    assert parse({"to": "2000-01-05"}, HistoryQuery).span(TODAY)[0] == date(2000, 1, 1)


@pytest.mark.parametrize(
    "params",
    [
        {"from": "2026-03-02", "to": "2026-03-01"},
        {"from": "2026-03-03"},
        {"from": "2016-02-22", "to": "2026-03-02"},
        {"from": "1999-12-31", "to": "2000-01-01"},
        {"to": "2100-01-01"},
        {"to": "0001-01-01"},
        {"to": "9999-12-31"},
        {"from": "2026-02-30"},
        {"from": "20260301"},
        {"from": "yesterday"},
        {"interval": "year"},
        {"first": "2026-03-01"},
    ],
)
def test_a_range_that_is_none_or_too_long_is_refused(params: dict[str, str]) -> None:
    with pytest.raises(Problem) as refused:
        parse(params, HistoryQuery).span(TODAY)
    assert faults(refused.value)
