"""How far a reading of everything that is due has come."""

from msgspec import Struct
from sqlalchemy import Connection, and_, func, or_, select

from db.models import dim_account, scrape_state

_WANTED = func.isfinite(scrape_state.c.next_due_at)  # an inactive account is due at infinity
# Due accounts that nothing can read say so, and stay due: nobody waits for them.
_OPEN = or_(
    scrape_state.c.job_id.is_not(None),
    and_(scrape_state.c.next_due_at <= func.now(), scrape_state.c.explained.is_(False)),
)


class Progress(Struct, frozen=True):
    """Readings that are wanted (an account's posts count once its profile was read), and those not due any more."""

    wanted: int
    done: int


_PROGRESS = select(func.count(), func.count().filter(~_OPEN)).select_from(scrape_state).where(_WANTED)
_PLATFORMS = select(dim_account.c.platform).where(dim_account.c.is_active).distinct().order_by(dim_account.c.platform)


def of_reading(conn: Connection) -> Progress:
    """Return how many readings are wanted, and how many are neither due nor on their way."""
    return Progress(*conn.execute(_PROGRESS).one())


def platforms_in_use(conn: Connection) -> list[str]:
    """Return the platforms that have an active account."""
    return list(conn.scalars(_PLATFORMS))
