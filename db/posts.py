"""An account's posts with their engagement as last read. A part of them costs posts of this one account alone."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, select

from db import keyset
from db.keyset import Order, Part, Window
from db.models import fact_social_post, scrape_state
from db.reads import Extent
from db.rows import Result, Source


class ListedPost(Struct, frozen=True):
    """One post; None is what its platform doesn't say of it."""

    post_id: str
    url: str
    published_at: datetime
    post_type: str
    text: str
    likes: int | None
    comments: int | None
    shares: int | None
    views: int | None
    read_at: datetime
    source: Source


class Standing(Struct, frozen=True):
    """How the reading of an account's posts went last; nothing of it is known before the first attempt."""

    result: Result | None = None
    reason: str | None = None
    last_success_at: datetime | None = None


# In the order of published_at the posts come out of an index; by what changes with every reading they are sorted, since
# an index of that would cost each reading more than it saves the few who ask.
SORTABLE = ("published_at", "likes", "comments", "shares", "views")
_POST = fact_social_post.c
MOST_COUNTED = 100_000


def total(conn: Connection) -> int | None:
    """Return how many posts there are; None where they are more than MOST_COUNTED, which takes its time to find out."""
    # In the order of the primary key they come out of it, without the rows.
    some = select(_POST.post_id).order_by(_POST.account_key, _POST.post_id).limit(MOST_COUNTED + 1).subquery()
    counted: int = conn.execute(select(func.count()).select_from(some)).scalar_one()
    return counted if counted <= MOST_COUNTED else None


_STANDING = select(*(scrape_state.c[name] for name in Standing.__struct_fields__)).where(
    scrape_state.c.account_key == bindparam("account_key"), scrape_state.c.subject == "posts"
)


def extent(conn: Connection, account_key: int) -> Extent:
    """Return how many posts an account has, and when the newest numbers of one were read."""
    query = select(func.count(), func.max(_POST.read_at)).where(_POST.account_key == account_key)
    return Extent(*conn.execute(query).one())


def standing(conn: Connection, account_key: int) -> Standing:
    """Return how the reading of an account's posts went last."""
    row = conn.execute(_STANDING, {"account_key": account_key}).one_or_none()
    return Standing() if row is None else Standing(*row)


def part(conn: Connection, names: Sequence[str], account_key: int, order: Order, window: Window) -> Part:
    """Return a part of an account's posts, of each these fields of ListedPost, in this order."""
    query = select(*(_POST[name] for name in keyset.placed(names, order, "post_id")))
    of_account = query.where(_POST.account_key == account_key)
    rows = conn.execute(keyset.window_of(of_account, _POST[order.column], _POST.post_id, order, window)).all()
    return keyset.part(rows, names, order, "post_id", window.limit)
