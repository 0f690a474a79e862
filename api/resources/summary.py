"""GET /api/summary: every account with its newest reading."""

from collections.abc import Iterator

from api.lists import AccountList, listing
from api.room import Room
from api.routes import Route
from api.schemas import SummaryQuery
from db import reads, tags
from db.reads import AccountSummary


class Summary(AccountList[SummaryQuery]):
    """The newest numbers of all accounts; one never read is among them, its numbers null."""

    query, rows = SummaryQuery, AccountSummary
    operations = listing("Every account with its newest reading.", query, rows)
    sortable = reads.SORTABLE["summary"]
    of: reads.ListName = "summary"
    tag = tags.SUMMARY
    ttl_s = 300


def routes(room: Room) -> Iterator[Route]:
    yield "/api/summary", Summary(room)
