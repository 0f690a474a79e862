"""How an account stands, in one SQL expression that the API, the page and the command line share."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import ColumnElement, Double, case, func, literal

from db.models import dim_account, scrape_state

Status = Literal["fresh", "stale", "failing", "blocked", "gone", "never", "paused"]


class StaleAfter(Struct, frozen=True, kw_only=True):
    """How long numbers are fresh: `after_s` where they are read every `interval_s`, elsewhere in proportion.

    `intervals_s` are those of platforms that have their own; an account's own goes before both.
    """

    interval_s: int
    after_s: float
    intervals_s: Mapping[str, int] = {}

    def __hash__(self) -> int:
        return hash((self.interval_s, self.after_s, *sorted(self.intervals_s.items())))

    def interval_of(self, platform: str) -> int:
        """Return how often accounts of a platform are read that have no interval of their own."""
        return self.intervals_s.get(platform, self.interval_s)


def status(now: datetime | ColumnElement[datetime], stale_after: StaleAfter) -> ColumnElement[str]:
    """Return the `status` column for dim_account joined to its scrape_state of the subject `profile`.

    The last attempt speaks before the age of the numbers: an account that failed today but was read yesterday is
    `failing`. An account without any attempt is `never`, whatever its reason.
    """
    oldest_fresh = (literal(now) if isinstance(now, datetime) else now) - _fresh_for(stale_after)
    return case(
        (dim_account.c.is_active.is_(False), "paused"),
        (scrape_state.c.result == "gone", "gone"),
        (scrape_state.c.result == "blocked", "blocked"),
        (scrape_state.c.result == "failed", "failing"),
        (scrape_state.c.last_success_at.is_(None), "never"),
        (scrape_state.c.last_success_at >= oldest_fresh, "fresh"),
        else_="stale",
    )


def interval_s(stale_after: StaleAfter) -> ColumnElement[Any]:
    """Return how often an account of dim_account is read."""
    usual_s: ColumnElement[Any] = literal(stale_after.interval_s)
    if stale_after.intervals_s:
        usual_s = case(dict(stale_after.intervals_s), value=dim_account.c.platform, else_=usual_s)
    return func.coalesce(dim_account.c.read_interval_s, usual_s)


def _fresh_for(stale_after: StaleAfter) -> ColumnElement[Any]:
    """Return how long the numbers of an account of dim_account are fresh, as an interval."""
    share = literal(stale_after.after_s / stale_after.interval_s, Double)
    return func.make_interval(0, 0, 0, 0, 0, 0, interval_s(stale_after) * share)
