"""The platforms together, without sockets: each request is counted, checked, held against its limit and answered."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from threading import Lock
from time import time
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta, Struct

from deploy.simulator.bluesky import Bluesky
from deploy.simulator.faults import Fault, FaultKind, Faults
from deploy.simulator.limits import Allowance, Limit, Limits
from deploy.simulator.mastodon import Mastodon
from deploy.simulator.site import Answer, Refused, Request, Route, Site
from deploy.simulator.truthsocial import TruthSocial
from deploy.simulator.world import World, iso
from deploy.simulator.x import X
from deploy.simulator.youtube import YouTube

_TEN_YEARS_S = 10 * 365 * 86_400


class FaultOrder(Struct, forbid_unknown_fields=True):
    platform: str
    kind: FaultKind
    count: Annotated[int, Meta(ge=1)] = 1
    value: Annotated[float, Meta(ge=0, le=999)] | None = None


class ClockOrder(Struct, forbid_unknown_fields=True):
    offset_s: Annotated[float, Meta(ge=-_TEN_YEARS_S, le=_TEN_YEARS_S)]


class LimitOrder(Struct, forbid_unknown_fields=True):
    platform: str
    limit: Annotated[int, Meta(ge=1)]
    window_s: Annotated[float, Meta(gt=0, le=_TEN_YEARS_S)]


class Simulation:
    """The state behind every connection; its methods may be called from many threads at once."""

    def __init__(self, seed: int) -> None:
        world = World(seed)
        sites: tuple[Site, ...] = (X(world), YouTube(world), Bluesky(world), Mastodon(world), TruthSocial(world))
        self._sites = {site.name: site for site in sites}
        self._lock = Lock()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._limits = Limits()
        self._faults = Faults()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._offset = timedelta()

    def get(self, target: str, headers: Mapping[str, str]) -> tuple[Answer, Fault | None]:
        """Answer a GET request (header names in lower case), and say what happens to the answer on its way."""
        path, _, query = target.partition("?")
        platform, _, rest = path.removeprefix("/").partition("/")
        if path == "/_simulator/state":
            return Answer(200, self._state()), None
        if platform not in self._sites:
            return _no_such_path(path), None
        request = Request(
            path=f"/{rest}",
            query=parse_qs(query, keep_blank_values=True),
            headers=headers,
            at=datetime.now(UTC) + self._offset,
            base_url=f"http://{headers.get('host', 'localhost')}/{platform}",
        )
        answer = self._answer(self._sites[platform], request)
        with self._lock:
            return answer, self._faults.next(platform)

    def post(self, target: str, body: bytes) -> Answer:
        """Do what a control request asks for."""
        orders = {
            "/_simulator/faults": self._order_fault,
            "/_simulator/clock": self._set_clock,
            "/_simulator/limits": self._set_limit,
        }
        try:
            with self._lock:
                if target == "/_simulator/reset":
                    self._begin_anew()
                elif target in orders:
                    orders[target](body)
                else:
                    return _no_such_path(target)
        except (msgspec.MsgspecError, ValueError) as exc:
            return Answer(400, {"error": str(exc)})
        return Answer(200, {"ok": True})

    def _answer(self, site: Site, request: Request) -> Answer:
        route, groups = _route(site, request.path)
        endpoint = route.endpoint if route else "unknown"
        with self._lock:
            self._requests[site.name, endpoint] += 1
        if route is None:
            return site.no_such_path()
        try:
            site.check_credential(request)
            allowance = self._take(site, endpoint, request)
        except Refused as refused:
            return refused.answer
        try:
            answer = route.answer(request, *groups) if allowance.granted else site.limit_reached(allowance)
        except Refused as refused:
            answer = refused.answer
        return answer._replace(headers={**site.limit_headers(allowance), **answer.headers})

    def _take(self, site: Site, endpoint: str, request: Request) -> Allowance:
        bucket, published = site.limit(endpoint, request)
        with self._lock:
            return self._limits.take(site.name, bucket, published, time())

    def _order_fault(self, body: bytes) -> None:
        order = msgspec.json.decode(body, type=FaultOrder)
        self._faults.order(self._known(order.platform), Fault(order.kind, order.value), order.count)

    def _set_clock(self, body: bytes) -> None:
        self._offset = timedelta(seconds=msgspec.json.decode(body, type=ClockOrder).offset_s)

    def _set_limit(self, body: bytes) -> None:
        order = msgspec.json.decode(body, type=LimitOrder)
        self._limits.replace(self._known(order.platform), Limit(order.limit, order.window_s))

    def _known(self, platform: str) -> str:
        if platform not in self._sites:
            raise ValueError(f"no platform {platform!r}; known are {', '.join(self._sites)}")
        return platform

    def _state(self) -> dict[str, Any]:
        requests: dict[str, dict[str, int]] = {name: {} for name in self._sites}
        limits: dict[str, dict[str, Any]] = {name: {} for name in self._sites}
        with self._lock:
            for (platform, endpoint), count in self._requests.items():
                requests[platform][endpoint] = count
            for platform, bucket, window in self._limits.open_windows(time()):
                limits[platform][bucket] = {
                    "limit": window.limit.requests,
                    "remaining": window.remaining,
                    "resets_at": iso(window.resets_at),
                }
            violations = {name: self._limits.violations[name] for name in self._sites}
        return {"requests": requests, "violations": violations, "limits": limits}


def _route(site: Site, path: str) -> tuple[Route | None, tuple[str, ...]]:
    for route in site.routes:
        if match := route.pattern.fullmatch(path):
            return route, match.groups()
    return None, ()


def _no_such_path(path: str) -> Answer:
    return Answer(404, {"error": f"The simulator has nothing at {path}"})
