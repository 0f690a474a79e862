"""How followers have changed, by platform and organisation, out of each account's newest numbers: like with like."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import date, timedelta
from typing import Literal, Self, get_args

from msgspec import Struct, field
from sqlalchemy import ARRAY, Connection, Date, Text, any_, bindparam, func, or_, select

from db.models import account_latest, day_total, dim_account

Days = Literal[1, 7, 30]
SPANS: tuple[Days, ...] = get_args(Days)


class Change(Struct, frozen=True):
    """What followers have become more or less, of the `compared` accounts that have a number at both ends."""

    delta: int | None = None
    compared: int = 0

    def __add__(self, other: Self) -> "Change":
        if self.delta is None or other.delta is None:
            return self if other.delta is None else Change(other.delta, other.compared)
        return Change(self.delta + other.delta, self.compared + other.compared)


class Growth(Struct, frozen=True, kw_only=True):
    """Accounts together: `known` of them have a follower count, which `followers` adds up."""

    accounts: int = 0
    known: int = 0
    followers: int | None = None
    changes: Mapping[Days, Change] = field(default_factory=lambda: dict.fromkeys(SPANS, Change()))

    def __add__(self, other: Self) -> "Growth":
        sums = [number for number in (self.followers, other.followers) if number is not None]
        return Growth(
            accounts=self.accounts + other.accounts,
            known=self.known + other.known,
            followers=sum(sums) if sums else None,
            changes={days: self.changes[days] + other.changes[days] for days in SPANS},
        )


Group = tuple[str, str | None]
"""A platform and an organisation, None for accounts without one."""

_LATEST = account_latest.c
_DELTAS = {1: _LATEST.delta_1d, 7: _LATEST.delta_7d, 30: _LATEST.delta_30d}
# The change of an account that was read last weeks ago says nothing of today.
_IS_RECENT = _LATEST.snapshot_date >= bindparam("since", type_=Date)
_GROUPS = (
    select(
        dim_account.c.platform,
        dim_account.c.org_name,
        func.count(),
        func.count(_LATEST.followers),
        func.sum(_LATEST.followers),
        *(
            column
            for delta in _DELTAS.values()
            for column in (func.sum(delta).filter(_IS_RECENT), func.count(delta).filter(_IS_RECENT))
        ),
    )
    .select_from(dim_account.outerjoin(account_latest, _LATEST.account_key == dim_account.c.account_key))
    .group_by(dim_account.c.platform, dim_account.c.org_name)
)


def by_group(conn: Connection, today: date) -> dict[Group, Growth]:
    """Return how the accounts of each platform in each organisation stand; changes are those of accounts read since yesterday."""
    found = {}
    for platform, org, accounts, known, followers, *changes in conn.execute(
        _GROUPS, {"since": today - timedelta(days=1)}
    ):
        numbers = iter(changes)
        found[platform, org] = Growth(
            accounts=accounts,
            known=known,
            followers=None if followers is None else int(followers),
            changes={
                days: Change(None if delta is None else int(delta), compared)
                for days, delta, compared in zip(SPANS, numbers, numbers, strict=True)
            },
        )
    return found


def largest_organisations(conn: Connection, today: date, most: int) -> list[str]:
    """Return the names of the organisations with the most followers together."""
    followers: Counter[str] = Counter()
    for (_, org), its in by_group(conn, today).items():
        if org is not None:
            followers[org] += its.followers or 0
    return [org for org, _ in followers.most_common(most)]


def together(groups: Iterable[Growth]) -> Growth:
    """Return what all of them make together."""
    whole = Growth()
    for group in groups:
        whole += group
    return whole


_TRENDS = select(day_total.c.platform, day_total.c.org_name, day_total.c.snapshot_date, day_total.c.followers).where(
    day_total.c.snapshot_date.between(bindparam("first", type_=Date), bindparam("last", type_=Date)),
    day_total.c.accounts > 0,
    or_(day_total.c.org_name == "", day_total.c.org_name == any_(bindparam("orgs", type_=ARRAY(Text)))),
)
Trend = tuple[str, str]


def trends(conn: Connection, first: date, last: date, orgs: Collection[str]) -> dict[Trend, dict[date, int | None]]:
    """Return the days that have been added up: of each platform (its name, ""), these organisations ("", its name), and of all.

    Days that haven't been yet are absent; today never has been.
    """
    found: dict[Trend, dict[date, int | None]] = {}
    of_days = {"first": first, "last": last, "orgs": list(orgs)}
    for platform, org, day, followers in conn.execute(_TRENDS, of_days):
        found.setdefault((platform, org), {})[day] = followers
    return found
