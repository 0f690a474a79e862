"""`rollcall alerts …`: what somebody should know of, and whether the channels work by which they get to know."""

import sys
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import click

from db import alerts, tags
from db.alerts import Alert
from db.engine import reading, transaction
from pipeline.alert_channels import HOW_TO_SET, Message, NotTold, configured
from pipeline.command import Fault, Misuse, as_json_option, opened, purge
from pipeline.terminal import moment, note, show_json, show_table
from pipeline.times import Span


@click.group("alerts")
def alerts_group() -> None:
    """What somebody should know of: drops, failures, refused credentials, quotas."""


@alerts_group.command("list")
@click.option("--all", "all_", is_flag=True, help="Those that are over, too.")
@as_json_option
def list_alerts(all_: bool, as_json: bool) -> None:
    """List the open alerts, the newest first, and how far each has been told."""
    with opened() as (_, engine), reading(engine) as conn:
        found = alerts.listed(conn, all_=all_)
    if as_json:
        show_json(found)
        return
    show_table(
        ("id", "rule", "what", "why", "since", "over", "told"),
        (
            (
                one.alert_id,
                one.rule,
                one.title,
                one.detail.why,
                moment(one.raised_at),
                one.resolved_at and moment(one.resolved_at),
                _told(one),
            )
            for one in found
        ),
    )
    if not found:
        note("No alert yet." if all_ else "No alert is open.")


@alerts_group.command()
@as_json_option
def test(as_json: bool) -> None:
    """Send a test message through every channel. Exits 1 if one doesn't take it, or none is set."""
    with opened() as (settings, _):
        channels = configured(settings)
        if not channels:
            raise Fault(f"Alerts are on the dashboard only: {HOW_TO_SET}.")
        at = datetime.now(UTC)
        message = Message(
            name=f"alert.test.{uuid4().hex}",
            title="Rollcall: a test of alerts",
            lines=[f"Somebody ran `rollcall alerts test`, {moment(at)}. Nothing is wrong."],
        )
        verdicts: dict[tuple[str, str], str | None] = {}
        for channel in channels:
            try:
                channel.tell(message)
                verdicts[channel.name, channel.to] = None
            except NotTold as exc:
                verdicts[channel.name, channel.to] = str(exc)
    if as_json:
        show_json([{"channel": name, "to": to, "error": error} for (name, to), error in verdicts.items()])
    else:
        show_table(
            ("channel", "to", "says"), ((name, to, error or "took it") for (name, to), error in verdicts.items())
        )
    if any(verdicts.values()):
        sys.exit(1)


@alerts_group.command()
@click.argument("alert_id", type=click.IntRange(1, 2**63 - 1), metavar="ID")
@click.option("--for", "span_s", type=Span(), required=True, help="How long: 6h, 2d.")
def mute(alert_id: int, span_s: float) -> None:
    """Tell nobody again of an alert for a while; that it is over is told all the same."""
    with opened() as (settings, engine):
        until = datetime.now(UTC) + timedelta(seconds=span_s)
        with transaction(engine) as conn:
            is_open = alerts.mute(conn, alert_id, until)
        if not is_open:
            raise Misuse(f"No alert {alert_id} is open: `rollcall alerts list` shows them.")
        purge(settings, frozenset({tags.ALERTS}))
    note(f"Alert {alert_id} is muted until {moment(until)}.")


def _told(alert: Alert) -> str:
    """Say how far an alert has been told."""
    said = []
    for one in alert.deliveries:
        if one.failures:
            said.append(f"{one.channel} failed {one.failures} times, again {moment(one.due_at)}: {one.error}")
        else:
            said.append(f"{one.channel} {moment(one.told_at)}" if one.told_at else f"{one.channel} not yet")
    if alert.muted_until and alert.muted_until > datetime.now(UTC) and alert.resolved_at is None:
        said.append(f"muted until {moment(alert.muted_until)}")
    return "; ".join(said)
