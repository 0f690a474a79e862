"""The summary of accounts by SQLAlchemy alone, as Flask's and FastAPI's documentation would have it: what both peers answer.

One select of the columns that are shown, which costs a third of whole objects.
"""

import os
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import ForeignKey, RowMapping, and_, case, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

STALE_AFTER = timedelta(seconds=float(os.environ["PEER_STALE_AFTER_S"]))
# As many as a worker has threads, all of them kept.
Sessions = sessionmaker(create_engine(os.environ["DATABASE_URL"], pool_size=8))


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "dim_account"

    account_key: Mapped[int] = mapped_column(primary_key=True)
    platform: Mapped[str]
    host: Mapped[str]
    handle: Mapped[str]
    display_name: Mapped[str | None]
    org_name: Mapped[str | None]
    is_core_account: Mapped[bool]
    is_active: Mapped[bool]
    url: Mapped[str]


class Latest(Base):
    __tablename__ = "account_latest"

    account_key: Mapped[int] = mapped_column(ForeignKey("dim_account.account_key"), primary_key=True)
    snapshot_date: Mapped[date]
    captured_at: Mapped[datetime]
    followers: Mapped[int | None]
    following: Mapped[int | None]
    posts: Mapped[int | None]
    engagement: Mapped[int | None]
    delta_1d: Mapped[int | None]
    delta_7d: Mapped[int | None]
    delta_30d: Mapped[int | None]
    source: Mapped[str]
    precision: Mapped[str]
    held_at: Mapped[datetime | None]


class State(Base):
    __tablename__ = "scrape_state"

    account_key: Mapped[int] = mapped_column(ForeignKey("dim_account.account_key"), primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    result: Mapped[str | None]
    reason: Mapped[str | None]
    last_success_at: Mapped[datetime | None]


def page(session: Session, after: int, per_page: int) -> Sequence[RowMapping]:
    """Return the accounts behind this one, by their keys, with what the summary shows of each."""
    standing = case(
        (Account.is_active.is_(False), "paused"),
        (State.result == "gone", "gone"),
        (State.result == "blocked", "blocked"),
        (State.result == "failed", "failing"),
        (State.last_success_at.is_(None), "never"),
        (State.last_success_at >= datetime.now(UTC) - STALE_AFTER, "fresh"),
        else_="stale",
    )
    week_ago = func.nullif(Latest.followers - Latest.delta_7d, 0)
    # First the page, then what belongs to it: else PostgreSQL walks through two of the tables from their beginning.
    found = (
        select(Account.account_key)
        .where(Account.account_key > after)
        .order_by(Account.account_key)
        .limit(per_page)
        .subquery()
    )
    query = (
        select(
            Account.account_key,
            Account.platform,
            case((Account.host != "", Account.handle + "@" + Account.host), else_=Account.handle).label("handle"),
            Account.display_name,
            Account.org_name,
            Account.is_core_account,
            Account.url.label("account_url"),
            Latest.followers,
            Latest.following,
            Latest.posts,
            Latest.engagement,
            Latest.delta_1d,
            Latest.delta_7d,
            Latest.delta_30d,
            func.round(100.0 * Latest.delta_7d / week_ago, 2).label("growth_7d_pct"),
            Latest.snapshot_date,
            Latest.captured_at,
            standing.label("status"),
            State.reason,
            case((Latest.held_at.is_not(None), "held"), else_=Latest.precision).label("precision"),
            Latest.source,
        )
        .join(found, found.c.account_key == Account.account_key)
        .outerjoin(Latest, Latest.account_key == Account.account_key)
        .outerjoin(State, and_(State.account_key == Account.account_key, State.subject == "profile"))
        .order_by(Account.account_key)
    )
    return session.execute(query).mappings().all()
