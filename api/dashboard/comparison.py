"""Up to eight accounts or organisations over the same days: which ones are meant, and their followers."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

from msgspec import Struct

from api.dashboard.charts import Chart, Scale, followers
from api.dashboard.look import account_path, query, shown
from api.naming import find_account
from api.problems import Fault, Problem
from api.schemas import RangeQuery, Words
from db import accounts, overview, reads, tags, totals
from db.engine import Connection
from db.gaps import each_day
from db.reads import Clock
from db.totals import Which
from pipeline import addresses
from pipeline.platforms import Platform

MOST = 8
DEFAULT_DAYS = 60
ORG = "org:"
FIELDS = tuple(f"s{number}" for number in range(1, MOST + 1))


class CompareQuery(RangeQuery, frozen=True, kw_only=True):
    """What is compared: `x/agency` or `org:Agency` in each of s1 to s8."""

    s1: Words | None = None
    s2: Words | None = None
    s3: Words | None = None
    s4: Words | None = None
    s5: Words | None = None
    s6: Words | None = None
    s7: Words | None = None
    s8: Words | None = None
    scale: Scale = "absolute"

    @property
    def named(self) -> dict[str, str]:
        """Return what is to be compared, each once, by the parameter that names it."""
        given = {field: name for field in FIELDS if (name := getattr(self, field)) is not None}
        firsts = {name.casefold(): field for field, name in reversed(given.items())}
        return {field: name for field, name in given.items() if firsts[name.casefold()] == field}

    def days(self, today: date) -> tuple[date, date]:
        """Return the first and last day, 60 days unless others are asked for; none is in the future."""
        if self.first is None:
            last = min(self.last or today, today)
            return RangeQuery(first=last - timedelta(days=DEFAULT_DAYS - 1), last=last).span(today)
        first, last = self.span(today)
        return first, max(first, min(last, today))


class Line(Struct, frozen=True, kw_only=True):
    """One of those compared: `name` as the address has it, and its followers day by day, None where there are none."""

    name: str
    title: str
    about: str
    href: str
    tag: str
    values: Sequence[int | None]

    @property
    def known(self) -> list[int]:
        return [value for value in self.values if value is not None]

    @property
    def change(self) -> int | None:
        """Return the change from the first known day to the last, None with fewer than two."""
        return self.known[-1] - self.known[0] if len(self.known) > 1 else None

    @property
    def percent(self) -> float | None:
        return None if self.change is None or not self.known[0] else 100 * self.change / self.known[0]

    @property
    def missing(self) -> int:
        return len(self.values) - len(self.known)


class Comparison(Struct, frozen=True, kw_only=True):
    """What was asked for and found, and what wasn't: a fault for each."""

    span: tuple[date, date]
    lines: Sequence[Line]
    faults: Sequence[Fault]

    @property
    def dates(self) -> list[date]:
        return list(each_day(*self.span))

    def chart(self, scale: Scale) -> Chart:
        return followers(self.dates, {title: line.values for title, line in self.titled}, scale)

    @property
    def titled(self) -> list[tuple[str, Line]]:
        """Return the lines with titles that set them apart."""
        titles = [line.title for line in self.lines]
        return [
            (line.title if titles.count(line.title) == 1 else f"{line.title} ({line.name})", line)
            for line in self.lines
        ]

    @property
    def sentence(self) -> str:
        """Say who has changed most, and how many days are open."""
        changed = sorted(
            ((line.percent, title) for title, line in self.titled if line.percent is not None), reverse=True
        )
        first, last = self.span
        said = f"From {first:%-d %b %Y} to {last:%-d %b %Y}"
        if not changed:
            said += " no change can be told"
        elif len(changed) == 1:
            said += f" {changed[0][1]} has changed by {changed[0][0]:+.1f} %"
        else:
            said += (
                f" {changed[0][1]} has changed by {changed[0][0]:+.1f} %, the most,"
                f" and {changed[-1][1]} by {changed[-1][0]:+.1f} %, the least"
            )
        open_ = [f"{title} has {line.missing}" for title, line in self.titled if line.missing]
        return f"{said}." + (f" Days without a number are left open: {', '.join(open_)}." if open_ else "")


def compared(conn: Connection, asked: CompareQuery, clock: Clock, platforms: Mapping[str, Platform]) -> Comparison:
    """Read what a comparison shows; a name that leads nowhere is a fault of its parameter."""
    span = asked.days(clock.now.date())
    lines, faults = [], []
    for field, name in asked.named.items():
        try:
            line = (
                _of_org(conn, name, span) if name.startswith(ORG) else _of_account(conn, name, span, clock, platforms)
            )
        except Problem as problem:
            said = problem.faults[0].reason if problem.faults else str(problem.description)
            faults.append(Fault(field, said))
        else:
            lines.append(line)
    return Comparison(span=span, lines=lines, faults=faults)


def _of_account(
    conn: Connection, name: str, span: tuple[date, date], clock: Clock, platforms: Mapping[str, Platform]
) -> Line:
    platform, slash, handle = name.strip().partition("/")
    if not slash or platform.casefold() not in platforms:
        raise Problem(
            404, f"{name[:80]!r} is neither an account, as in x/agency, nor an organisation, as in org:Agency"
        )
    try:
        account = find_account(conn, platforms, platform, handle, clock)
    except Problem as exc:
        raise Problem(404, f"{name[:80]} isn't in the list{_nearly(name, accounts.names(conn))}") from exc
    by_day = {day.snapshot_date: day.followers for day in reads.days(conn, account.account_key, *span)}
    written = f"{account.platform}/{account.handle}"
    return Line(
        name=written,
        title=shown(account),
        about=f"{written} · {account.org_name}" if account.org_name else written,
        href=account_path(account),
        tag=tags.account(account.account_key),
        values=[by_day.get(day) for day in each_day(*span)],
    )


def _of_org(conn: Connection, name: str, span: tuple[date, date]) -> Line:
    wanted = name.removeprefix(ORG).strip()
    known = overview.organisations(conn)
    org = next((one for one in known if one.casefold() == wanted.casefold()), None)
    if org is None:
        raise Problem(404, f"There is no organisation {wanted[:80]!r}{_nearly(wanted, known)}")
    return Line(
        name=f"{ORG}{org}",
        title=org,
        about="all accounts of the organisation together",
        href=f"/accounts{query(org=org)}",
        tag=tags.SUMMARY,
        values=[total.followers for total in totals.by_day(conn, Which(org=org), *span).values()],
    )


def _nearly(name: str, known: Iterable[str]) -> str:
    near = addresses.nearest(name, list(known))
    return f"; {' or '.join(near)}?" if near else ""


def address(names: Sequence[str], **others: object) -> str:
    """Return the query that compares these."""
    return query(**{f"s{number}": name for number, name in enumerate(names, 1)}, **others)
