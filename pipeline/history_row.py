"""What one row of a history means: its account, its day, its numbers; or what is wrong with it. Pure."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import Any, get_args

from msgspec import Struct

from pipeline.formats import plain_cell
from pipeline.history_file import NUMBERS
from pipeline.records import Precision

# Before the first of the platforms began, nobody can have counted.
FIRST_DAY = date(2003, 1, 1)
_LARGEST = 2**63 - 1
# Beyond it a floating-point number stands for its neighbours, too.
_EXACT = 2**53
_PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_DIGITS = re.compile(r"\d{1,19}", re.ASCII)
_ISO_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class Faulty(ValueError):
    """A row can't be taken; `str()` says what is wrong and how to mend it."""


Name = tuple[str, str, str, str]
"""How a row names its account: account, url, platform, handle; empty where it doesn't say."""


class Wanted(Struct, frozen=True):
    """A good row."""

    name: Name
    day: date
    captured_at: datetime
    numbers: tuple[int | None, ...]
    precision: Precision


def judge(values: Mapping[str, Any], *, oldest: date, now: datetime) -> Wanted:
    """Say what a row means. Pure. Raises Faulty."""
    if values.get("source") == "simulated":
        raise Faulty("source: simulated numbers are no history; a backup keeps them")
    day = _day(values.get("date"))
    if day > now.date():
        raise Faulty(f"date: {day} is still to come")
    if day < oldest:
        raise Faulty(f"date: {day} is before {oldest}, the oldest day that is kept")
    numbers = tuple(_number(name, values.get(name)) for name in NUMBERS)
    precision = _precision(values.get("precision"))
    if precision is None and not any(number is not None for number in numbers):
        raise Faulty("has no number: a day without a reading needs no row")
    account, url, platform, handle = (
        _text(name, values.get(name)) for name in ("account", "url", "platform", "handle")
    )
    return Wanted(
        (account, url, platform, handle),
        day,
        _captured_at(values.get("captured_at"), day, now),
        numbers,
        precision or "exact",
    )


def _day(value: object) -> date:
    if isinstance(value, str) and value.strip():
        return _day_of_text(value.strip())
    if isinstance(value, datetime):
        return _day_of_time(value)
    if isinstance(value, date):
        return value
    raise Faulty(
        "has no date" if value in (None, "") else f"date: {_shown(value)} is not a day: write it as 2026-11-20"
    )


@lru_cache(maxsize=20_000)
def _day_of_text(text: str) -> date:
    try:
        return date.fromisoformat(text) if _ISO_DAY.fullmatch(text) else _day_of_time(_time_of_text(text))
    except Faulty:
        raise
    except ValueError:
        raise Faulty(f"date: {_shown(text)} is not a day: write it as 2026-11-20") from None


def _time_of_text(text: str) -> datetime:
    """Read a day with a time. Raises ValueError."""
    if not (_ISO_DAY.match(text) and text[10:11] in ("T", " ")):
        raise ValueError(text)
    return datetime.fromisoformat(text)


def _day_of_time(at: datetime) -> date:
    """Return the UTC day of a time: clear where the time says its zone, or is the midnight that programs add to days."""
    if at.tzinfo is not None:
        try:
            return at.astimezone(UTC).date()
        except OverflowError:  # at either end of all time
            raise Faulty(f"date: {at} is not a day that anyone counted on") from None
    if at.time() != time():
        raise Faulty(f"date: {at} has a time without its zone: write the UTC day alone, as {at.date()}")
    return at.date()


def _captured_at(value: object, day: date, now: datetime) -> datetime:
    """Return when the numbers were read: at the day's beginning where the row doesn't say."""
    if value is None or value == "":
        return datetime.combine(day, time(), UTC)
    try:
        at = value if isinstance(value, datetime) else _time_of_text(str(value).strip())
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Faulty(f"captured_at: {_shown(value)} is not a time with its zone: write it as 2026-11-20T06:00:00Z")
    if _day_of_time(at) != day or at > now:
        raise Faulty(f"captured_at: {_shown(value)} is not on the day {day} (UTC), or still to come")
    return at


def _number(name: str, value: object) -> int | None:
    """Read a count; an empty one is unknown, and never 0."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if not _DIGITS.fullmatch(text):
            raise Faulty(f"{name}: {_shown(text)} {_why_not(text)}")
        number = int(text)
    elif isinstance(value, float):
        if math.isnan(value):  # how tables of numbers write that there is none
            return None
        if not value.is_integer() or abs(value) > _EXACT:
            raise Faulty(f"{name}: {value} is not a whole number")
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise Faulty(f"{name}: {_shown(value)} is not a number")
    if not 0 <= number <= _LARGEST:
        raise Faulty(f"{name}: {number} is {'negative' if number < 0 else 'more than anyone counts'}")
    return number


def _why_not(text: str) -> str:
    if re.fullmatch(r"-\s*\d+", text):
        return "is negative"
    if re.fullmatch(r"\d[\d.,'\s_]*\d?", text) and not text.isdigit():
        return "has a separator: write whole numbers, with digits only"
    return "is not a number: leave it empty where it is unknown"


def _precision(value: object) -> Precision | None:
    if value is None or value == "":
        return None
    for precision in _PRECISIONS:
        if value == precision:
            return precision
    raise Faulty(f"precision: {_shown(value)} is none of {', '.join(_PRECISIONS)}")


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return plain_cell(str(value).strip())
    raise Faulty(f"{name}: {_shown(value)} is not a name")


def _shown(value: object) -> str:
    return repr(value if len(str(value)) <= 40 else f"{str(value)[:40]}…")
