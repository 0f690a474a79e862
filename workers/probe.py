"""`rollcall probe`: ask a platform now and show what it says, keeping nothing. The first thing to try with a new key."""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import quote

import click
from msgspec import Struct, structs
from redis import Redis, RedisError

from pipeline import addresses, platforms
from pipeline.addresses import Named
from pipeline.command import Misuse, as_json_option
from pipeline.decide import outcome_of, outcomes
from pipeline.errors import BatchRefused, QuotaSpent, RateLimited, ScrapeError
from pipeline.estimate import unreadable
from pipeline.limits import duration
from pipeline.messages import task_name
from pipeline.platforms import Client, Platform, Reader, first_kind
from pipeline.records import Account, Job, Kind, Outcome, Page, Profile, Source
from pipeline.settings import Settings, load_settings
from pipeline.terminal import moment, note, show_json, show_table
from workers.allowance import SharedAllowance
from workers.clients import Maker, make_clients
from workers.scrape import read

# Nothing is kept, so no database is needed, and Redis only to share the limits with workers, if there are any.
_NO_SERVERS = {"DATABASE_URL": "postgresql:///", "REDIS_URL": "unix:///dev/null"}
_LONGEST_WAIT_S = 5.0
_REDIS_WAIT_S = 2.0
_KEY = 1  # of the one account of a call
_LEAST_SECRET = 8  # a shorter value is a choice, such as a version
_COUNTS = ("followers", "following", "posts")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')  # in JSON
_HIDDEN_HEADERS = ("set-cookie",)


class Answer(Struct, frozen=True):
    """What a platform answered to one request, without secrets."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Probed(Struct, frozen=True, kw_only=True):
    """What came of asking about an account: result and reason as they would be kept, or as its platform would pause.

    `not_offered` says by its name why a number can't be had. `raw` is None unless it was asked for.
    """

    account: str
    source: Source
    call: Kind | None = None
    result: str | None = None
    reason: str | None = None
    again_at: datetime | None = None
    reading: Profile | None = None
    not_offered: Mapping[str, str] = {}
    raw: Sequence[Answer] | None = None


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="ACCOUNT...")
@click.option("--raw", is_flag=True, help="Show what the platform answered, too.")
@as_json_option
def probe(names: tuple[str, ...], raw: bool, as_json: bool) -> None:
    """Ask platforms about accounts now, keeping nothing.

    ACCOUNT is x/name, mastodon/name@host or a URL; it needn't be in the list. Exits 1 when one could not be read.
    """
    settings = load_settings(fallback=_NO_SERVERS)
    named = _named(names)
    url = settings.redis_url.get_secret_value()
    with Redis.from_url(url, socket_timeout=_REDIS_WAIT_S, socket_connect_timeout=_REDIS_WAIT_S) as redis:
        prober = Prober(settings, SharedAllowance(redis), keeps_raw=raw)
        probed = [prober.ask(one) for one in named]
    if prober.is_alone:
        note("Redis can't be reached: what workers ask at the same time is not counted against the limits.")
    if as_json:
        show_json(probed)
    else:
        for one in probed:
            show_table(("account", "what", "says"), ((one.account, *line) for line in _lines(one)))
            if one.raw is not None:
                show_json(one.raw)
    if any(one.result != "ok" for one in probed):
        sys.exit(1)


def _named(names: Sequence[str]) -> list[Named]:
    """Return the accounts that people named. Raises Misuse for all that name none."""
    named, faults = [], []
    for name in names:
        try:
            named.append(addresses.of_text(name, platforms.load()))
        except addresses.Unclear as exc:
            faults.append(str(exc))
    if faults:
        raise Misuse("\n".join(faults))
    return named


class Prober:
    """Asks about one account after the other, within the limits that it shares with the workers."""

    def __init__(self, settings: Settings, allowance: SharedAllowance, *, keeps_raw: bool) -> None:
        self._settings = settings
        self._allowance = allowance
        self._keeps_raw = keeps_raw
        self._clients: dict[str, Mapping[str, Maker]] = {}
        self.is_alone = False
        """Whether the limits could not be shared, since Redis was away."""

    def ask(self, named: Named) -> Probed:
        """Make the call that would read the account's profile next if it stood in the list."""
        platform = platforms.load()[named.platform]
        offers = structs.asdict(platform.not_offered)
        probed = Probed(
            account=named.name,
            source=self._settings.source,
            not_offered={name: reason for name, reason in offers.items() if reason},
        )
        if reason := unreadable(platform, self._settings):
            return structs.replace(probed, result="blocked" if platform.calls else None, reason=reason)
        kind = first_kind(platform, named.external_id)
        return self._call(platform, kind, named, structs.replace(probed, call=kind))

    def _call(self, platform: Platform, kind: Kind, named: Named, probed: Probed) -> Probed:
        if platform.name not in self._clients:
            self._clients[platform.name] = make_clients(self._settings, platform)
        clients = self._clients[platform.name]
        pages: list[Page] = []
        try:
            http = clients[self._take_slot(platform, kind, list(clients))](_ignore, pages.append)
        except RateLimited as exc:
            return _paused(probed, exc)
        probed = _read(platform, _job(platform, kind, named), http, probed)
        return structs.replace(probed, raw=_shown(pages, http.secrets)) if self._keeps_raw else probed

    def _take_slot(self, platform: Platform, kind: Kind, labels: Sequence[str]) -> str:
        """Return the credential to call with, after some seconds at most. Raises RateLimited when it takes longer."""
        call = platform.calls[kind]
        space_s = call.requests * self._settings.rate(platform, kind).interval_s
        ends_at = time.monotonic() + _LONGEST_WAIT_S
        try:
            while True:
                slot = self._allowance.reserve(
                    task_name(platform.name, kind), platform, labels, space_s=space_s, requests=call.requests
                )
                if slot.credential is not None:
                    time.sleep(max(0.0, slot.starts_at - time.monotonic()))
                    return slot.credential
                if slot.wait_s == 0:
                    self._raise_pause(platform, labels)
                elif time.monotonic() + slot.wait_s > ends_at:
                    reason = f"the limit gives the next call in {duration(slot.wait_s)}"
                    at = datetime.now(UTC) + timedelta(seconds=slot.wait_s)
                    raise RateLimited(platform.name, reason, retry_at=at)
                time.sleep(slot.wait_s)
        except RedisError:
            self.is_alone = True
            return labels[0]

    def _raise_pause(self, platform: Platform, labels: Sequence[str]) -> None:
        """Raise what all credentials wait for; return when one has just become free."""
        pauses = [self._allowance.paused(platform.name, label) for label in labels]
        standing = [pause for pause in pauses if pause is not None]
        if len(standing) == len(labels):
            pause = min(standing, key=lambda one: one.until)
            kind = QuotaSpent if pause.result == "quota" else RateLimited
            raise kind(platform.name, pause.reason, retry_at=pause.until)


def _ignore(said: object) -> None:
    """Leave what rate headers say to the workers, who hear it with their next call."""


def _job(platform: Platform, kind: Kind, named: Named) -> Job:
    account = Account(_KEY, platform.name, named.handle, named.url, named.host, named.external_id)
    return Job(job_id="probe", platform=platform.name, kind=kind, lane="user_requested", accounts=(account,))


def _read(platform: Platform, job: Job, http: Client, probed: Probed) -> Probed:
    """Make the call and say what it brought."""
    try:
        answer = read(cast(Reader, platform), job, http)
    except RateLimited as exc:
        return _paused(probed, exc)
    except BatchRefused as exc:  # a batch of one is refused for that one
        return _with(probed, Outcome(_KEY, "gone", exc.reason))
    except ScrapeError as exc:
        return _with(probed, outcome_of(_KEY, exc))
    reading = next(iter(answer.profiles), None)
    (outcome,) = outcomes([_KEY], {_KEY: None} if reading else answer.missing)
    return structs.replace(_with(probed, outcome), reading=reading)


def _with(probed: Probed, outcome: Outcome) -> Probed:
    return structs.replace(probed, result=outcome.result, reason=outcome.reason)


def _paused(probed: Probed, error: RateLimited) -> Probed:
    result = "quota" if isinstance(error, QuotaSpent) else "limited"
    return structs.replace(probed, result=result, reason=error.reason, again_at=error.retry_at)


def _shown(pages: Sequence[Page], secrets: Sequence[str]) -> list[Answer]:
    """Return the answers without secrets, of which one may hold several with commas between, as `server=token`."""
    parts = [entry.partition("=")[2].strip() for secret in secrets for entry in secret.split(",")]
    hidden = {one for one in (*secrets, *parts) if len(one) >= _LEAST_SECRET}
    spelled = {json.dumps(spelling)[1:-1] for one in hidden for spelling in (one, quote(one), quote(one, safe=""))}
    pattern = re.compile("|".join(map(re.escape, sorted(spelled, key=len, reverse=True))) or "(?!)")
    return [
        Answer(
            page.status,
            _without(pattern, {name: value for name, value in page.headers.items() if name not in _HIDDEN_HEADERS}),
            _without(pattern, page.body),
        )
        for page in pages
    ]


def _without(pattern: re.Pattern[str], value: Any) -> Any:
    """Return a JSON value with stars in the place of what the pattern finds in its texts."""
    # A lone surrogate, which some platforms leave where they cut a text, becomes a question mark.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
    return json.loads(_TEXT.sub(lambda found: pattern.sub("***", found[0]), text))


def _lines(probed: Probed) -> Iterator[tuple[str, object]]:
    """Yield what a person reads, line by line."""
    yield "result", probed.result or "not read"
    if probed.reason:
        yield "reason", probed.reason
    if probed.again_at:
        yield "again at", moment(probed.again_at)
    yield "source", probed.source
    if probed.call:
        yield "call", probed.call
    for name, value in structs.asdict(probed.reading).items() if probed.reading else ():
        if value is None and name in _COUNTS and name not in probed.not_offered:
            yield name, "not told"
        elif value is not None and name != "account_key":
            yield name, value
    for name, reason in probed.not_offered.items():
        yield name, f"not offered: {reason}"
