"""GET /api/posts/{platform}/{handle}: the posts of an account, newest first."""

from collections.abc import Iterator

from api.lists import Ask, ListResource, Opened, listing
from api.naming import find_account, tags_of
from api.room import Room
from api.routes import Route
from api.schemas import PostsQuery
from db import posts
from db.engine import Connection
from db.posts import ListedPost


class Posts(ListResource[PostsQuery]):
    """One account's posts by any handle it has had, with their numbers as last read."""

    query, rows = PostsQuery, ListedPost
    operations = listing("One account's posts, newest first.", query, rows)
    sortable = posts.SORTABLE
    ttl_s = 300

    def open(self, conn: Connection, ask: Ask[PostsQuery]) -> Opened:
        account = find_account(conn, self.room.platforms, **ask.where, clock=ask.clock)
        key = account.account_key
        extent = posts.extent(conn, key)
        return Opened(
            part=lambda window: posts.part(conn, ask.names, key, ask.query.order, window),
            total=extent.total,
            as_of=extent.as_of,
            tags=tags_of(account, ask.where["handle"]),
        )


def routes(room: Room) -> Iterator[Route]:
    yield "/api/posts/{platform}/{handle:path}", Posts(room)
