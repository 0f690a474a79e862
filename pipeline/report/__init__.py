"""The weekly report by e-mail, on all organisations and on each: what is due is sent once to each recipient."""

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Literal

import structlog
from msgspec import Struct

from db import deliveries, overview
from db.deliveries import ALL, Delivery
from db.engine import Connection, DatabaseError, Engine, commit, reading, transaction
from pipeline import mail, weeks
from pipeline.mail import MailError, Refused
from pipeline.report import facts
from pipeline.report.written import Written
from pipeline.settings import Settings
from pipeline.weeks import Week

__all__ = ["Delivered", "deliver", "due", "follow", "turn", "written"]

log = structlog.get_logger("pipeline.report")

_PAUSE_S = 30.0
_LEASE = timedelta(minutes=15)
_PATIENCE_S = 60.0
"""For a database that is away just when a mail has gone out: what isn't noted goes again."""
_EMPTY = "no account was listed in that week, and none has a number of it"
_BACKOFF, _LONGEST_BACKOFF = timedelta(minutes=5), timedelta(hours=6)


class Delivered(Struct, frozen=True):
    """What came of one delivery: `sent`; `failed` or `empty`, with a reason; or `settled` before, at `sent_at` if it was sent."""

    delivery: Delivery
    result: Literal["sent", "failed", "empty", "settled"]
    reason: str | None = None
    sent_at: datetime | None = None


def follow(settings: Settings, engine: Engine, stop: threading.Event) -> None:
    """Take turns until `stop`, in a thread of its own: a mail server may take its time. It ends with the mail at hand."""
    while not stop.wait(_PAUSE_S):
        try:
            turn(settings, engine, datetime.now(UTC), stop)
        except DatabaseError as exc:
            log.error("reports_wait", error=str(exc).splitlines()[0])
        except Exception:  # our fault: of one report, perhaps, which is tried again when its claim ends
            log.exception("report_broke")


def turn(settings: Settings, engine: Engine, now: datetime, stop: threading.Event | None = None) -> None:
    """Send what is due of the week's reports, until `stop`. Costs nothing where nobody gets any.

    Any number of processes may take turns. What failed is tried again, waiting longer each time, until the next week's
    report falls due.
    """
    if not (settings.reported_to or settings.reported_organisations):
        return
    week = weeks.reported(now, settings.report_weekday, settings.report_hour)
    wanted = due(settings, engine, None)
    with reading(engine) as conn:
        settled = deliveries.settled(conn, week.first, now=now)
    for done in deliver(settings, engine, week, [one for one in wanted if one not in settled], now):
        about = {"week": str(week), "organisation": done.delivery.org or None, "recipient": done.delivery.recipient}
        match done.result:
            case "sent":
                log.info("report_sent", **about)
            case "failed":
                log.error("report_failed", **about, reason=done.reason)
            case "empty":
                log.info("report_empty", **about, reason=done.reason)
        if stop is not None and stop.is_set():  # what isn't asked of the generator isn't claimed
            return


def due(settings: Settings, engine: Engine, org: str | None) -> Sequence[Delivery]:
    """Return who gets a report each week: on this organisation, or on whichever with None; that on all comes first."""
    if org is not None:
        return [Delivery(org, recipient) for recipient in settings.reported_to_about(org)]
    named = settings.reported_organisations
    if "*" in named:
        with reading(engine) as conn:
            named = sorted({*named, *overview.organisations(conn)} - {"*"})
    return [
        *(Delivery(ALL, recipient) for recipient in settings.reported_to),
        *(Delivery(name, recipient) for name in named for recipient in settings.reported_to_about(name)),
    ]


def written(settings: Settings, engine: Engine, org: str | None, week: Week, now: datetime) -> Written | None:
    """Return the report on an organisation, on all with None, as a mail; None where there is nothing to say."""
    found = facts.gather(settings, engine, org, week, now)
    if found is None:
        return None
    from pipeline.report import page  # with it comes Pillow, which a process that sends nothing needn't hold

    return page.render(found)


def deliver(
    settings: Settings,
    engine: Engine,
    week: Week,
    wanted: Sequence[Delivery],
    now: datetime,
    *,
    at_once: bool = False,
) -> Iterator[Delivered]:
    """Send these, each unless it was sent or another process sends it, and yield what came of it.

    `at_once` doesn't wait for the next time of what failed before. A mail server that is away is asked once: the rest waits
    as the first one does.
    """
    began_s = time.monotonic()
    prepared: dict[str, Written | None] = {}
    away: str | None = None
    for delivery in wanted:
        at = now + timedelta(seconds=time.monotonic() - began_s)
        with transaction(engine) as conn:
            attempt = deliveries.claim(conn, week.first, delivery, now=at, until=at + _LEASE, at_once=at_once)
            sent_at = deliveries.sent_at(conn, week.first, delivery) if attempt is None else None
        if attempt is None:
            yield Delivered(delivery, "settled", sent_at=sent_at)
            continue
        again_at: datetime | None = at + _backoff(attempt)
        try:
            if away is not None:
                raise MailError(away)
            if delivery.org not in prepared:
                prepared = {delivery.org: written(settings, engine, delivery.org or None, week, now)}
            if (ready := prepared[delivery.org]) is not None:
                _send(settings, week, delivery, ready)
            done = Delivered(delivery, "sent", sent_at=at) if ready else Delivered(delivery, "empty", _EMPTY)
        except Refused as exc:
            done = Delivered(delivery, "failed", str(exc))
            again_at = None if exc.is_final else again_at
        except MailError as exc:
            done = Delivered(delivery, "failed", str(exc))
            away = str(exc)
        commit(engine, partial(_note, week, attempt, done, again_at), patience_s=_PATIENCE_S)
        yield done


def _note(week: Week, attempt: int, done: Delivered, again_at: datetime | None, conn: Connection) -> None:
    if done.sent_at is not None:
        deliveries.sent(conn, week.first, done.delivery, now=done.sent_at)
        return
    again_at = again_at if done.result == "failed" else None
    deliveries.failed(conn, week.first, done.delivery, attempt, done.reason or "", again_at=again_at)


def _send(settings: Settings, week: Week, delivery: Delivery, written: Written) -> None:
    which = sha256("\0".join(delivery).encode()).hexdigest()[:16]
    mail.send(
        settings,
        [delivery.recipient],
        written.subject,
        written.text,
        written.html,
        written.images,
        # Where nobody knows whether it arrived, it goes again, and whoever has it already sees that it's the same.
        message_id=mail.new_id(settings, f"report.{week}.{which}"),
    )


def _backoff(attempt: int) -> timedelta:
    wait: timedelta = _BACKOFF * 2 ** min(attempt - 1, 10)
    return min(wait, _LONGEST_BACKOFF)
