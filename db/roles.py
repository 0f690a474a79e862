"""Who may do what in the database: the API's role and the workers' role, beside the one that owns the tables.

The owner migrates, makes partitions, and does what `rollcall` does and nobody does by the API. The API's role reads
everything, and writes what people change by it. The workers' role (which beat and the recorder have, too) reads and
writes the pipeline's tables only: whoever takes a worker over finds no key. Neither alters, drops or truncates anything.

The rights follow from `db.models`: a new table has a line there at most.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct
from sqlalchemy import Connection, text

from db.models import metadata

# Alembic's own: it says which revision the database has, and isn't in `db.models`.
_REVISION = "alembic_version"
_WRITING = ("INSERT", "UPDATE", "DELETE")


class Unfit(ValueError):
    """Roles to which nothing can be granted; `str()` says why, and what to do."""


class Roles(Struct, frozen=True):
    """The names of the two roles. They are the server's, made by whoever runs it: here they only get their rights."""

    api: str
    workers: str


class Rights(Struct, frozen=True):
    """What the roles may do with a table, as words of SQL between commas; empty where nothing."""

    table: str
    api: str
    workers: str


def wanted() -> list[Rights]:
    """Return what the roles are meant to be allowed, by table."""
    tables = [_of(str(table.name), table.info) for table in metadata.sorted_tables]
    return sorted([*tables, Rights(_REVISION, "SELECT", "SELECT")], key=lambda rights: rights.table)


def _of(table: str, info: Mapping[str, str]) -> Rights:
    api = ("SELECT", info.get("api", ", ".join(_WRITING)))
    workers = ("SELECT", info["workers"]) if info.get("workers") else ()
    return Rights(table, ", ".join(filter(None, api)), ", ".join(workers))


_UNKNOWN = text("SELECT name FROM unnest(:names) AS name WHERE to_regrole(quote_ident(name)) IS NULL")
_OWNERS = text("""
    SELECT rolname FROM pg_roles WHERE rolname = ANY(:names) AND EXISTS (
        SELECT FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
        AND pg_has_role(pg_roles.oid, relowner, 'MEMBER')
    )
""")
_OWN_TABLES = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND pg_has_role(relowner, 'USAGE')
    ORDER BY relname
""")
_OWNER = text(
    "SELECT rolname FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner WHERE pg_class.oid = to_regclass(:table)"
)
_HOLDERS = text("""
    SELECT count(DISTINCT grantee) FROM pg_class CROSS JOIN aclexplode(relacl) JOIN pg_roles ON pg_roles.oid = grantee
    WHERE pg_class.oid = to_regclass(:table) AND rolname = ANY(:names)
""")


def were_granted(conn: Connection, roles: Roles) -> bool:
    """Tell whether both roles were given rights in this database once, so that they are to follow its schema."""
    return bool(conn.scalar(_HOLDERS, {"table": _REVISION, "names": [roles.api, roles.workers]}) == 2)


def grant(conn: Connection, roles: Roles) -> None:
    """Give both roles the rights that they are meant to have, and take from them what is more.

    Tables that are made later can be read by the API's role at once; for what else they need this runs again.
    Raises Unfit where this session's role doesn't own the tables, and for roles that are missing, one, or owners.
    """
    own = list(conn.scalars(_OWN_TABLES))
    _check(conn, roles, own)
    quote = conn.dialect.identifier_preparer.quote_identifier
    api, workers = quote(roles.api), quote(roles.workers)
    owner = quote(conn.execute(_OWNER, {"table": _REVISION}).scalar_one())
    every, schema = ", ".join(map(quote, own)), quote(conn.scalar(text("SELECT current_schema()")) or "public")
    statements = [
        f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC",  # as PostgreSQL 15 does by itself
        f"GRANT USAGE ON SCHEMA {schema} TO {api}, {workers}",
        f"REVOKE ALL ON {every} FROM {api}, {workers}",
        f"GRANT SELECT ON {every} TO {api}",  # partitions, and what the retention has taken out, too
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {api}",
    ]
    for rights in (rights for rights in wanted() if rights.table in own):
        statements.append(f"GRANT {rights.api} ON {quote(rights.table)} TO {api}")
        if rights.workers:
            statements.append(f"GRANT {rights.workers} ON {quote(rights.table)} TO {workers}")
    for statement in statements:
        conn.execute(text(statement))


def _check(conn: Connection, roles: Roles, own: Collection[str]) -> None:
    if _REVISION not in own:
        raise Unfit("only the tables' owner can grant rights: use its DATABASE_URL, after `rollcall db upgrade`")
    names = [roles.api, roles.workers]
    if roles.api == roles.workers:
        raise Unfit(f"the API and the workers need a role each, and both are called {roles.api!r}")
    if unknown := list(conn.scalars(_UNKNOWN, {"names": names})):
        make = " ".join(f"""CREATE ROLE "{name}" LOGIN PASSWORD '…';""" for name in unknown)
        raise Unfit(f"there is no role {' and no role '.join(map(repr, unknown))}: make it as a superuser: {make}")
    if owners := list(conn.scalars(_OWNERS, {"names": names})):
        raise Unfit(
            f"{' and '.join(owners)} may do everything, as owner of the tables or superuser: name another role"
        )


_HELD = text("""
    SELECT word FROM unnest(:words) WITH ORDINALITY AS of (word, place)
    WHERE has_table_privilege(coalesce(CAST(:role AS name), current_user), to_regclass(:table), word) ORDER BY place
""")
_WORDS = ("SELECT", *_WRITING, "TRUNCATE", "REFERENCES", "TRIGGER")


def held(conn: Connection, roles: Roles) -> list[Rights]:
    """Return what the roles are allowed now, by table."""
    return [
        Rights(one.table, *(", ".join(_words(conn, one.table, role)) for role in (roles.api, roles.workers)))
        for one in wanted()
    ]


def _words(conn: Connection, table: str, role: str | None) -> list[str]:
    return list(conn.scalars(_HELD, {"table": table, "role": role, "words": list(_WORDS)}))


class Standing(Struct, frozen=True):
    """Whom the server takes this session for; what it lacks to do all that the API does, and all that workers do."""

    role: str
    is_superuser: bool
    is_owner: bool
    lacks_as_api: list[str]
    lacks_as_workers: list[str]


_WHO = text("""
    SELECT current_user, rolsuper, pg_has_role(relowner, 'USAGE')
    FROM pg_roles CROSS JOIN pg_class
    WHERE rolname = current_user AND pg_class.oid = to_regclass('dim_account')
""")


def standing(conn: Connection) -> Standing:
    """Return how this session's role stands to the tables, which must be there."""
    own = {one.table: set(_words(conn, one.table, None)) for one in wanted()}

    def lacks(of: str) -> list[str]:
        meant = ((one.table, word) for one in wanted() for word in filter(None, getattr(one, of).split(", ")))
        return [f"{word} on {table}" for table, word in meant if word not in own[table]]

    role, is_superuser, is_owner = conn.execute(_WHO).one()
    return Standing(role, is_superuser, is_owner, lacks("api"), lacks("workers"))
