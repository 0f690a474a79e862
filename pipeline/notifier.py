"""The notifier: looks for what is worth an alert, and tells it; and sends the weekly reports. `python -m pipeline.notifier`.

One looks, by a lease, while others stand by. Each channel is told by a thread of its own, and so are those who get a report: one
that doesn't answer holds up no other, and no look.
"""

import hashlib
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from db import alerts, leases, tags
from db.alerts import Notice, Rule
from db.dataset import source_of
from db.engine import DatabaseError, Engine, make_engine, reading, transaction
from pipeline import log as logs
from pipeline import notify, platforms, report
from pipeline.alert_channels import Channel, Message, NotTold, PartlyTold, configured
from pipeline.alerts import CALM_S, look
from pipeline.app import make_celery
from pipeline.messages import Purger
from pipeline.settings import Settings, SettingsError, load_settings
from pipeline.slots import Slots

log = structlog.get_logger("pipeline.notifier")

TICK_S = 2.0
# One that is cut off is followed by another after so long.
LEASE_S = 30.0
# Longer than any channel takes to answer. What a process that was killed had in hand is told by another after this.
CLAIM_S = 300.0
# Alerts in one message.
AT_A_TIME = 20
_REDIS_S = 2.0


class Notifier:
    """Looks and tells for one process."""

    def __init__(self, settings: Settings, engine: Engine, channels: Sequence[Channel], redis: Redis) -> None:
        self._settings = settings
        self._engine = engine
        self.channels = channels
        self._purger = Purger(make_celery(settings), redis)
        self._slots = Slots(redis)
        self._undecided: Mapping[Rule, str] = {}

    def look(self, now: datetime) -> None:
        """Raise what is new, resolve what is over, and let pages know."""
        with reading(self._engine) as conn:
            looked = look(conn, self._settings, platforms.load(), self._slots, now=now)
        with transaction(self._engine) as conn:
            changes = alerts.keep(
                conn,
                looked.found,
                looked.judged,
                channels=[channel.name for channel in self.channels],
                calm_s=CALM_S,
                now=now,
            )
        if changes.is_shown:
            self._purger.purge({tags.ALERTS})
        for event, found in (("alert_raised", changes.raised), ("alert_resolved", changes.resolved)):
            for alert in found:
                log.info(event, alert_id=alert.alert_id, rule=alert.rule, title=alert.title)
        if looked.undecided and looked.undecided != self._undecided:
            log.info("alert_rules_undecided", rules=looked.undecided)
        self._undecided = looked.undecided

    def tell(self, channel: Channel, now: datetime) -> bool:
        """Tell a channel what is due; False where nothing more is, for now."""
        until = now + timedelta(seconds=CLAIM_S)
        with transaction(self._engine) as conn:
            notices = alerts.claim(conn, channel.name, most=AT_A_TIME, now=now, until=until)
            is_simulated = source_of(conn) == "simulated"
        if not notices:
            return False
        try:
            channel.tell(message(notices, is_simulated=is_simulated))
        except PartlyTold as exc:
            log.warning("alerts_told_in_part", channel=channel.name, error=str(exc))
        except NotTold as exc:
            with transaction(self._engine) as conn:
                alerts.failed(conn, channel.name, notices, str(exc), until=until, now=now)
            log.error("alerts_not_told", channel=channel.name, alerts=len(notices), error=str(exc))
            return False
        remind_at = now + timedelta(seconds=self._settings.alert_remind_s)
        with transaction(self._engine) as conn:
            alerts.told(conn, channel.name, notices, until=until, remind_at=remind_at, now=now)
        log.info("alerts_told", channel=channel.name, alerts=[notice.alert_id for notice in notices])
        return True


def message(notices: Sequence[Notice], *, is_simulated: bool) -> Message:
    """Return the one message that tells all of these: what is new and worse first, then what goes on, then what is over."""
    ordered = sorted(notices, key=lambda notice: (_ORDER.index(_kind(notice)), notice.alert_id))
    kinds = [_kind(notice) for notice in ordered]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in _ORDER if kind in kinds)
    title = f"Rollcall alerts{' (simulated numbers)' if is_simulated else ''}: {counted}"
    told = "|".join(f"{notice.alert_id} {kind} {notice.told_at}" for notice, kind in zip(ordered, kinds, strict=True))
    name = hashlib.sha256(told.encode()).hexdigest()[:32]
    return Message(name=f"alert.{name}", title=title, lines=[_line(notice) for notice in ordered])


_ORDER = ("new", "worse", "going on", "resolved")


def _kind(notice: Notice) -> str:
    if notice.resolved_at is not None:
        return "resolved"
    if notice.told_at is None:
        return "new"
    return "worse" if notice.is_worse else "going on"


def _line(notice: Notice) -> str:
    named = notice.detail.accounts
    # A title that is about one account names it.
    of_all = f" ({', '.join(named)}{', …' if (notice.accounts or 0) > len(named) else ''})" if notice.accounts else ""
    said = f"{_kind(notice).capitalize()}: {notice.title} – {notice.detail.why}{of_all}"
    if notice.resolved_at is not None:
        return f"{said} – since {_moment(notice.raised_at)}, over {_moment(notice.resolved_at)}"
    return f"{said} – since {_moment(notice.raised_at)}"


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def run(settings: Settings, engine: Engine, channels: Sequence[Channel], stop: threading.Event) -> None:
    """Look and tell until `stop`, while no other notifier does. A database that is away costs time, nothing else."""
    holder = uuid4().hex
    interval = timedelta(seconds=settings.alert_interval_s)
    # Without the waits between tries: a look that Redis doesn't answer goes on without it.
    url = settings.redis_url.get_secret_value()
    redis = Redis.from_url(url, socket_timeout=_REDIS_S, retry=Retry(NoBackoff(), 1))
    notifier = Notifier(settings, engine, channels, redis)
    tellers = [_Teller(notifier, channel, stop) for channel in channels]
    reports = threading.Thread(target=report.follow, args=(settings, engine, stop), name="reports")
    reports.start()
    looks_at = datetime.now(UTC)
    while not stop.is_set():
        notify.alive()
        try:
            with transaction(engine) as conn:
                is_mine = leases.take(conn, leases.NOTIFIER, holder, kept_s=LEASE_S)
            if is_mine and datetime.now(UTC) >= looks_at:
                looks_at = datetime.now(UTC) + interval
                notifier.look(datetime.now(UTC))
            if is_mine:
                for teller in tellers:
                    teller.go_on()
        except DatabaseError as exc:
            log.error("notifier_waits", error=type(exc).__name__)
        stop.wait(TICK_S)
    for teller in tellers:
        teller.finish()
    reports.join()
    redis.close()
    with suppress(DatabaseError), transaction(engine) as conn:
        leases.leave(conn, leases.NOTIFIER, holder)


class _Teller:
    """Tells one channel, in a thread of its own: it may take its time."""

    def __init__(self, notifier: Notifier, channel: Channel, stop: threading.Event) -> None:
        self._notifier = notifier
        self._channel = channel
        self._stop = stop
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=channel.name)
        self._telling: Future[None] | None = None

    def go_on(self) -> None:
        """Tell what is due, unless that is under way. Raises what kept the last time from its end: a fault of ours."""
        if self._telling is not None and self._telling.done():
            self._telling.result()
            self._telling = None
        if self._telling is None:
            self._telling = self._threads.submit(self._tell)

    def finish(self) -> None:
        """Wait until what is on its way has been told."""
        self._threads.shutdown()

    def _tell(self) -> None:
        try:
            while not self._stop.is_set() and self._notifier.tell(self._channel, datetime.now(UTC)):
                pass
        except DatabaseError as exc:  # what was claimed is told once its claim is over
            log.error("alerts_not_told", channel=self._channel.name, error=type(exc).__name__)


def main() -> None:
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    logs.configure(settings, "notifier")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    channels = configured(settings)
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=2 + len(channels),
        application_name="rollcall notifier",
        statement_timeout_s=settings.db_read_timeout_s,
        idle_timeout_s=settings.db_idle_timeout_s,
    )
    log.info("notifier_tells", channels=[channel.name for channel in channels])
    run(settings, engine, channels, stop)
    engine.dispose()


if __name__ == "__main__":
    main()
