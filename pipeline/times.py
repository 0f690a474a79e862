"""Times as people write them on the command line: `6h`, `2d`, `2026-11-01`."""

import re
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def span(text: str) -> timedelta:
    """Read `30s`, `10m`, `6h`, `2d` or `1w`. Raises ValueError that says how to write it."""
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip(), re.ASCII)
    if match is None or not int(match[1]):
        raise ValueError(f"{text!r} is not a time span: write it as 30s, 10m, 6h or 2d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def past(text: str, now: datetime) -> datetime:
    """Read a day, a time (UTC, unless it says otherwise) or a span before `now`.

    Raises ValueError for what is none of these, and for what isn't past.
    """
    try:
        at = now - span(text)
    except OverflowError:
        raise ValueError(f"{text!r} is before all time") from None
    except ValueError:
        at = _written_out(text)
    if at > now:
        raise ValueError(f"{text!r} is still to come: give a time that is past")
    return at


def _written_out(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time: write 6h or 2d (ago), 2026-11-01 or 2026-11-01T06:00") from None


class Span(click.ParamType[float]):
    """A time span, handed on as its seconds."""

    name = "span"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return span(value).total_seconds()
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Past(click.ParamType[datetime]):
    """A time that is past, handed on as an aware UTC time."""

    name = "when"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return past(value, datetime.now(UTC))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
