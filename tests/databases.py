"""Databases of a test's own: copies of a migrated template, which PostgreSQL makes in some hundredths of a second."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2 import sql
from sqlalchemy import make_url

from db import migrate, roles
from db.engine import Engine, make_engine, transaction
from db.roles import Roles

TEMPLATE = "rollcall_template"


def make_template(server: str) -> None:
    """Make the template anew on the server with this address."""
    _admin(server, "DROP DATABASE IF EXISTS {}", TEMPLATE)
    _admin(server, "CREATE DATABASE {}", TEMPLATE)
    migrate.upgrade(_for_sqlalchemy(_named(server, TEMPLATE)))


@contextmanager
def copied(server: str) -> Iterator[str]:
    """Yield the address of an empty, migrated database; it goes with the block."""
    name = f"test_{uuid.uuid4().hex}"
    _admin(server, "CREATE DATABASE {} TEMPLATE {}", name, TEMPLATE)
    try:
        yield _for_sqlalchemy(_named(server, name))
    finally:
        _admin(server, "DROP DATABASE {} WITH (FORCE)", name)


class Owned:
    """A database of a role that is no superuser, and the address of it for each role."""

    def __init__(self, server: str) -> None:
        tail = uuid.uuid4().hex[:12]
        self.roles = Roles(api=f"Api {tail}", workers=f"workers_{tail}")  # a name that needs quotes, too
        self.owner, self.name = f"migrator_{tail}", f"owned_{tail}"
        self._server = server

    @property
    def every(self) -> tuple[str, str, str]:
        return (self.owner, self.roles.api, self.roles.workers)

    def url(self, role: str) -> str:
        """Return the address for a role."""
        url = make_url(_for_sqlalchemy(_named(self._server, self.name)))
        return url.set(username=role, password="tests").render_as_string(hide_password=False)


@contextmanager
def owned(server: str) -> Iterator[Owned]:
    """Yield a migrated database that is owned as in production, with rights granted to the roles; all go with the block."""
    made = Owned(server)
    try:
        for role in made.every:
            _admin(server, "CREATE ROLE {} LOGIN PASSWORD 'tests'", role)
        _admin(server, "CREATE DATABASE {} OWNER {} TEMPLATE template0", made.name, made.owner)
        migrate.upgrade(made.url(made.owner))
        with connected(made, made.owner) as engine, transaction(engine) as conn:
            roles.grant(conn, made.roles)
        yield made
    finally:
        _admin(server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", made.name)
        for role in made.every:
            _admin(server, "DROP ROLE IF EXISTS {}", role)


@contextmanager
def connected(owned: Owned, role: str) -> Iterator[Engine]:
    engine = make_engine(owned.url(role), pool_size=2, application_name="tests")
    try:
        yield engine
    finally:
        engine.dispose()


def run(server: str, statement: str) -> None:
    """Run one statement as the server's superuser."""
    _admin(server, statement)


def _admin(url: str, statement: str, *names: str) -> None:
    connection = psycopg2.connect(_named(url, "postgres"))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
    finally:
        connection.close()


def _named(url: str, name: str) -> str:
    """Return `url` with another database's name."""
    head, _, query = url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)
