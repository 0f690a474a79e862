"""What was read: snapshots, the newest one of each account, posts, and the engagement that follows from them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC as UTC_ZONE
from datetime import date, datetime, timedelta
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Date,
    Text,
    Update,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from db import derived, held
from db.models import UTC, account_latest, fact_followers_snapshot, fact_social_post
from db.recordset import as_json, recordset
from db.rows import Doubt, Post, Profile, Source

_DELTA_DAYS = (1, 7, 30)
_DAY = bindparam("day", type_=Date)
_NOW = bindparam("now", type_=UTC)
_SOURCE = bindparam("of_source", type_=Text)


def _engagement(account_key: ColumnElement[int]) -> ColumnElement[Any]:
    """Return what an account's posts since `since` have gathered; null where none of them ever had a number."""
    post = fact_social_post.c
    of_account = post.account_key == account_key
    gathered = func.coalesce(post.likes, 0) + func.coalesce(post.comments, 0) + func.coalesce(post.shares, 0)
    total = select(func.coalesce(func.sum(gathered), 0)).where(
        of_account, post.published_at > bindparam("since", type_=UTC)
    )
    has_numbers = exists().where(of_account, func.num_nonnulls(post.likes, post.comments, post.shares) > 0)
    return case((has_numbers, total.scalar_subquery()))


_PROFILES = recordset(
    "profiles",
    account_key=BigInteger,
    followers=BigInteger,
    following=BigInteger,
    posts=BigInteger,
    precision=Text,
)
_judged = held.judged(_PROFILES, day=_DAY, now=_NOW)
_snapshot = {
    "account_key": _judged.c.account_key,
    "snapshot_date": _DAY,
    "followers": _judged.c.followers,
    "following": _judged.c.following,
    "posts": _judged.c.posts,
    "engagement": _engagement(_judged.c.account_key),
    "captured_at": _NOW,
    "source": _SOURCE,
    "precision": case((_judged.c.is_held, held.HELD), else_=_judged.c.precision),
}
_insert_snapshots = insert(fact_followers_snapshot).from_select([*_snapshot], select(*_snapshot.values()))
_kept = (
    _insert_snapshots.on_conflict_do_update(
        index_elements=fact_followers_snapshot.primary_key.columns,
        # What an import said of the day gives way, and with it that an import did.
        set_={name: _insert_snapshots.excluded[name] for name in (*_snapshot, "import_id")},
        where=and_(
            or_(
                fact_followers_snapshot.c.captured_at <= _insert_snapshots.excluded.captured_at,
                # What an import says of a day gives way to what the platform says.
                fact_followers_snapshot.c.source == "imported",
            ),
            or_(
                _insert_snapshots.excluded.precision != held.HELD,
                fact_followers_snapshot.c.precision == held.HELD,
            ),
        ),
    )
    .returning(*fact_followers_snapshot.c)
    .cte("kept")
)
# The statement sees the table as it was before it.
_known = (
    select(fact_followers_snapshot.c.account_key)
    .where(
        fact_followers_snapshot.c.snapshot_date == _DAY,
        fact_followers_snapshot.c.account_key.in_(select(_PROFILES.c.account_key)),
    )
    .cte("known")
)


def _delta(days: int) -> ColumnElement[Any]:
    past = fact_followers_snapshot.alias("past")
    # The day is a parameter: a day computed in SQL would open every partition.
    then = select(past.c.followers).where(
        past.c.account_key == _kept.c.account_key,
        past.c.snapshot_date == bindparam(f"day_{days}_before", type_=Date),
        or_(past.c.precision != held.HELD, past.c.snapshot_date == _judged.c.confirmed_date),
    )
    return _kept.c.followers - then.scalar_subquery()


_newest = {name: _kept.c[name] for name in _snapshot} | {f"delta_{n}d": _delta(n) for n in _DELTA_DAYS}
_insert_latest = insert(account_latest).from_select(
    [*_newest],
    select(*_newest.values())
    .join_from(_kept, _judged, _judged.c.account_key == _kept.c.account_key)
    .where(~_judged.c.is_held, ~_judged.c.is_late),
)
_latest = _insert_latest.on_conflict_do_update(
    index_elements=account_latest.primary_key.columns,
    set_={
        **{name: _insert_latest.excluded[name] for name in _newest},
        **dict.fromkeys(("held_followers", "held_at", "held_precision")),
    },
).cte("latest")
_SNAPSHOTS = (
    select(
        func.count(),
        func.array_agg(_kept.c.account_key).filter(_known.c.account_key.is_(None)),
        select(func.array_agg(_judged.c.account_key)).where(_judged.c.is_held).scalar_subquery(),
        select(func.array_agg(_judged.c.account_key)).where(_judged.c.is_late).scalar_subquery(),
        held.confirmed(_judged),
    )
    .select_from(_kept.outerjoin(_known, _known.c.account_key == _kept.c.account_key))
    .add_cte(_latest, held.marked(_judged, now=_NOW))
)


class Written(Struct, frozen=True):
    """How many snapshots were written, and the account_keys of those that are the first of their account and day, and
    of the readings that are held.
    """

    snapshots: int = 0
    first: Collection[int] = ()
    held: frozenset[int] = frozenset()


def snapshots(
    conn: Connection,
    profiles: Sequence[Profile],
    *,
    source: Source,
    now: datetime,
    engagement_days: int,
    doubt: Doubt,
) -> Written:
    """Keep profiles as the snapshots of the day of `now`, and as the newest of their accounts.

    A suspicious one is held (see db.held). A snapshot taken later than `now` stays, unless it was imported.
    """
    day = day_of(now)
    values = {
        "profiles": as_json(profiles),
        "day": day,
        "now": now,
        "since": now - timedelta(days=engagement_days),
        "of_source": source,
        "drop_pct": doubt.drop_pct,
        "rise_pct": doubt.rise_pct,
        "min_followers": doubt.min_followers,
    }
    values |= {f"day_{n}_before": day - timedelta(days=n) for n in _DELTA_DAYS}
    written, first, held_keys, late_keys, confirmed = conn.execute(_SNAPSHOTS, values).one()
    if confirmed:
        held.accept(conn, confirmed)
    if late_keys:
        derived.rederive(conn, late_keys)
    return Written(written, first or (), frozenset(held_keys or ()))


_POSTS = recordset(
    "posts",
    account_key=BigInteger,
    post_id=Text,
    url=Text,
    published_at=UTC,
    post_type=Text,
    text=Text,
    likes=BigInteger,
    comments=BigInteger,
    shares=BigInteger,
    views=BigInteger,
)
_said = [name for name in _POSTS.c.keys() if name not in ("account_key", "post_id")]  # noqa: SIM118  # no dict
_insert_posts = insert(fact_social_post).from_select(
    [*_POSTS.c.keys(), "read_at", "source"], select(*_POSTS.c, _NOW, _SOURCE)
)
_UPSERT_POSTS = _insert_posts.on_conflict_do_update(
    index_elements=fact_social_post.primary_key.columns,
    set_={name: _insert_posts.excluded[name] for name in (*_said, "read_at", "source")},
    where=tuple_(*(fact_social_post.c[name] for name in _said)).is_distinct_from(
        tuple_(*(_insert_posts.excluded[name] for name in _said))
    ),
)


def posts(conn: Connection, pages: Mapping[int, Sequence[Post]], *, source: Source, now: datetime) -> int:
    """Keep posts by account_key; return how many are new or have changed."""
    # A pinned post comes twice in one answer, and a statement can't write one row twice.
    rows = {
        (key, post.post_id): {"account_key": key, **structs.asdict(post)}
        for key, page in pages.items()
        for post in page
    }
    return conn.execute(_UPSERT_POSTS, {"posts": as_json(rows.values()), "now": now, "of_source": source}).rowcount


_keys = func.unnest(bindparam("account_keys", type_=ARRAY(BigInteger))).table_valued("account_key").render_derived()
_gathered = select(_keys.c.account_key, _engagement(_keys.c.account_key).label("engagement")).cte("gathered")


def _with_engagement(table: Any) -> Update:
    return (
        update(table)
        .where(
            table.c.account_key == _gathered.c.account_key,
            table.c.engagement.is_distinct_from(_gathered.c.engagement),
        )
        .values(engagement=_gathered.c.engagement)
    )


_ENGAGEMENT_OF_DAY = _with_engagement(fact_followers_snapshot).where(fact_followers_snapshot.c.snapshot_date == _DAY)
_ENGAGEMENT_OF_LATEST = _with_engagement(account_latest).where(account_latest.c.snapshot_date == _DAY)


def engagement(conn: Connection, account_keys: Collection[int], *, now: datetime, engagement_days: int) -> None:
    """Bring the engagement of accounts up to their posts in the snapshot of the day of `now`.

    Before the day's profile is read there is none, and the profile then brings it.
    """
    values = {"account_keys": list(account_keys), "since": now - timedelta(days=engagement_days), "day": day_of(now)}
    conn.execute(_ENGAGEMENT_OF_DAY, values)
    conn.execute(_ENGAGEMENT_OF_LATEST, values)


def day_of(now: datetime) -> date:
    """Return the UTC day of a time."""
    return now.astimezone(UTC_ZONE).date()
