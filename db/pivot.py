"""One number of some accounts, day by day side by side: what a table of accounts by days shows."""

from collections.abc import Collection
from datetime import date
from typing import Literal

from msgspec import Struct
from sqlalchemy import ARRAY, BigInteger, Connection, Date, any_, bindparam, select

from db.held import HELD
from db.models import fact_followers_snapshot
from db.rows import Precision

Number = Literal["followers", "following", "posts", "engagement"]

_FACT = fact_followers_snapshot.c
_OF = (
    _FACT.account_key == any_(bindparam("account_keys", type_=ARRAY(BigInteger))),
    _FACT.snapshot_date.between(bindparam("first", type_=Date), bindparam("last", type_=Date)),
)
_BY_NUMBER = {
    name: select(_FACT.account_key, _FACT.snapshot_date, _FACT[name], _FACT.precision).where(*_OF)
    for name in ("followers", "following", "posts", "engagement")
}


class Read(Struct, frozen=True):
    """What a day's reading said; None where it said no such number, or is held."""

    value: int | None
    precision: Precision


def by_account(
    conn: Connection, account_keys: Collection[int], number: Number, first: date, last: date
) -> dict[int, dict[date, Read]]:
    """Return the numbers of these accounts on the days of a range; days without a reading are left out."""
    found: dict[int, dict[date, Read]] = {key: {} for key in account_keys}
    of_days = {"account_keys": list(account_keys), "first": first, "last": last}
    for key, day, value, precision in conn.execute(_BY_NUMBER[number], of_days):
        found[key][day] = Read(None if precision == HELD else value, precision)
    return found
