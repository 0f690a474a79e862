"""Accounts by the thousand or the million, straight into the tables, as they stand after some days of reading."""

import io
from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import text

from db.engine import Engine, transaction
from deploy.simulator.names import WORDS

_ROWS_PER_COPY = 50_000
_COPY = "COPY dim_account (platform, host, handle, external_id, url, is_core_account) FROM STDIN"
# Due one after the other within the day before, so that each platform's order is the order of due times.
_STATES = text("""
    INSERT INTO scrape_state
        (account_key, subject, platform, host, kind, is_core, next_due_at, result, last_attempt_at, last_success_at)
    SELECT account_key, subject, platform, host, kind, is_core_account,
           CASE WHEN subject = 'posts' AND NOT :posts_due THEN 'infinity'
                ELSE CAST(:now AS timestamptz) - account_key % 86400 * interval '1 second' END,
           'ok', CAST(:now AS timestamptz) - interval '1 day', CAST(:now AS timestamptz) - interval '1 day'
    FROM dim_account
    CROSS JOIN (VALUES ('profile', 'profiles'), ('posts', 'posts')) AS of (subject, kind)
    WHERE NOT EXISTS (SELECT FROM scrape_state known WHERE known.account_key = dim_account.account_key)
""")


def load_due(
    engine: Engine, count: int, *, platforms: Sequence[str] = ("x",), now: datetime, posts_due: bool = True
) -> None:
    """List `count` new accounts, spread evenly over platforms, whose profiles (and posts) are all due.

    One in a hundred is a core account, Mastodon's are of fifty servers. Their ids are those
    of the simulator where it is X. A million takes half a minute.
    """
    connection = engine.raw_connection()
    try:
        with connection.cursor() as cursor:
            for first in range(0, count, _ROWS_PER_COPY):
                numbers = range(first, min(first + _ROWS_PER_COPY, count))
                cursor.copy_expert(_COPY, io.StringIO("".join(_lines(numbers, platforms))))
        connection.commit()
    finally:
        connection.close()
    with transaction(engine) as conn:
        conn.execute(_STATES, {"now": now, "posts_due": posts_due})
    _analyze(engine)


def _lines(numbers: range, platforms: Sequence[str]) -> Iterator[str]:
    for number in numbers:
        platform = platforms[number % len(platforms)]
        host = f"server{number // len(platforms) % 50}.example" if platform == "mastodon" else ""
        handle = f"agency{number}"
        url = f"https://{platform}.example/{handle}"
        is_core = number // len(platforms) % 100 == 0
        yield f"{platform}\t{host}\t{handle}\t{WORDS.number(handle)}\t{url}\t{is_core}\n"


def _analyze(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            text("VACUUM (ANALYZE) dim_account, scrape_state")
        )
