"""What a PostgreSQL server says of itself and of who is connected."""

from collections.abc import Mapping

from msgspec import Struct
from sqlalchemy import Connection, text


class Language(Struct, frozen=True):
    """In which encoding a database keeps texts, and which time a session speaks."""

    encoding: str
    time_zone: str


_LANGUAGE = text("SELECT current_setting('server_encoding'), current_setting('TimeZone')")
# Names are everybody's to see; what the sessions do isn't.
_SESSIONS = text(
    "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1"
)


def language(conn: Connection) -> Language:
    return Language(*conn.execute(_LANGUAGE).one())


def sessions(conn: Connection) -> Mapping[str, int]:
    """Return how many sessions this database has, by the name that their processes gave themselves."""
    return dict(conn.execute(_SESSIONS).all())
