"""How a report says things, the same in HTML and in plain text. Pure: what isn't known is said to be so, never 0."""

from datetime import UTC, date, datetime, timedelta

from db.gaps import Gap
from db.standing import Status
from db.totals import Total
from pipeline.report.facts import Facts, Lacking, Line, Mover, Trend
from pipeline.weeks import Week

UNKNOWN = "not known"
WHERE_ALL = "accounts: the dashboard's data health and `rollcall accounts list` have all of them"
_MEANS: dict[Status, str] = {
    "fresh": "read within its interval",
    "stale": "not read for longer than its interval",
    "failing": "the last attempt failed",
    "blocked": "needs a credential or an approval",
    "gone": "deleted, suspended or private",
    "never": "not read yet",
    "paused": "reading is switched off",
}


def subject(facts: Facts) -> str:
    """Return the subject of the mail."""
    simulated = "[simulated] " if facts.is_simulated else ""
    change = UNKNOWN if facts.total.delta is None else f"{signed(facts.total.delta)} followers"
    return f"{simulated}{title(facts)}, week {facts.week}: {change}"


def title(facts: Facts) -> str:
    return facts.name or "All organisations"


def number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def signed(value: int | None) -> str:
    if value is None:
        return UNKNOWN
    return f"+{value:,}" if value > 0 else f"−{-value:,}" if value else "±0"


def of_accounts(count: int, of: int) -> str:
    return f"{count:,} of {of:,} account{'' if of == 1 else 's'}"


def day(value: date) -> str:
    return f"{value:%-d %b %Y}"


def moment(at: datetime | None) -> str:
    return "never" if at is None else f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def span(week: Week) -> str:
    return f"Monday {day(week.first)} to Sunday {day(week.last)}, days in UTC"


def change(total: Total) -> str:
    """Say what became of the followers, and of which accounts it is said."""
    if total.delta is None:
        return "Change over the week: not known, as no account has a number at both ends."
    return (
        f"{signed(total.delta)} over the week, among the {total.compared:,} account{'' if total.compared == 1 else 's'} "
        "with a number at both ends."
    )


def coverage(total: Total, listed: int) -> str:
    """Say how many accounts a number covers."""
    said = f"The number covers {of_accounts(total.accounts, listed)}"
    if total.carried:
        return f"{said}, {total.carried:,} with {'its' if total.carried == 1 else 'their'} number of an earlier day."
    return f"{said}."


def trend(name: str, shown: Trend) -> str:
    """Say what a picture shows."""
    days = [(shown.first + timedelta(n), value) for n, value in enumerate(shown.followers) if value is not None]
    if not days:
        return f"{name}: no followers known."
    (first_day, first), (last_day, last) = days[0], days[-1]
    if len(days) == 1:
        return f"{name}: {first:,} followers on {day(first_day)}, the only day with a number."
    way = "as many as" if first == last else "up from" if last > first else "down from"
    said = f"{name}: {last:,} followers on {day(last_day)}, {way} {first:,} on {day(first_day)}"
    if shown.accounts_first != shown.accounts_last:
        said += f" ({shown.accounts_last:,} accounts, {shown.accounts_first:,} then)"
    missing = len(shown.followers) - len(days)
    return f"{said}; {missing} day{'' if missing == 1 else 's'} without a number." if missing else f"{said}."


def moved(one: Mover) -> str:
    """Say by how much an account's followers changed."""
    before = one.followers - one.change
    if not before:
        return signed(one.change)
    pct = 100 * one.change / before
    return f"{signed(one.change)} ({pct:+.{1 if abs(pct) >= 1 else 2}f} %)".replace("-", "−")


def moved_to(one: Mover) -> str:
    return f"now {one.followers:,}" + (", rounded by the platform" if one.is_rounded else "")


def lacking(one: Lacking) -> str:
    """Say on which days an account wasn't read, and why."""
    if not one.missing:
        return "read on every day of the week"
    reasons = "; ".join(f"{_days(gap)}: {gap.reason}" for gap in one.gaps)
    return f"{one.missing} of {one.of} days without a reading ({reasons})"


def nothing_missing(facts: Facts) -> str:
    """Say that no account lacks a reading, as far as any could."""
    if not facts.listed_then:
        return "No account was in the list in that week: its numbers were brought in later."
    return "Nothing: every account was read on every day on which it was due."


def now(one: Lacking) -> str:
    """Say how an account stands now."""
    why = f": {one.reason}" if one.reason and one.status in ("failing", "blocked", "gone") else ""
    return f"{one.status} ({_MEANS[one.status]}){why}; last read {moment(one.last_success_at)}"


def freshness(facts: Facts) -> str:
    """Say how old the numbers are."""
    fresh = dict(facts.by_status).get("fresh", 0)
    others = ", ".join(f"{count:,} {status}" for status, count in facts.by_status if status != "fresh")
    said = (
        f"At {moment(facts.made_at)}, {of_accounts(fresh, facts.listed)} {'is' if facts.listed == 1 else 'are'} fresh"
    )
    return f"{said}{f' ({others})' if others else ''}. The newest reading is of {moment(facts.last_success_at)}."


def simulated() -> str:
    return "These numbers are simulated: no platform was asked, and they say nothing of real accounts."


def more(count: int, of: int, what: str) -> str:
    """Say how many more there are than are shown."""
    return f"And {of - count:,} more {what}." if of > count else ""


def _days(gap: Gap) -> str:
    if gap.first == gap.last:
        return f"{gap.first:%a %-d %b}"
    first = f"{gap.first:%a %-d}" if gap.first.month == gap.last.month else f"{gap.first:%a %-d %b}"
    return f"{first} to {gap.last:%a %-d %b}"


def footer() -> str:
    return (
        "Written by Rollcall. An account counts with its last number of up to six days before; one without any is in no sum, "
        "never 0. Changes compare the same accounts at both ends, so an account that was added is no growth."
    )


def covered(line: Line) -> str:
    """Say how many accounts a line of a table covers, or why it has no number at all."""
    if line.why_not:
        return f"{line.listed:,} account{'' if line.listed == 1 else 's'}; followers aren't offered: {line.why_not}"
    counted = of_accounts(line.total.accounts, line.listed)
    return counted if line.total.compared == line.total.accounts else f"{counted}, change of {line.total.compared:,}"
