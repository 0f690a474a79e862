"""`rollcall report …`: the weekly report, to look at and to send by hand."""

import sys
from datetime import UTC, datetime

import click

from db import overview
from db.engine import Engine, reading
from pipeline import mail, naming, report, weeks
from pipeline.command import Fault, Misuse, opened
from pipeline.mail import MailError
from pipeline.report import Delivered
from pipeline.report.written import Written
from pipeline.settings import Settings
from pipeline.terminal import moment, note, show_table
from pipeline.weeks import Week


class WeekName(click.ParamType[Week]):
    """A week that is over, as 2026-W48."""

    name = "week"

    def convert(self, value: str | Week, param: click.Parameter | None, ctx: click.Context | None) -> Week:
        if isinstance(value, Week):
            return value
        try:
            week = Week.parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if week.ends_at > datetime.now(UTC):
            self.fail(f"{week} isn't over yet", param, ctx)
        return week


_week_option = click.option("--week", type=WeekName(), help="As 2026-W48; else the last one that is over.")


@click.group("report")
def report_group() -> None:
    """The weekly report."""


@report_group.command()
@click.option("--org", help="On this organisation; else on all together.")
@_week_option
@click.option("--text", "as_text", is_flag=True, help="The plain text, instead of HTML with its pictures.")
def show(org: str | None, week: Week | None, as_text: bool) -> None:
    """Print a report as it would be sent: `rollcall report show > report.html`."""
    with opened() as (settings, engine):
        _check(engine, org)
        written = _written(settings, engine, org, week or weeks.last_whole(datetime.now(UTC)))
    note(f"Subject: {written.subject}")
    click.echo(written.text if as_text else written.standalone, nl=False)


@report_group.command()
@click.option("--org", help="That on this organisation; else all reports that have recipients.")
@click.option(
    "--to", help="Send one copy to this address, beside those that are due; without --org that on all together."
)
@_week_option
def send(org: str | None, to: str | None, week: Week | None) -> None:
    """Send the reports now that are due to their recipients: who has one already gets no second. Exits 1 on a failure."""
    with opened() as (settings, engine):
        _check(engine, org)
        now = datetime.now(UTC)
        week = week or weeks.last_whole(now)
        if to is not None:
            _send_copy(settings, engine, org, to, week)
            return
        wanted = report.due(settings, engine, org)
        if not wanted:
            raise Misuse("Nobody is named to send it to: give --to, or set REPORT_EMAIL_TO or REPORT_RECIPIENTS.")
        done = list(report.deliver(settings, engine, week, wanted, now, at_once=True))
    show_table(
        ("report on", "to", "", "why"),
        ((one.delivery.org or "all", one.delivery.recipient, one.result, _why(one)) for one in done),
    )
    if any(one.result == "failed" for one in done):
        sys.exit(1)


def _send_copy(settings: Settings, engine: Engine, org: str | None, to: str, week: Week) -> None:
    written = _written(settings, engine, org, week)
    try:
        mail.send(settings, [to], written.subject, written.text, written.html, written.images)
    except MailError as exc:
        raise Fault(f"Not sent: {exc}.") from exc
    note(f"Sent to {to}: {written.subject}")


def _check(engine: Engine, org: str | None) -> None:
    """Raise Misuse for an organisation that no account is of."""
    if org is None:
        return
    with reading(engine) as conn:
        known = overview.organisations(conn)
    if org not in known:
        raise Misuse(f"No account is of the organisation {org!r}.{naming.nearest(org, known)}")


def _written(settings: Settings, engine: Engine, org: str | None, week: Week) -> Written:
    found = report.written(settings, engine, org, week, datetime.now(UTC))
    if found is None:
        raise Fault(f"There is nothing to say of {week}: no account was listed then, and none has a number of it.")
    return found


def _why(done: Delivered) -> str:
    if done.result != "settled":
        return done.reason or ""
    return f"has it since {moment(done.sent_at)}" if done.sent_at else "is being sent by another process"
