"""What is worth an alert: a closed set of rules, each of which looks and says what it found.

A rule that finds the same again says it under the same subject: that is one event. What it can't know (a server that
holds the count is away) it leaves undecided, which is not the same as nothing.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from msgspec import Struct
from redis import RedisError

from db import health, overview, pauses, trouble
from db.alerts import Detail, Found, Rule
from db.engine import Connection
from db.pauses import Pause
from db.trouble import Jump, Trouble, Unwell, Way
from pipeline import costs
from pipeline.estimate import unreadable
from pipeline.platforms import Platform, midnight_after, midnight_before
from pipeline.settings import Settings
from pipeline.slots import Slots, Units

CALM_S = 300.0
"""What isn't found for so long is over. A refused credential is tried, and refused again, in less."""
MOST_APART = 10
"""So many accounts that jump have an alert each; beyond that one alert says how many more there are."""
FEW = 5
"""Accounts that an alert about many names, and reasons that it gives."""
_LONGEST_REASON = 160


class Undecided(Exception):
    """What a rule needs to know can't be had now; `str()` says why."""


class Scene(Struct, frozen=True, kw_only=True):
    """What rules look at, at one moment."""

    conn: Connection
    settings: Settings
    platforms: Mapping[str, Platform]
    slots: Slots
    now: datetime
    unwell: Sequence[Unwell]

    def title_of(self, name: str) -> str:
        """Return a platform's name as people write it."""
        platform = self.platforms.get(name)
        return platform.title if platform else name


Look = Callable[[Scene], Iterator[Found]]


def _drops(scene: Scene) -> Iterator[Found]:
    return _jumps(scene, "drop", scene.settings.alert_drop_pct)


def _spikes(scene: Scene) -> Iterator[Found]:
    return _jumps(scene, "spike", scene.settings.alert_spike_pct)


def _jumps(scene: Scene, way: Way, pct: float) -> Iterator[Found]:
    """Yield the accounts that jumped, one by one up to a number, the others together.

    A reading that is held isn't among the newest numbers: it counts once it is confirmed.
    """
    found = trouble.jumps(
        scene.conn,
        way,
        pct=pct,
        min_followers=scene.settings.alert_min_followers,
        since=scene.now.date() - timedelta(days=1),
        most=MOST_APART + FEW,
    )
    did = "lost" if way == "drop" else "gained"
    for one in found.first[:MOST_APART]:
        yield Found(
            rule=way,
            subject=one.subject,
            platform=one.platform,
            title=f"{one.name} {did} {_counted(abs(one.change), 'follower')} in a day",
            detail=Detail(_moved(one), [one.name]),
        )
    if (more := found.total - MOST_APART) > 0:
        yield Found(
            rule=way,
            subject="others",
            title=f"{_counted(more, 'more account')} {did} {pct:g} % of their followers or more in a day",
            detail=Detail(f"{MOST_APART} have an alert each", [one.name for one in found.first[MOST_APART:]]),
            accounts=more,
        )


def _moved(one: Jump) -> str:
    before = one.followers - one.change
    share = f", {100 * one.change / before:+.1f} %".replace("-", "−") if before else ""
    return f"{before:,} → {one.followers:,} on {_day(one.snapshot_date)}{share}"


def _stale(scene: Scene) -> Iterator[Found]:
    for name, groups in _in_trouble(scene, "stale", least=scene.settings.alert_min_accounts).items():
        why = "their readings don't come: see whether beat and the platform's worker run, and what its queues hold"
        yield _of_platform(scene, "stale", name, groups, "not read in time", why)


def _failing(scene: Scene) -> Iterator[Found]:
    for name, groups in _in_trouble(scene, "failing", least=scene.settings.alert_min_accounts).items():
        yield _of_platform(scene, "failing", name, groups, "failing", _reasons(groups))


def _blocked(scene: Scene) -> Iterator[Found]:
    """Yield refused credentials, and blocked accounts of platforms where no refused credential is the reason."""
    # One that is refused is tried again when its pause ends, and refused again a little later.
    recent = pauses.standing(scene.conn, scene.now - timedelta(seconds=CALM_S))
    refused = sorted(pause for pause in recent if pause.result == "blocked")
    for pause in refused:
        yield Found(
            rule="blocked",
            subject=f"{pause.platform}:{pause.credential}",
            platform=pause.platform,
            title=f"{scene.title_of(pause.platform)}: {_named(scene, pause)} refused",
            detail=Detail(_short(pause.reason)),
        )
    for name, groups in _in_trouble(scene, "blocked", least=1).items():
        if name not in {pause.platform for pause in refused}:
            yield _of_platform(scene, "blocked", name, groups, "blocked", _reasons(groups))


def _named(scene: Scene, pause: Pause) -> str:
    """Name a credential by its settings, never by what they hold."""
    platform = scene.platforms.get(pause.platform)
    names = scene.settings.names_of(platform, pause.credential) if platform else ()
    return " and ".join(names) or f"credential {pause.credential}"


def _tokens(scene: Scene) -> Iterator[Found]:
    if scene.settings.simulator_url:  # no token is sent
        return
    owners = {
        name: platform
        for platform in scene.platforms.values()
        for name in (*platform.needs, *platform.instead, *platform.uses)
    }
    for name, day in scene.settings.tokens_end.items():
        left = (day - scene.now.date()).days
        if left > scene.settings.alert_token_days:
            continue
        owner = owners.get(name) or owners.get(name.rpartition("_")[0])
        when = f"in {_counted(left, 'day')}" if left > 0 else "today" if left == 0 else "already"
        yield Found(
            rule="token",
            subject=name,
            platform=owner.name if owner else None,
            title=f"{name} {'ends' if left >= 0 else 'ended'} on {_day(day)}",
            detail=Detail(f"{when}, as TOKEN_EXPIRY says: renew it, and restart its platform's worker"),
        )


def _quotas(scene: Scene) -> Iterator[Found]:
    """Yield the platforms whose day is nearly over. Raises Undecided in the end where a count isn't known."""
    standing = pauses.standing(scene.conn, scene.now)
    spent = {(one.platform, one.credential) for one in standing if one.result == "quota"}
    unknown: str | None = None
    for name in overview.account_counts(scene.conn):
        platform = scene.platforms.get(name)
        if platform is None or platform.quota is None or unreadable(platform, scene.settings):
            continue
        labels = [one.label for one in scene.settings.credentials(platform)]
        renewed_at = midnight_after(scene.now, platform.quota.zone)
        units = Units(None, {})
        try:
            if unknown is None:  # who waits isn't made to wait once more
                units = scene.slots.units(name, labels, renewed_at)
        except RedisError as exc:
            unknown = f"Redis, which counts what is used of the quotas, can't be reached ({type(exc).__name__})"
        per_day, of_all = platform.quota.per_day, platform.quota.per_day * len(labels)
        used = sum(per_day if (name, label) in spent else min(per_day, units.used.get(label, 0)) for label in labels)
        if used * 100 >= scene.settings.alert_quota_pct * of_all:
            yield Found(
                rule="quota",
                subject=name,
                platform=name,
                title=f"{scene.title_of(name)}: {100 * used // of_all} % of the day's quota used",
                detail=Detail(f"{used:,} of {of_all:,} units; renewed {_moment(renewed_at)}"),
            )
        elif units.since is None or units.since > midnight_before(scene.now, platform.quota.zone):
            unknown = unknown or "what was used of the day's quotas before Redis began to count isn't known"
    if unknown is not None:
        raise Undecided(unknown)


def _budget(scene: Scene) -> Iterator[Found]:
    budget = scene.settings.alert_budget_usd
    charging = costs.charging(scene.platforms, scene.settings)
    if budget is None or not charging:
        return
    usd = costs.usd_a_day(health.alike(scene.conn, charging), scene.settings, scene.platforms)
    if sum(usd.values()) > budget:
        parts = sorted(usd.items(), key=lambda item: -item[1])
        yield Found(
            rule="budget",
            subject="usd a day",
            title=f"Reading the list costs ${sum(usd.values()):,.2f} a day, more than ${budget:,.2f}",
            detail=Detail(", ".join(f"{scene.title_of(name)} ${part:,.2f}" for name, part in parts if part)),
        )


RULES: Mapping[Rule, tuple[str, Look]] = {
    "drop": ("an account lost `ALERT_DROP_PCT` of its followers, or more, from one day to the next", _drops),
    "spike": ("an account gained `ALERT_SPIKE_PCT`, or more, from one day to the next", _spikes),
    "stale": ("accounts of a platform have been stale for `ALERT_STALE_S`, or were never read", _stale),
    "failing": ("accounts of a platform failed `ALERT_FAILURES` times in a row", _failing),
    "blocked": ("a credential is refused, or accounts of a platform need one that isn't set", _blocked),
    "token": ("a token ends within `ALERT_TOKEN_DAYS`, as `TOKEN_EXPIRY` says", _tokens),
    "quota": ("`ALERT_QUOTA_PCT` of a platform's quota of the day are used, of all credentials together", _quotas),
    "budget": ("reading the list at its intervals costs more than `ALERT_BUDGET_USD` a day", _budget),
}
"""Every rule: when it raises an alert (docs/operating.md says the same), and how it looks."""


class Looked(Struct, frozen=True):
    """What was found, and of the rules that couldn't be judged why not."""

    found: Sequence[Found]
    undecided: Mapping[Rule, str]

    @property
    def judged(self) -> Collection[Rule]:
        return [rule for rule in RULES if rule not in self.undecided]


def look(
    conn: Connection, settings: Settings, platforms: Mapping[str, Platform], slots: Slots, *, now: datetime
) -> Looked:
    """Return what is worth an alert now."""
    unwell = trouble.unwell(
        conn,
        now=now,
        stale_after=settings.stale_after,
        late_s=settings.alert_stale_s,
        failures=settings.alert_failures,
        most=FEW,
    )
    scene = Scene(conn=conn, settings=settings, platforms=platforms, slots=slots, now=now, unwell=unwell)
    found: list[Found] = []
    undecided: dict[Rule, str] = {}
    for rule, (_, looks) in RULES.items():
        try:
            for one in looks(scene):
                found.append(one)  # noqa: PERF402  # what comes before it turns out undecided counts
        except Undecided as exc:
            undecided[rule] = str(exc)
    return Looked(found, undecided)


def _in_trouble(scene: Scene, what: Trouble, *, least: int) -> Mapping[str, Sequence[Unwell]]:
    """Return the groups of accounts in this trouble by platform, of platforms that have at least so many accounts in it."""
    by_platform: dict[str, list[Unwell]] = {}
    for one in scene.unwell:
        if one.trouble == what:
            by_platform.setdefault(one.platform, []).append(one)
    return {name: them for name, them in by_platform.items() if _sum(them) >= least}


def _sum(groups: Sequence[Unwell]) -> int:
    return sum(one.accounts for one in groups)


def _of_platform(scene: Scene, rule: Trouble, name: str, groups: Sequence[Unwell], said: str, why: str) -> Found:
    """Return the one alert about all accounts of a platform that are in the same trouble."""
    first = [key for one in groups for key in one.first][:FEW]
    called = overview.names(scene.conn, first)
    accounts = _sum(groups)
    return Found(
        rule=rule,
        subject=name,
        platform=name,
        title=f"{scene.title_of(name)}: {_counted(accounts, 'account')} {said}",
        detail=Detail(why, [called[key] for key in first if key in called]),
        accounts=accounts,
    )


def _reasons(groups: Sequence[Unwell]) -> str:
    """Say why, the most frequent reason first."""
    reasons = Counter[str]()
    for one in groups:
        reasons[_short(one.reason or "no reason is known")] += one.accounts
    said = [f"{reason} ({accounts:,})" for reason, accounts in reasons.most_common(FEW)]
    rest = sum(accounts for _, accounts in reasons.most_common()[FEW:])
    return ", ".join([*said, *([f"other reasons ({rest:,})"] if rest else [])])


def _short(text: str) -> str:
    """Return a platform's words as one line that isn't too long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 1]}…"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _day(day: date) -> str:
    return f"{day:%-d %b %Y}"


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"
