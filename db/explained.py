"""Why the accounts of a platform can't be read at all: no reader, or a credential that isn't set.

What is said of a whole platform stands beside how the attempts of its accounts ended, and is taken back as a whole.
"""

from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, Text, and_, bindparam, case, func, or_, select, true, update

from db.models import scrape_state

_PLATFORM = bindparam("of_platform", type_=Text)


def _unleased(*conditions: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Return the profile rows of a platform that no job holds, locked; rows that someone works on are left alone."""
    return (
        select(scrape_state.c.account_key)
        .where(
            scrape_state.c.platform == _PLATFORM,
            scrape_state.c.subject == "profile",
            scrape_state.c.job_id.is_(None),
            *conditions,
        )
        .with_for_update(skip_locked=True)
    )


_EXPLAIN = (
    update(scrape_state)
    .where(
        scrape_state.c.subject == "profile",
        scrape_state.c.account_key.in_(
            _unleased(
                or_(
                    scrape_state.c.explained.is_(False),
                    scrape_state.c.result.is_distinct_from(bindparam("new_result", type_=Text)),
                    scrape_state.c.reason.is_distinct_from(bindparam("new_reason", type_=Text)),
                )
            )
        ),
    )
    .values(result=bindparam("new_result", type_=Text), reason=bindparam("new_reason", type_=Text), explained=true())
)


def explain(conn: Connection, *, platform: str, result: Literal["blocked"] | None, reason: str) -> int:
    """Say of every account of a platform that can't be read at all why not; return how many didn't say so yet.

    When they were read, and when they are due, stays as it is.
    """
    values = {"of_platform": platform, "new_result": result, "new_reason": reason}
    return conn.execute(_EXPLAIN, values).rowcount


_LAST_ONE_WAS_GOOD = scrape_state.c.last_success_at == scrape_state.c.last_attempt_at
_CLEAR = (
    update(scrape_state)
    .where(
        scrape_state.c.subject == "profile",
        scrape_state.c.account_key.in_(_unleased(scrape_state.c.explained)),
    )
    .values(
        explained=False,
        reason=None,
        result=case((_LAST_ONE_WAS_GOOD, "ok")),
        next_due_at=case(
            (
                and_(_LAST_ONE_WAS_GOOD.is_not(True), func.isfinite(scrape_state.c.next_due_at)),
                func.coalesce(scrape_state.c.last_attempt_at, scrape_state.c.next_due_at),
            ),
            else_=scrape_state.c.next_due_at,
        ),
    )
)


def clear(conn: Connection, *, platform: str) -> int:
    """Take back what `explain` said of a platform that can be read now; return the number of accounts.

    An account whose last attempt was good is `ok` again, due when it was. What an earlier failed attempt meant is
    forgotten: such an account is due at once.
    """
    return conn.execute(_CLEAR, {"of_platform": platform}).rowcount
