"""Alerts: each rule raises an event once and says when it is over; channels are told once, whoever tells and whatever fails."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from msgspec import Struct
from pytest_httpserver import HTTPServer
from redis import Redis
from sqlalchemy import text
from structlog.testing import capture_logs
from werkzeug import Request, Response

from db import alerts, leases, pauses
from db.alerts import Alert, Rule
from db.engine import Connection, Engine, reading, transaction
from db.pauses import Pause
from pipeline import notifier, platforms
from pipeline.alert_channels import configured
from pipeline.alerts import CALM_S, MOST_APART, RULES
from pipeline.notifier import CLAIM_S, Notifier
from pipeline.platforms import midnight_after, midnight_before
from pipeline.settings import Settings
from pipeline.slots import SINCE_KEY, quota_key
from tests import databases, fakes
from tests.databases import connected
from tests.serving import add_account, in_process, keep, stand, wait_for, words
from tests.smtp import MailServer
from tests.system import system

SECRET = "T0P/s3cret"
KEYS = {"X_BEARER_TOKEN": "s3cret-x", "YOUTUBE_API_KEY": "s3cret-y", "THREADS_ACCESS_TOKEN": "s3cret-t"}
NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)
OVER = timedelta(seconds=CALM_S) + MINUTE
ENDS = NOW.date() + timedelta(days=5)


class Hook:
    """A webhook's server: what it was told, and what it answers."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for(f"/services/{SECRET}")
        self.texts: list[str] = []
        self.status = 200
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = threading.Event()
        server.expect_request(f"/services/{SECRET}", method="POST").respond_with_handler(self._answer)

    @property
    def lines(self) -> list[str]:
        return [line for text_ in self.texts for line in text_.splitlines()[1:]]

    def _answer(self, request: Request) -> Response:
        assert request.content_type == "application/json"
        self.asked.set()
        self.go_on.wait(60)
        if self.status == 200:
            self.texts.append(json.loads(request.data)["text"])
        return Response("ok", self.status)


@pytest.fixture
def hook(httpserver: HTTPServer) -> Hook:
    return Hook(httpserver)


@pytest.fixture
def store(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as store:
        yield store


Make = Callable[..., Notifier]


@pytest.fixture
def make(database_url: str, redis_url: str, engine: Engine, store: Redis) -> Make:
    """Return what makes a notifier; settings are given by name."""

    def make(**environ: str) -> Notifier:
        found = fakes.settings(database_url, redis_url, **environ)
        return Notifier(found, engine, configured(found), store)

    return make


def every(engine: Engine) -> list[Alert]:
    """Return all alerts there ever were, the first one first."""
    with reading(engine) as conn:
        return alerts.listed(conn, all_=True)[::-1]


def open_now(engine: Engine) -> list[str]:
    with reading(engine) as conn:
        return [one.title for one in alerts.listed(conn)][::-1]


# Rules


class Case(Struct, frozen=True):
    """What is wrong, how it is mended, and what is said of it meanwhile."""

    break_: Callable[[Connection, Redis], None]
    mend: Callable[[Connection, Redis], None]
    title: str
    why: str
    accounts: Sequence[str] = ()


def _key(conn: Connection, name: str) -> int:
    platform, handle = name.split("/")
    query = text("SELECT account_key FROM dim_account WHERE platform = :platform AND handle = :handle")
    found = conn.scalar(query, {"platform": platform, "handle": handle})
    return found or add_account(conn, name)


def _followers(now: int, delta: int) -> Callable[[Connection, Redis], None]:
    return lambda conn, _: keep(conn, _key(conn, "x/goose"), now, delta_1d=delta)


def _state(**state: object) -> Callable[[Connection, Redis], None]:
    return lambda conn, _: stand(conn, _key(conn, "x/goose"), **state)


def _well(conn: Connection, _: Redis) -> None:
    stand(conn, _key(conn, "x/goose"), result="ok", reason=None, failures=0, last_success_at=NOW)


def _list(conn: Connection, _: Redis) -> None:
    _key(conn, "x/goose")
    conn.execute(text("UPDATE dim_account SET is_active = true"))


def _pause(conn: Connection, _: Redis) -> None:
    conn.execute(text("UPDATE dim_account SET is_active = false"))


def _refuse(conn: Connection, _: Redis) -> None:
    pauses.add(conn, Pause("x", "1", NOW + timedelta(hours=1), "X_BEARER_TOKEN was revoked or is wrong", "blocked"))


def _use(units: int) -> Callable[[Connection, Redis], None]:
    def use(conn: Connection, store: Redis) -> None:
        _key(conn, "youtube/goose")
        youtube = platforms.load()["youtube"]
        assert youtube.quota and youtube.quota.per_day == 10_000
        store.set(SINCE_KEY, midnight_before(NOW, youtube.quota.zone).timestamp() - 1)
        store.set(quota_key("youtube", "1", midnight_after(NOW, youtube.quota.zone)), units)

    return use


CASES: Mapping[str, Case] = {
    "drop": Case(
        _followers(800, -200),
        _followers(790, -10),
        "x/goose lost 200 followers in a day",
        "1,000 → 800 on .*, −20.0 %",
    ),
    "spike": Case(_followers(9_000, 8_100), _followers(9_100, 100), "x/goose gained 8,100 followers", r"\+900.0 %"),
    "stale": Case(
        _state(result="ok", last_success_at=NOW - timedelta(days=2)),
        _well,
        "X: 1 account not read in time",
        "whether beat and the platform's worker run",
        ["x/goose"],
    ),
    "failing": Case(
        _state(result="failed", reason="timed out", failures=3, last_success_at=NOW),
        _well,
        "X: 1 account failing",
        r"timed out \(1\)",
        ["x/goose"],
    ),
    "blocked": Case(
        _state(result="blocked", reason="needs an approval", failures=1),
        _well,
        "X: 1 account blocked",
        r"needs an approval \(1\)",
        ["x/goose"],
    ),
    "refused": Case(
        _refuse,
        lambda conn, _: pauses.unblock(conn, "x", "1"),
        "X: X_BEARER_TOKEN refused",
        "X_BEARER_TOKEN was revoked or is wrong",
    ),
    "quota": Case(_use(9_100), _use(100), "YouTube: 91 % of the day's quota used", "9,100 of 10,000 units; renewed"),
    "budget": Case(
        _list,
        _pause,
        r"Reading the list costs \$\d\.\d\d a day, more than \$0.00",
        r"X \$\d\.\d\d$",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_event_is_raised_once_and_resolved_when_it_has_not_been_found_for_a_while(
    make: Make, engine: Engine, store: Redis, name: str
) -> None:
    case, of = CASES[name], make(**KEYS, ALERT_BUDGET_USD="0" if name == "budget" else "")
    of.look(NOW)
    assert every(engine) == []

    with transaction(engine) as conn:
        case.break_(conn, store)
    for after in (1, 2, 3):
        of.look(NOW + after * MINUTE)
    (raised,) = every(engine)
    assert raised.rule == ("blocked" if name == "refused" else name)
    assert re.match(case.title, raised.title), raised.title
    assert re.search(case.why, raised.detail.why), raised.detail.why
    assert (raised.raised_at, raised.resolved_at) == (NOW + MINUTE, None)
    if case.accounts:
        assert (raised.accounts, list(raised.detail.accounts)) == (1, case.accounts)

    with transaction(engine) as conn:
        case.mend(conn, store)
    of.look(NOW + 4 * MINUTE)
    assert open_now(engine) == [raised.title], "it may come back at once"
    of.look(NOW + 3 * MINUTE + OVER)
    (resolved,) = every(engine)
    assert resolved.resolved_at == NOW + 3 * MINUTE + OVER

    with transaction(engine) as conn:
        case.break_(conn, store)
    of.look(NOW + 4 * MINUTE + OVER)
    assert len(every(engine)) == 2, "another event"


def test_a_token_is_an_event_from_some_days_before_its_end_where_that_is_known(make: Make, engine: Engine) -> None:
    known = {"TOKEN_EXPIRY": f"THREADS_ACCESS_TOKEN={ENDS}, THREADS_ACCESS_TOKEN_2=2000-01-01", **KEYS}
    make(**known).look(NOW)
    (ends,) = every(engine)
    title = f"THREADS_ACCESS_TOKEN ends on {ENDS:%-d %b %Y}"
    assert (ends.rule, ends.platform, ends.title) == ("token", "threads", title)
    assert ends.detail.why.startswith("in 5 days, as TOKEN_EXPIRY says")

    make(**known, ALERT_TOKEN_DAYS="3").look(NOW + OVER)
    assert open_now(engine) == []


def test_any_number_of_accounts_in_trouble_is_one_event_per_platform_and_rule(make: Make, engine: Engine) -> None:
    add = """
        WITH added AS (
            INSERT INTO dim_account (platform, handle, url, is_core_account)
            SELECT platform, 'n' || n, platform || n, n = 500
            FROM generate_series(1, 1000) AS n CROSS JOIN unnest('{x,bluesky}'::text[]) AS of (platform)
            RETURNING account_key, platform, handle
        )
        INSERT INTO scrape_state (account_key, subject, platform, kind, next_due_at, result, reason, failures)
        SELECT account_key, 'profile', platform, 'profiles', now(), 'failed',
            CASE WHEN handle LIKE '%7' THEN 'HTML' ELSE 'timed out' END, 5 FROM added
    """
    with transaction(engine) as conn:
        conn.execute(text(add))
    make(**KEYS, ALERT_MIN_ACCOUNTS="2").look(NOW)

    bluesky, x = sorted(every(engine), key=lambda one: one.title)
    assert (x.title, bluesky.title) == ("X: 1,000 accounts failing", "Bluesky: 1,000 accounts failing")
    assert (x.accounts, x.detail.why) == (1000, "timed out (900), HTML (100)")
    assert x.detail.accounts[0] == "x/n500", "core accounts first"
    assert len(x.detail.accounts) == 5


def test_many_accounts_that_drop_have_some_alerts_of_their_own_and_one_together(make: Make, engine: Engine) -> None:
    of = make()
    with transaction(engine) as conn:
        for number in range(MOST_APART + 3):
            keep(conn, add_account(conn, f"x/n{number}"), 8_000 - 100 * number, delta_1d=-2_000)
        keep(conn, add_account(conn, "x/small"), 8, delta_1d=-2)
        keep(conn, add_account(conn, "x/long_ago"), 8_000, (NOW - timedelta(days=3)).date(), delta_1d=-2_000)
    of.look(NOW)
    shown = open_now(engine)
    together = "3 more accounts lost 10 % of their followers or more in a day"
    # The largest part of their followers is lost by those who had fewest.
    assert sorted(shown) == sorted([*(f"x/n{n} lost 2,000 followers in a day" for n in range(3, 13)), together])

    with transaction(engine) as conn:
        keep(conn, _key(conn, "x/n12"), 6_800, delta_1d=0)
        keep(conn, add_account(conn, "x/worse"), 1_000, delta_1d=-9_000)
    of.look(NOW + OVER)
    shown = open_now(engine)
    assert "x/n3 lost 2,000 followers in a day" in shown, "who has an alert keeps it"
    assert "x/n12 lost 2,000 followers in a day" not in shown
    assert "x/worse lost 9,000 followers in a day" in shown
    assert together in shown


def test_what_cannot_be_known_leaves_an_alert_as_it_is(
    make: Make, engine: Engine, store: Redis, database_url: str
) -> None:
    with transaction(engine) as conn:
        _use(9_500)(conn, store)
    make(**KEYS).look(NOW)
    assert len(open_now(engine)) == 1

    nowhere = "redis://127.0.0.1:9/0"
    with Redis.from_url(nowhere) as away, capture_logs() as said:
        blind = Notifier(fakes.settings(database_url, nowhere, **KEYS), engine, [], away)
        for minutes in (10, 20):
            blind.look(NOW + minutes * MINUTE)
    assert [line["event"] for line in said].count("alert_rules_undecided") == 1
    assert len(open_now(engine)) == 1

    store.flushall()
    make(**KEYS).look(NOW + 30 * MINUTE)
    assert len(open_now(engine)) == 1, "a Redis that has forgotten doesn't know either"


def test_every_rule_is_documented_with_its_meaning(project: Path) -> None:
    page = (project / "docs" / "operating.md").read_text()
    assert RULES.keys() == set(get_args(Rule))
    for rule, (means, _) in RULES.items():
        assert f"- **{rule}**: {means}" in page


# Channels


def fail(engine: Engine, name: str, accounts: int = 1) -> None:
    """Let accounts of X fail."""
    with transaction(engine) as conn:
        for number in range(accounts):
            key = add_account(conn, f"x/{name}{number}")
            stand(conn, key, result="failed", reason="timed out", failures=3)


def recover(engine: Engine) -> None:
    with transaction(engine) as conn:
        conn.execute(text("UPDATE scrape_state SET result = 'ok', last_success_at = now()"))


def tell(of: Notifier, now: datetime) -> list[bool]:
    """Tell every channel what is due."""
    return [of.tell(channel, now) for channel in of.channels]


def test_a_webhook_is_told_once_then_reminded_then_told_that_it_is_over(
    make: Make, engine: Engine, hook: Hook
) -> None:
    of = make(ALERT_WEBHOOK_URL=hook.url, ALERT_REMIND_S="3600")
    fail(engine, "goose")
    of.look(NOW)
    assert tell(of, NOW) == [True]
    assert tell(of, NOW) == [False]
    of.look(NOW + MINUTE)
    assert tell(of, NOW + MINUTE) == [False]
    (said,) = hook.texts
    since = f"since {NOW:%-d %b %Y, %H:%M} UTC"
    assert said == f"Rollcall alerts: 1 new\n• New: X: 1 account failing – timed out (1) (x/goose0) – {since}"

    tell(of, NOW + 61 * MINUTE)
    assert hook.lines[1:] == [f"• Going on: X: 1 account failing – timed out (1) (x/goose0) – {since}"]

    recover(engine)
    of.look(NOW + 70 * MINUTE)
    tell(of, NOW + 70 * MINUTE)
    tell(of, NOW + 70 * MINUTE)
    (over,) = hook.lines[2:]
    assert over.startswith("• Resolved: X: 1 account failing") and since in over
    assert tell(of, NOW + timedelta(days=9)) == [False]


def test_an_alert_that_is_about_ten_times_as_many_accounts_is_told_again_at_once(
    make: Make, engine: Engine, hook: Hook
) -> None:
    of = make(ALERT_WEBHOOK_URL=hook.url)
    fail(engine, "goose")
    of.look(NOW)
    tell(of, NOW)
    fail(engine, "duck", 8)
    of.look(NOW + MINUTE)
    assert tell(of, NOW + MINUTE) == [False]
    fail(engine, "swan")
    of.look(NOW + 2 * MINUTE)
    assert tell(of, NOW + 2 * MINUTE) == [True]
    assert tell(of, NOW + 2 * MINUTE) == [False]
    assert hook.lines[1].startswith("• Worse: X: 10 accounts failing")


def test_a_channel_that_fails_is_tried_again_and_holds_up_no_other(
    make: Make, engine: Engine, hook: Hook, mail_server: MailServer
) -> None:
    to = "goose@example.org, duck@example.org"
    of = make(ALERT_WEBHOOK_URL=hook.url, ALERT_EMAIL_TO=to, **mail_server.environ)
    fail(engine, "goose")
    hook.status = 500
    with capture_logs() as said:
        of.look(NOW)
        assert tell(of, NOW) == [False, True]
        assert tell(of, NOW) == [False, False], "it waits before it tries again"
        assert tell(of, NOW + MINUTE) == [False, False]
    (mail,) = mail_server.received
    assert mail.to == ("goose@example.org", "duck@example.org")
    assert mail.message["Subject"] == "Rollcall alerts: 1 new"
    assert "New: X: 1 account failing – timed out (1) (x/goose0)" in " ".join(mail.text.split())
    (alert,) = every(engine)
    assert [(one.channel, one.failures) for one in alert.deliveries] == [("email", 0), ("webhook", 2)]
    assert [line["event"] for line in said].count("alerts_not_told") == 2
    assert "answers 500" in str(said) and SECRET not in str(said) and SECRET not in str(alert)

    hook.status = 200
    recover(engine)
    of.look(NOW + 10 * MINUTE)
    tell(of, NOW + 10 * MINUTE)
    (line,) = hook.lines
    assert line.startswith("• Resolved: X: 1 account failing"), "who never heard of it hears of all of it"
    assert len(mail_server.received) == 2


def test_whom_the_mail_server_refuses_costs_the_others_no_second_mail(
    make: Make, engine: Engine, mail_server: MailServer
) -> None:
    of = make(ALERT_EMAIL_TO="goose@example.org, duck@example.org", **mail_server.environ)
    mail_server.refused["duck@example.org"] = "550 no such user"
    fail(engine, "goose")
    of.look(NOW)
    with capture_logs() as said:
        tell(of, NOW)
        tell(of, NOW + timedelta(hours=2))
    assert [mail.to for mail in mail_server.received] == [("goose@example.org",)]
    assert [line["event"] for line in said] == ["alerts_told_in_part", "alerts_told"]


def test_what_a_platform_says_is_no_command_to_the_webhook(make: Make, engine: Engine, hook: Hook) -> None:
    of = make(ALERT_WEBHOOK_URL=hook.url)
    with transaction(engine) as conn:
        key = add_account(conn, "x/goose")
        stand(conn, key, result="failed", reason="<!channel>\n• Resolved & done", failures=3)
    of.look(NOW)
    tell(of, NOW)
    (line,) = hook.lines
    assert "&lt;!channel&gt; • Resolved &amp; done" in line


def test_two_notifiers_at_once_tell_each_alert_once(make: Make, engine: Engine, hook: Hook) -> None:
    both = [make(ALERT_WEBHOOK_URL=hook.url) for _ in range(2)]
    with transaction(engine) as conn:
        for name in platforms.load():
            stand(conn, add_account(conn, f"{name}/goose"), result="failed", reason="timed out", failures=3)
    barrier = threading.Barrier(2)

    def work(of: Notifier) -> None:
        barrier.wait(60)
        of.look(NOW)
        while of.tell(of.channels[0], NOW):
            pass

    threads = [threading.Thread(target=work, args=(of,)) for of in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(every(engine)) == len(platforms.load())
    assert len(hook.lines) == len(set(hook.lines)) == len(platforms.load())


def test_what_a_killed_notifier_was_telling_is_told_by_another(
    make: Make, engine: Engine, hook: Hook, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    fail(engine, "goose")
    hook.go_on.clear()
    with system(database_url, redis_url, tmp_path / "logs", ALERT_WEBHOOK_URL=hook.url) as (processes, _):
        killed = processes.start("pipeline.notifier")
        processes.wait(hook.asked.is_set, within_s=60, what="the webhook to be asked")
        killed.kill()
        killed.wait()
    hook.status = 503
    hook.go_on.set()
    hook.asked.clear()

    other, now = make(ALERT_WEBHOOK_URL=hook.url), datetime.now(UTC)
    assert tell(other, now) == [False]
    assert not hook.asked.is_set(), "who was telling may be at it still"
    hook.status = 200
    assert tell(other, now + timedelta(seconds=CLAIM_S)) == [True]
    assert len(hook.lines) == 1


# The process


@contextmanager
def notifying(found: Settings, engine: Engine) -> Iterator[threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=notifier.run, args=(found, engine, configured(found), stop))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


def test_a_second_notifier_stands_by_until_the_first_one_is_gone(
    database_url: str, redis_url: str, engine: Engine, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "TICK_S", 0.05)
    fail(engine, "goose")
    with transaction(engine) as conn:
        assert leases.take(conn, leases.NOTIFIER, "another", kept_s=600)
    with notifying(fakes.settings(database_url, redis_url, ALERT_WEBHOOK_URL=hook.url), engine) as thread:
        thread.join(1)
        assert every(engine) == []
        with transaction(engine) as conn:
            leases.leave(conn, leases.NOTIFIER, "another")
        wait_for(lambda: hook.lines, "the one that stood by")
    with reading(engine) as conn:
        assert not leases.is_held(conn, leases.NOTIFIER), "it left its lease to the next one"


def test_a_channel_that_hangs_holds_up_no_look_and_no_other_channel(
    database_url: str,
    redis_url: str,
    engine: Engine,
    hook: Hook,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifier, "TICK_S", 0.05)
    environ = {"ALERT_WEBHOOK_URL": hook.url, "ALERT_EMAIL_TO": "goose@example.org", "ALERT_INTERVAL_S": "0.1"}
    found = fakes.settings(database_url, redis_url, **environ, **mail_server.environ)
    hook.go_on.clear()
    with notifying(found, engine):
        fail(engine, "goose")
        wait_for(lambda: hook.asked.is_set() and mail_server.received, "the first alert")
        with transaction(engine) as conn:
            stand(conn, add_account(conn, "bluesky/duck"), result="failed", reason="timed out", failures=3)
        wait_for(lambda: len(mail_server.received) > 1, "a second alert, while the webhook hangs")
        hook.go_on.set()
        both = ("X: 1 account failing", "Bluesky: 1 account failing")
        wait_for(lambda: all(said in str(hook.texts) for said in both), "the webhook to hear of both", 120)


def test_a_notifier_does_all_of_it_as_the_workers_role_and_pages_show_it_as_the_apis(
    postgres: str, store: Redis, redis_url: str, hook: Hook
) -> None:
    with databases.owned(postgres) as owned:
        with connected(owned, owned.owner) as engine:
            fail(engine, "goose")
        with connected(owned, owned.roles.workers) as engine:
            found = fakes.settings(owned.url(owned.roles.workers), redis_url, ALERT_WEBHOOK_URL=hook.url)
            of = Notifier(found, engine, configured(found), store)
            of.look(NOW)
            assert tell(of, NOW) == [True]
            with transaction(engine) as conn:
                assert alerts.mute(conn, 1, NOW + OVER)
        with in_process(fakes.settings(owned.url(owned.roles.api), redis_url)) as api:
            assert "X: 1 account failing" in words(api, "/")


# What people see


def test_pages_and_the_api_show_open_alerts_as_soon_as_they_are_raised(
    make: Make, engine: Engine, database_url: str, redis_url: str
) -> None:
    of = make()
    with transaction(engine) as conn:
        add_account(conn, "bluesky/duck")
    with in_process(fakes.settings(database_url, redis_url)) as api:
        api.wait_until_it_hears_purges()
        assert "alert" not in words(api, "/")
        assert "Open alerts None." in words(api, "/health")
        assert api.get("/api/alerts").json["items"] == []
        fail(engine, "goose")
        of.look(NOW)
        wait_for(lambda: "X: 1 account failing timed out (1); since" in words(api, "/"), "the first page")
        assert "The alert in data health" in words(api, "/")
        page = "X: 1 account failing timed out (1) failing x/goose0"
        wait_for(lambda: page in words(api, "/health"), "the page of data health")
        wait_for(lambda: api.get("/api/alerts").json["total"] == 1, "the API")
        (item,) = api.get("/api/alerts?fields=rule,platform,title,why,accounts,first_accounts").json["items"]
        assert item == {
            "rule": "failing",
            "platform": "x",
            "title": "X: 1 account failing",
            "why": "timed out (1)",
            "accounts": 1,
            "first_accounts": ["x/goose0"],
        }

        recover(engine)
        of.look(NOW + OVER)
        wait_for(lambda: api.get("/api/alerts").json["total"] == 0, "its end")
        wait_for(lambda: "account failing" not in words(api, "/"), "its end on the first page")
        (item,) = api.get("/api/alerts?state=all&fields=resolved_at").json["items"]
        assert datetime.fromisoformat(item["resolved_at"]) == NOW + OVER
        assert api.get("/api/alerts?page=2").status_code == 400
        assert api.get("/api/alerts?state=shut").json["errors"][0]["field"] == "state"


def test_the_commands_list_mute_and_test(
    rollcall, make: Make, engine: Engine, hook: Hook, mail_server: MailServer
) -> None:
    assert "No alert is open" in rollcall("alerts", "list").stderr
    nowhere = rollcall("alerts", "test")
    assert nowhere.exit_code == 1 and "set ALERT_WEBHOOK_URL, or ALERT_EMAIL_TO" in nowhere.stderr

    channels = {"ALERT_WEBHOOK_URL": hook.url, "ALERT_EMAIL_TO": "goose@example.org", **mail_server.environ}
    well = rollcall("alerts", "test", **channels)
    assert well.exit_code == 0 and well.stdout.count("took it") == 2, well.output
    assert hook.texts[0].startswith("Rollcall: a test of alerts\n")
    assert "Nothing is wrong" in mail_server.received[0].text
    hook.status = 404
    ill = rollcall("alerts", "test", "--json", **channels)
    assert ill.exit_code == 1 and SECRET not in ill.output
    assert [(one["channel"], one["error"]) for one in json.loads(ill.stdout)] == [
        ("webhook", "ALERT_WEBHOOK_URL is refused (404): make a new one there, and set it"),
        ("email", None),
    ]

    hook.status = 500
    of = make(**channels, ALERT_REMIND_S="60")
    fail(engine, "goose")
    of.look(NOW)
    tell(of, NOW)
    (alert,) = json.loads(rollcall("alerts", "list", "--json").stdout)
    listed = rollcall("alerts", "list").stdout
    assert "X: 1 account failing" in listed and "webhook failed 1 times" in listed
    hook.status = 200
    assert rollcall("alerts", "mute", str(alert["alert_id"]), "--for", "2h").exit_code == 0
    assert "muted until" in rollcall("alerts", "list").stdout
    assert tell(of, NOW + timedelta(hours=1)) == [False, False]
    recover(engine)
    of.look(NOW + timedelta(hours=1))
    tell(of, NOW + timedelta(hours=1))
    assert "Resolved" in hook.texts[-1] and "Resolved" in mail_server.received[-1].text
    assert rollcall("alerts", "mute", "1", "--for", "2h").exit_code == 2
    assert "No alert is open" in rollcall("alerts", "list").stderr
    assert len(json.loads(rollcall("alerts", "list", "--all", "--json").stdout)) == 1
