"""The platforms together, without sockets: each request is counted, checked, held against its limit and answered."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from threading import Lock
from time import time
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta, Struct

from deploy.simulator.bluesky import Bluesky
from deploy.simulator.facebook import Facebook
from deploy.simulator.faults import LARGEST_VALUE, Fault, FaultKind, Faults
from deploy.simulator.flickr import Flickr
from deploy.simulator.instagram import Instagram
from deploy.simulator.limits import Allowance, Limit, Limits
from deploy.simulator.linkedin import LinkedIn
from deploy.simulator.mastodon import Mastodon
from deploy.simulator.page import page
from deploy.simulator.reddit import Reddit
from deploy.simulator.site import Answer, Refused, Request, Route, Site
from deploy.simulator.threads import Threads
from deploy.simulator.tiktok import TikTok
from deploy.simulator.tokens import Tokens
from deploy.simulator.truthsocial import TruthSocial
from deploy.simulator.world import World, iso
from deploy.simulator.x import X
from deploy.simulator.youtube import YouTube

_TEN_YEARS_S = 10 * 365 * 86_400


class FaultOrder(Struct, forbid_unknown_fields=True):
    platform: str
    kind: FaultKind
    count: Annotated[int, Meta(ge=1)] = 1
    value: Annotated[float, Meta(ge=0, le=LARGEST_VALUE)] | None = None


class ClockOrder(Struct, forbid_unknown_fields=True):
    offset_s: Annotated[float, Meta(ge=-_TEN_YEARS_S, le=_TEN_YEARS_S)]


class LimitOrder(Struct, forbid_unknown_fields=True):
    platform: str
    limit: Annotated[int, Meta(ge=1)]
    window_s: Annotated[float, Meta(gt=0, le=_TEN_YEARS_S)]


class TokenOrder(Struct, forbid_unknown_fields=True):
    platform: str
    lasts_s: Annotated[int, Meta(ge=1, le=_TEN_YEARS_S)] | None = None


class Calls(Struct):
    """What one endpoint was asked: how often, for how many accounts altogether and at most at once."""

    requests: int = 0
    accounts: int = 0
    largest: int = 0

    def add(self, size: int) -> None:
        self.requests += 1
        self.accounts += size
        self.largest = max(self.largest, size)


class Simulation:
    """The state behind every connection; its methods may be called from many threads at once.

    With `at` it stands at that moment, without limits: for whoever asks about a past day.
    """

    def __init__(self, seed: int, *, at: datetime | None = None) -> None:
        self._at = at
        world = World(seed)
        self._tokens = Tokens(seed)
        sites: tuple[Site, ...] = (
            X(world),
            YouTube(world),
            Facebook(world),
            Instagram(world),
            Threads(world),
            TikTok(world, self._tokens),
            LinkedIn(world),
            Reddit(world, self._tokens),
            Flickr(world),
            Bluesky(world),
            Mastodon(world),
            TruthSocial(world),
        )
        self._sites = {site.name: site for site in sites}
        self._lock = Lock()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._limits = Limits()
        self._faults = Faults()
        self._tokens.reset()
        self._calls: defaultdict[tuple[str, str], Calls] = defaultdict(Calls)
        self._offset = timedelta()

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[Answer, Fault | None]:
        """Answer a request (header names in lower case), and say what happens to the answer on its way."""
        path, _, query = target.partition("?")
        if path.startswith("/_simulator/"):
            return (self._order(path, body) if method == "POST" else self._shown(path)), None
        platform, _, rest = path.removeprefix("/").partition("/")
        if platform not in self._sites:
            return _no_such_path(path), None
        try:
            fault = Fault.read(headers["x-simulator-fault"]) if "x-simulator-fault" in headers else None
        except ValueError as exc:
            return Answer(400, {"error": str(exc)}), None
        request = Request(
            method=method,
            path=f"/{rest}",
            query=parse_qs(query, keep_blank_values=True),
            headers=headers,
            body=body,
            at=self._at or datetime.now(UTC) + self._offset,
            base_url=f"http://{headers.get('host', 'localhost')}/{platform}",
        )
        answer = self._answer(self._sites[platform], request)
        with self._lock:
            return answer, fault or self._faults.next(platform)

    def _shown(self, path: str) -> Answer:
        """Return what was seen: for programs, or as a page."""
        if path == "/_simulator/state":
            return Answer(200, self._state())
        return Answer(200, page(self._state())) if path == "/_simulator/" else _no_such_path(path)

    def _order(self, path: str, body: bytes) -> Answer:
        """Do what a control request asks for."""
        orders = {
            "/_simulator/faults": self._order_fault,
            "/_simulator/clock": self._set_clock,
            "/_simulator/limits": self._set_limit,
            "/_simulator/tokens": self._end_tokens,
        }
        try:
            with self._lock:
                if path == "/_simulator/reset":
                    self._begin_anew()
                elif path in orders:
                    orders[path](body)
                else:
                    return _no_such_path(path)
        except (msgspec.MsgspecError, ValueError) as exc:
            return Answer(400, {"error": str(exc)})
        return Answer(200, {"ok": True})

    def _answer(self, site: Site, request: Request) -> Answer:
        route, groups = _route(site, request)
        endpoint, size = (route.endpoint, route.size(request)) if route else ("unknown", 1)
        with self._lock:
            self._calls[site.name, endpoint].add(size)
        if route is None:
            return site.no_such_path()
        try:
            credential = site.check_credential(request)
        except Refused as refused:
            return refused.answer
        allowance = self._take(site, endpoint, request, credential)
        if allowance is None:
            return _answered(route, request, groups)
        answer = _answered(route, request, groups) if allowance.granted else site.limit_reached(allowance)
        return answer._replace(headers={**site.limit_headers(allowance), **answer.headers})

    def _take(self, site: Site, endpoint: str, request: Request, credential: str) -> Allowance | None:
        """Count a request against its limit, which every credential has for itself; None where there is no limit."""
        if self._at is not None or (found := site.limit(endpoint, request)) is None:
            return None
        bucket, published = found
        if credential:
            bucket += f" ({blake2b(credential.encode(), digest_size=3).hexdigest()})"
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

    def _end_tokens(self, body: bytes) -> None:
        order = msgspec.json.decode(body, type=TokenOrder)
        self._tokens.end(self._known(order.platform), lasts_s=order.lasts_s)

    def _known(self, platform: str) -> str:
        if platform not in self._sites:
            raise ValueError(f"no platform {platform!r}; known are {', '.join(self._sites)}")
        return platform

    def _state(self) -> dict[str, Any]:
        requests: dict[str, dict[str, int]] = {name: {} for name in self._sites}
        batches: dict[str, dict[str, Any]] = {name: {} for name in self._sites}
        limits: dict[str, dict[str, Any]] = {name: {} for name in self._sites}
        with self._lock:
            for (platform, endpoint), calls in self._calls.items():
                requests[platform][endpoint] = calls.requests
                batches[platform][endpoint] = {"mean": calls.accounts / calls.requests, "largest": calls.largest}
            for platform, bucket, window in self._limits.open_windows(time()):
                limits[platform][bucket] = {
                    "limit": window.limit.requests,
                    "remaining": window.remaining,
                    "resets_at": iso(window.resets_at),
                }
            violations = {name: self._limits.violations[name] for name in self._sites}
        return {"requests": requests, "batches": batches, "violations": violations, "limits": limits}


def _route(site: Site, request: Request) -> tuple[Route | None, tuple[str, ...]]:
    for route in site.routes:
        if match := route.match(request):
            return route, match.groups()
    return None, ()


def _answered(route: Route, request: Request, groups: tuple[str, ...]) -> Answer:
    try:
        return route.answer(request, *groups)
    except Refused as refused:
        return refused.answer


def _no_such_path(path: str) -> Answer:
    return Answer(404, {"error": f"The simulator has nothing at {path}"})
