"""Weeks as ISO 8601 counts them, of UTC days: Monday to Sunday, `2026-W48`."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, Self

from msgspec import Struct

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEKDAYS: tuple[Weekday, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Week(Struct, frozen=True):
    """A week, by its Monday."""

    first: date

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2026-W48`. Raises ValueError that says how to write it."""
        match = re.fullmatch(r"(\d{4})-?W(\d{2})", text.strip(), re.ASCII | re.IGNORECASE)
        try:
            return cls(date.fromisocalendar(int(match[1]), int(match[2]), 1))  # type: ignore[index]  # caught below
        except (TypeError, ValueError):
            raise ValueError(f"{text!r} is no week: write it as 2026-W48") from None

    @classmethod
    def of(cls, day: date) -> Self:
        """Return the week that a day lies in."""
        return cls(day - timedelta(days=day.weekday()))

    @property
    def last(self) -> date:
        """Return its Sunday."""
        return self.first + timedelta(days=6)

    @property
    def before(self) -> date:
        """Return the day before it, which its changes are measured from."""
        return self.first - timedelta(days=1)

    @property
    def ends_at(self) -> datetime:
        """Return when its last day is over."""
        return datetime.combine(self.first + timedelta(days=7), time(), UTC)

    def __str__(self) -> str:
        year, number, _ = self.first.isocalendar()
        return f"{year}-W{number:02}"


def last_whole(now: datetime) -> Week:
    """Return the last week that is over."""
    return Week.of(now.astimezone(UTC).date() - timedelta(days=7))


def reported(now: datetime, weekday: Weekday, hour: int) -> Week:
    """Return the week that the newest report is about: the last one that was over when it fell due.

    A report falls due each week on this day at this hour (UTC), and stays due until the next one does.
    """
    now = now.astimezone(UTC)
    falls_due = datetime.combine(Week.of(now.date()).first, time(hour), UTC) + timedelta(days=WEEKDAYS.index(weekday))
    return last_whole(falls_due if falls_due <= now else falls_due - timedelta(days=7))
