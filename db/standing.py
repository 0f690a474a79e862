"""How an account stands, in one SQL expression that the API, the page and the command line share."""

from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ColumnElement, case, literal

from db.models import dim_account, scrape_state

Status = Literal["fresh", "stale", "failing", "blocked", "gone", "never", "paused"]


def status(now: datetime, stale_after_s: float) -> ColumnElement[str]:
    """Return the `status` column for dim_account joined to its scrape_state of the subject `profile`.

    The last attempt speaks before the age of the numbers: an account that failed today but was read yesterday is
    `failing`. An account without any attempt is `never`, whatever its reason.
    """
    oldest_fresh = literal(now - timedelta(seconds=stale_after_s))
    return case(
        (dim_account.c.is_active.is_(False), "paused"),
        (scrape_state.c.result == "gone", "gone"),
        (scrape_state.c.result == "blocked", "blocked"),
        (scrape_state.c.result == "failed", "failing"),
        (scrape_state.c.last_success_at.is_(None), "never"),
        (scrape_state.c.last_success_at >= oldest_fresh, "fresh"),
        else_="stale",
    )
