"""Alerts: what somebody should know of, each event once, and how far each has been told on which channel.

An event is open until it hasn't been found for a while. A process claims what it is about to tell, so that of several
only one tells it; a claim whose process died is over after a time, and another tells it.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import ARRAY, BigInteger, Connection, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

from db.recordset import as_json

Rule = Literal["drop", "spike", "stale", "failing", "blocked", "token", "quota", "budget"]
MUCH_WORSE = 10
"""An alert is told again at once when it is about so many times as many accounts as when it was last told."""
# Waits after failures: doubled each time.
_FIRST_WAIT = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(hours=1)
_T = TypeVar("_T", bound=Struct)


class Detail(Struct, frozen=True):
    """Why, in a line, and the first of the accounts that it is about, by their names."""

    why: str
    accounts: Sequence[str] = ()


class Found(Struct, frozen=True, kw_only=True):
    """What a rule has found. `subject` is what it is about: while it is found, it is one event."""

    rule: Rule
    subject: str
    platform: str | None = None
    title: str
    detail: Detail
    accounts: int | None = None


class Delivery(Struct, frozen=True):
    """How far an alert has been told on a channel: when last, when again, and what went wrong at the last attempt."""

    channel: str
    told_at: datetime | None
    due_at: datetime | None
    failures: int
    error: str | None


class Alert(Struct, frozen=True):
    """One event. `accounts` is None where it isn't about accounts, `resolved_at` while it goes on."""

    alert_id: int
    rule: Rule
    platform: str | None
    title: str
    detail: Detail
    accounts: int | None
    raised_at: datetime
    resolved_at: datetime | None
    muted_until: datetime | None
    deliveries: list[Delivery]


class Notice(Struct, frozen=True):
    """What is to be told of an alert on a channel; `told_at` and `told_accounts` are of the last time there."""

    alert_id: int
    rule: Rule
    title: str
    detail: Detail
    accounts: int | None
    raised_at: datetime
    resolved_at: datetime | None
    told_at: datetime | None
    told_accounts: int | None
    failures: int

    @property
    def is_worse(self) -> bool:
        """Tell whether it is about many more accounts than when it was last told."""
        return bool(self.accounts and self.told_accounts and self.accounts >= MUCH_WORSE * self.told_accounts)


class Changes(Struct, frozen=True):
    """The alerts that a look raised and resolved; `is_shown` where what people see of open ones is another than before."""

    raised: list[Alert]
    resolved: list[Alert]
    is_shown: bool


_NOW = bindparam("now", type_=TIMESTAMP(timezone=True))
_OPEN = """
    SELECT alert_id, rule, platform, title, detail, accounts, raised_at, resolved_at, muted_until, coalesce(
        (
            SELECT jsonb_agg(to_jsonb(alert_delivery) ORDER BY channel)
            FROM alert_delivery WHERE alert_delivery.alert_id = alert.alert_id
        ), '[]'
    )
    FROM alert
"""
_LISTED = text(f"""{_OPEN} WHERE :all OR resolved_at IS NULL
    ORDER BY raised_at DESC, alert_id DESC LIMIT :most OFFSET :offset""")  # the part above
_THESE = text(f"{_OPEN} WHERE alert_id = ANY(:ids) ORDER BY alert_id").bindparams(  # the part above
    bindparam("ids", type_=ARRAY(BigInteger))
)
_EXTENT = text("""
    SELECT count(*), max(greatest(raised_at, resolved_at)) FROM alert WHERE :all OR resolved_at IS NULL
""")
_AS_SHOWN = text("""
    SELECT rule, subject, title, detail, accounts FROM alert WHERE resolved_at IS NULL ORDER BY alert_id
""")
_KEEP = text("""
    INSERT INTO alert (rule, subject, platform, title, detail, accounts, raised_at, seen_at)
    SELECT rule, subject, platform, title, detail, accounts, :now, :now
    FROM jsonb_to_recordset(CAST(:found AS jsonb))
        AS found (rule text, subject text, platform text, title text, detail jsonb, accounts bigint)
    ON CONFLICT (rule, subject) WHERE resolved_at IS NULL DO UPDATE SET
        title = excluded.title, detail = excluded.detail, accounts = excluded.accounts, platform = excluded.platform,
        seen_at = greatest(alert.seen_at, excluded.seen_at)
    RETURNING alert_id, xmax = 0 -- no row was there
""").bindparams(_NOW)
_RESOLVE = text("""
    UPDATE alert SET resolved_at = :now
    WHERE resolved_at IS NULL AND rule = ANY(:rules) AND seen_at <= :calm_since
    RETURNING alert_id
""").bindparams(_NOW, bindparam("rules", type_=ARRAY(Text)), bindparam("calm_since", type_=TIMESTAMP(timezone=True)))
_DELIVER = text("""
    INSERT INTO alert_delivery (alert_id, channel, due_at)
    SELECT alert_id, channel, :now FROM alert CROSS JOIN unnest(:channels) AS of (channel)
    WHERE resolved_at IS NULL
    ON CONFLICT DO NOTHING
""").bindparams(_NOW, bindparam("channels", type_=ARRAY(Text)))
# Who has been told hears that it is over; to who hasn't, the first word says both.
_SAY_OVER = text("""
    UPDATE alert_delivery SET due_at = :now WHERE alert_id = ANY(:ids) AND told_at IS NOT NULL
""").bindparams(_NOW, bindparam("ids", type_=ARRAY(BigInteger)))
_CLAIM = text(f"""
    WITH due AS (
        SELECT alert_id, channel FROM alert_delivery JOIN alert USING (alert_id)
        WHERE channel = :channel AND due_at IS NOT NULL AND (claimed_until IS NULL OR claimed_until <= :now)
            AND (due_at <= :now OR (failures = 0 AND accounts >= {MUCH_WORSE} * told_accounts))
            AND (muted_until IS NULL OR muted_until <= :now OR resolved_at IS NOT NULL)
        ORDER BY alert_id LIMIT :most
        FOR UPDATE OF alert_delivery SKIP LOCKED
    )
    UPDATE alert_delivery SET claimed_until = :until
    FROM due JOIN alert USING (alert_id)
    WHERE alert_delivery.alert_id = due.alert_id AND alert_delivery.channel = due.channel
    RETURNING alert.alert_id, rule, title, detail, accounts, raised_at, resolved_at, told_at, told_accounts, failures
""").bindparams(_NOW, bindparam("until", type_=TIMESTAMP(timezone=True)))  # noqa: S608  # a number
_MINE = "channel = :channel AND alert_delivery.alert_id = ANY(:ids) AND claimed_until = :until"
_TOLD = text(f"""
    UPDATE alert_delivery SET told_at = :now, told_accounts = accounts, claimed_until = NULL, failures = 0, error = NULL,
        due_at = CASE
            WHEN alert_delivery.alert_id = ANY(:over) THEN NULL
            WHEN resolved_at IS NOT NULL THEN :now
            ELSE :remind_at
        END
    FROM alert WHERE alert.alert_id = alert_delivery.alert_id AND {_MINE}
""").bindparams(  # noqa: S608  # the condition above
    _NOW,
    *(bindparam(name, type_=ARRAY(BigInteger)) for name in ("ids", "over")),
    *(bindparam(name, type_=TIMESTAMP(timezone=True)) for name in ("until", "remind_at")),
)
_FAILED = text(f"""
    UPDATE alert_delivery SET claimed_until = NULL, failures = failures + 1, error = :error,
        due_at = :now + least(:longest, :first * power(2, least(failures, 20)))
    WHERE {_MINE}
""").bindparams(  # noqa: S608  # the condition above
    _NOW,
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("until", type_=TIMESTAMP(timezone=True)),
    bindparam("first", _FIRST_WAIT, type_=Interval),
    bindparam("longest", _LONGEST_WAIT, type_=Interval),
)
_MUTE = text("UPDATE alert SET muted_until = :until WHERE alert_id = :of_id AND resolved_at IS NULL").bindparams(
    bindparam("until", type_=TIMESTAMP(timezone=True)), bindparam("of_id", type_=BigInteger)
)


def keep(
    conn: Connection,
    found: Sequence[Found],
    rules: Collection[Rule],
    *,
    channels: Collection[str],
    calm_s: float,
    now: datetime,
) -> Changes:
    """Raise what was found and isn't open yet; resolve what these rules haven't found for `calm_s`.

    `rules` are those that could be judged: what another one had found stays as it is. On each of the channels every
    open alert is told.
    """
    shown = conn.execute(_AS_SHOWN).all()
    kept = conn.execute(_KEEP, {"found": as_json(found), "now": now}).all()
    raised = [alert_id for alert_id, is_new in kept if is_new]
    calm_since = now - timedelta(seconds=calm_s)
    resolved = list(conn.scalars(_RESOLVE, {"rules": list(rules), "calm_since": calm_since, "now": now}))
    conn.execute(_DELIVER, {"channels": list(channels), "now": now})
    conn.execute(_SAY_OVER, {"ids": resolved, "now": now})
    return Changes(_these(conn, raised), _these(conn, resolved), conn.execute(_AS_SHOWN).all() != shown)


def claim(conn: Connection, channel: str, *, most: int, now: datetime, until: datetime) -> list[Notice]:
    """Return what is to be told on a channel now, oldest first, and keep it from others until then."""
    values = {"channel": channel, "most": most, "now": now, "until": until}
    notices = (_of(Notice, row) for row in conn.execute(_CLAIM, values))
    return sorted(notices, key=lambda notice: notice.alert_id)


def told(
    conn: Connection,
    channel: str,
    notices: Iterable[Notice],
    *,
    until: datetime,
    remind_at: datetime,
    now: datetime,
) -> None:
    """Note that these have been told; `until` is that of their claim. What goes on is told again at `remind_at`."""
    said = list(notices)
    over = [notice.alert_id for notice in said if notice.resolved_at is not None]
    ids = [notice.alert_id for notice in said]
    values = {"channel": channel, "ids": ids, "over": over, "until": until, "remind_at": remind_at, "now": now}
    conn.execute(_TOLD, values)


def failed(
    conn: Connection, channel: str, notices: Iterable[Notice], error: str, *, until: datetime, now: datetime
) -> None:
    """Note that these couldn't be told, and why, in words without secrets: they are due again after a wait."""
    ids = [notice.alert_id for notice in notices]
    conn.execute(_FAILED, {"channel": channel, "ids": ids, "error": error, "until": until, "now": now})


def mute(conn: Connection, alert_id: int, until: datetime) -> bool:
    """Keep an open alert from being told again until then; False where none has this id."""
    return conn.execute(_MUTE, {"of_id": alert_id, "until": until}).rowcount == 1


def listed(conn: Connection, *, all_: bool = False, most: int | None = None, offset: int = 0) -> list[Alert]:
    """Return the open alerts, or all, the newest first."""
    return [_of(Alert, row) for row in conn.execute(_LISTED, {"all": all_, "most": most, "offset": offset})]


class Extent(Struct, frozen=True):
    """How many alerts there are, and when the newest was raised or resolved; None where there is none."""

    total: int
    as_of: datetime | None


def extent(conn: Connection, *, all_: bool = False) -> Extent:
    return Extent(*conn.execute(_EXTENT, {"all": all_}).one())


def _these(conn: Connection, ids: Sequence[int]) -> list[Alert]:
    return [_of(Alert, row) for row in conn.execute(_THESE, {"ids": ids})] if ids else []


def _of(kind: type[_T], row: Iterable[Any]) -> _T:
    """Return a row as a struct whose fields its columns are."""
    return msgspec.convert(dict(zip(kind.__struct_fields__, row, strict=True)), kind)
