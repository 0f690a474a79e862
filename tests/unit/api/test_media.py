from datetime import UTC, date, datetime

import msgspec
import pytest

from api.media import Rows, RowsFormat, accepted
from api.resources.totals import OfDay
from db.reads import AccountSummary

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "json"),
        (BROWSER, "json"),
        ("text/csv", "csv"),
        ("TEXT/CSV", "csv"),
        ("text/*", "csv"),
        ("text/csv; charset=utf-8", "csv"),
        ("application/x-ndjson", "ndjson"),
        ("application/*", "json"),
        ("application/x-ndjson, application/json", "json"),
        ("text/csv;q=0.5, application/x-ndjson;q=0.6", "ndjson"),
        ("text/csv;q=0, */*", "json"),
        ("application/json;q=0, */*;q=0.1", "ndjson"),
        ("application/json;q=0", "json"),
        ("image/png", "json"),
        ("text/csv;q=much", "json"),
        ("", "json"),
        (";;,=", "json"),
    ],
)
def test_the_clients_weights_decide_and_json_among_equals(accept: str, expected: RowsFormat) -> None:
    assert accepted(accept) == expected


def test_all_fields_and_some_are_the_same_values_in_json() -> None:
    at = datetime(2026, 3, 2, 12, tzinfo=UTC)
    names = AccountSummary.__struct_fields__
    values = {"platform": "x", "followers": 0, "growth_7d_pct": -1.5, "captured_at": at, "snapshot_date": at.date()}
    row = tuple(values.get(name) for name in names)
    whole, some = (msgspec.json.encode(Rows(AccountSummary, of, [row]).objects()) for of in (names, list(names)))
    assert whole == some
    backwards = Rows(AccountSummary, names[::-1], [row[::-1]])
    assert msgspec.json.decode(msgspec.json.encode(backwards.objects())) == msgspec.json.decode(whole)
    assert list(msgspec.json.decode(backwards.encoded("ndjson"))) == list(names[::-1])


def test_csv_writes_what_a_reader_of_csv_understands() -> None:
    rows = Rows(OfDay, ("date", "delta", "followers"), [(date(2026, 3, 2), -5, None), (date(2026, 3, 1), 0, 12)])
    assert rows.encoded("csv").decode() == "date,delta,followers\r\n2026-03-02,-5,\r\n2026-03-01,0,12\r\n"
