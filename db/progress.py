"""How far the first reading has come."""

from msgspec import Struct
from sqlalchemy import Connection, func, select

from db.models import dim_account, scrape_state

_WANTED = func.isfinite(scrape_state.c.next_due_at)  # an inactive account is due at infinity
_SAID = scrape_state.c.last_attempt_at.is_not(None) | scrape_state.c.reason.is_not(None)


class Progress(Struct, frozen=True):
    """Readings wanted so far (an account's posts count once its profile was read), and those tried or explained."""

    wanted: int
    done: int


_PROGRESS = select(func.count(), func.count().filter(_SAID)).select_from(scrape_state).where(_WANTED)
_PLATFORMS = select(dim_account.c.platform).where(dim_account.c.is_active).distinct().order_by(dim_account.c.platform)


def first_reading(conn: Connection) -> Progress:
    """Return how many readings are wanted and how many have been tried at least once, or say why not."""
    return Progress(*conn.execute(_PROGRESS).one())


def platforms_in_use(conn: Connection) -> list[str]:
    """Return the platforms that have an active account."""
    return list(conn.scalars(_PLATFORMS))
