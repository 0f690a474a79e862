"""GET /api/alerts: what somebody should know of, each event once."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.lists import Page
from api.operations import Operation, Operations
from api.problems import Fault, refuse
from api.room import Room
from api.routes import Route
from api.schemas import AlertsQuery, chosen_fields, parse
from db import alerts, tags
from db.alerts import Rule
from db.engine import Connection

TTL_S = 60


class Alert(Struct, frozen=True, kw_only=True):
    """One event. `accounts` says how many accounts it is about, and is null where it is about none; `first_accounts`
    names the first of them. `resolved_at` is null while it goes on.
    """

    alert_id: int
    rule: Rule
    platform: str | None
    title: str
    why: str
    accounts: int | None
    first_accounts: list[str]
    raised_at: datetime
    resolved_at: datetime | None


class Alerts:
    """The alerts, newest first. How far each has been told, and whom, is for the command line."""

    operations = Operations(
        get=Operation(
            summary="What somebody should know of: open alerts, or with `state=all` past ones too; newest first.",
            query=AlertsQuery,
            answer=Page[Alert],
            kept_s=TTL_S,
        )
    )

    def __init__(self, room: Room) -> None:
        self._cached = room.cached

    async def on_get(self, req: Request, resp: Response) -> None:
        params = req.context.params
        query = parse(params, AlertsQuery)
        names = chosen_fields(query.fields, Alert)

        def read(conn: Connection) -> Content:
            all_ = query.state == "all"
            extent = alerts.extent(conn, all_=all_)
            last_page = max(1, -(-extent.total // query.per_page))
            if query.page > last_page:
                raise refuse(Fault("page", f"{query.page} is beyond the last page, {last_page}"))
            offset = query.per_page * (query.page - 1)
            found = alerts.listed(conn, all_=all_, most=query.per_page, offset=offset)
            onward = f"{req.path}?{urlencode({**params, 'page': query.page + 1})}" if query.page < last_page else None
            page = Page(
                items=[_chosen(_alert(one), names) for one in found],
                page=query.page,
                per_page=query.per_page,
                total=extent.total,
                next=onward,
                next_cursor=None,
                as_of=extent.as_of,
            )
            return Content(body=msgspec.json.encode(page), tags=frozenset({tags.ALERTS}), modified_at=extent.as_of)

        await self._cached.give(req, resp, ttl_s=TTL_S, read=read)

    on_head = on_get


def _alert(one: alerts.Alert) -> Alert:
    return Alert(
        alert_id=one.alert_id,
        rule=one.rule,
        platform=one.platform,
        title=one.title,
        why=one.detail.why,
        accounts=one.accounts,
        first_accounts=list(one.detail.accounts),
        raised_at=one.raised_at,
        resolved_at=one.resolved_at,
    )


def _chosen(alert: Alert, names: tuple[str, ...] | None) -> Any:
    """Return an alert, or only these of its fields."""
    return alert if names is None else {name: getattr(alert, name) for name in names}


def routes(room: Room) -> Iterator[Route]:
    yield "/api/alerts", Alerts(room)
