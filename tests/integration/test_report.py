"""The weekly report: what it says, and that each recipient gets it once, whatever happens on the way."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from db import bulk, deliveries, gaps
from db.deliveries import ALL, Delivery
from db.engine import Connection, Engine, make_engine, transaction
from db.models import report_delivery
from db.rows import Next
from pipeline import mail, report
from pipeline.cli import main
from pipeline.doctor import mails
from pipeline.settings import Settings, SettingsError
from pipeline.weeks import Week
from tests import databases, fakes
from tests.history import snapshot
from tests.jobs import requested, said, saved
from tests.serving import add_account, stand, wait_for
from tests.smtp import MailServer
from tests.varnish import free_port

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
WEEK = Week.parse("2026-W09")
SUNDAY = WEEK.last
DAY = timedelta(days=1)
LONG_AGO = NOW - timedelta(days=300)
ANN, BO, CY = "ann@example.org", "bo@example.org", "cy@example.org"


@pytest.fixture
def settings(database_url: str, mail_server: MailServer) -> Callable[..., Settings]:
    def make(**environ: str) -> Settings:
        return fakes.settings(database_url, "redis://nowhere", **{**mail_server.environ, **environ})

    return make


def account(
    conn: Connection, name: str, numbers: Mapping[date, int | None] = {}, org: str | None = "Geese", **facts: Any
) -> int:
    """List an account long ago that was read just now, with followers of some days."""
    key = add_account(conn, name, org_name=org, added_at=LONG_AGO, **facts)
    stand(conn, key, result="ok", last_success_at=NOW - timedelta(hours=1), last_attempt_at=NOW - timedelta(hours=1))
    bulk.upsert_snapshots(conn, [snapshot(key, day, followers) for day, followers in numbers.items()])
    return key


def rising(followers: int, by: int) -> dict[date, int | None]:
    """Return followers of the week and the day before it that rise evenly, by so many in all."""
    return {WEEK.before + n * DAY: followers + n * by // 7 for n in range(8)}


def written(settings: Settings, engine: Engine, org: str | None = "Geese", now: datetime = NOW) -> report.Written:
    found = report.written(settings, engine, org, WEEK, now)
    assert found is not None
    return found


def both_say(found: report.Written, *texts: str) -> None:
    """Check that text and HTML say each of these."""
    for text in texts:
        assert text in found.text, f"{text!r} is not in\n{found.text}"
        assert text in found.html.replace("&#39;", "'"), f"{text!r} is not in the HTML"


def test_it_compares_the_same_accounts_and_says_how_many(settings: Callable[..., Settings], engine: Engine) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))
        account(conn, "x/gander", rising(500, -21))
        account(conn, "bluesky/new", {SUNDAY - DAY: 40_000})
        account(conn, "flickr/silent")
        account(conn, "x/duck", rising(9_000_000, 700), org="Ducks")

    found = written(settings(), engine)

    assert found.subject == "Geese, week 2026-W09: +49 followers"
    both_say(
        found,
        "41,549",
        "+49 over the week, among the 2 accounts with a number at both ends.",
        "The number covers 3 of 4 accounts, 1 with its number of an earlier day.",
        "Over eight weeks: 41,549 followers on 1 Mar 2026, up from 1,500 on 22 Feb 2026 (3 accounts, 2 then).",
        "2 of 2 accounts",
        "1 of 1 account, change of 0",
        "not known",
        "+70 (+7.0 %)",
        "now 1,070",
        "−21 (−4.2 %)",
        "now 479",
    )
    assert "duck" not in found.text + found.html
    assert "simulated" not in found.text.lower()


def test_all_organisations_are_added_up_and_listed(settings: Callable[..., Settings], engine: Engine) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))
        account(conn, "x/duck", rising(9_000, 7), org="Ducks")
        account(conn, "x/swan", rising(10, 0), org=None)

    found = written(settings(), engine, None)

    both_say(found, "All organisations", "10,087", "+77 over the week", "Ducks", "without an organisation", "±0")


def test_what_is_not_known_is_never_shown_as_zero(settings: Callable[..., Settings], engine: Engine) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose", {SUNDAY: None})

    found = written(settings(), engine)

    assert found.subject == "Geese, week 2026-W09: not known"
    both_say(found, "Change over the week: not known", "The number covers 0 of 1 account.", "no followers known")
    assert found.images == {}


def test_it_says_who_was_not_read_when_and_why(settings: Callable[..., Settings], engine: Engine) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))
        lacking = account(conn, "x/gander", {WEEK.before: 5, SUNDAY: 6})
        for number in (1, 2):
            failed = Next(account_key=lacking, result="failed", reason="timed out", failures=1, due_at=NOW)
            gaps.record(conn, [failed], WEEK.first + number * DAY)
        blocked = account(conn, "x/swan", rising(10, 0))
        stand(conn, blocked, result="blocked", reason="needs X_BEARER_TOKEN")
        account(conn, "x/weekly", {SUNDAY: 7}, read_interval_s=7 * 86_400)
        account(conn, "x/paused", is_active=False)

    found = written(settings(), engine)

    both_say(
        found,
        "6 of 7 days without a reading (Mon 23 Feb: not tried: the collector was running, and had no call left for it; "
        "Tue 24 to Wed 25 Feb: failed: timed out; ",
        "blocked (needs a credential or an approval): needs X_BEARER_TOKEN; last read 2 Mar 2026, 11:00 UTC",
        "3 of 5 accounts are fresh (1 blocked, 1 paused). The newest reading is of 2 Mar 2026, 11:00 UTC.",
    )
    assert "x/weekly: " not in found.text.partition("WHAT IS MISSING")[2]
    assert "x/paused" not in found.text


def test_each_picture_says_in_words_what_it_shows(settings: Callable[..., Settings], engine: Engine) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70) | {SUNDAY - 20 * DAY: 900})

    found = written(settings(), engine)

    assert set(found.images) == {"trend@rollcall", "platform-1@rollcall"}
    assert all(png.startswith(b"\x89PNG") for png in found.images.values())
    # What was known on 9 February counts for six days more.
    alt = "X: 1,070 followers on 1 Mar 2026, up from 900 on 9 Feb 2026; 6 days without a number."
    assert f'src="cid:platform-1@rollcall" width="110" height="30" alt="{alt}"' in found.html
    assert "http" not in found.html.replace("<!doctype html>", "")
    assert '"cid:' not in found.standalone and "data:image/png;base64," in found.standalone


def test_simulated_numbers_are_said_to_be(settings: Callable[..., Settings], engine: Engine) -> None:
    with transaction(engine) as conn:
        key = account(conn, "x/goose", rising(1_000, 70))
        job = requested(conn, [key])
        saved(conn, job, said(job))

    found = written(settings(), engine)

    assert found.subject.startswith("[simulated] ")
    assert "these numbers are simulated" in found.text.lower() and "These numbers are simulated" in found.html


HOSTILE = (
    'Geese\r\nBcc: bo@example.org\r\n\r\n<script>alert(1)</script>\u202e"><img src=x onerror=alert(1)>{{ 7 * 7 }}'
)


def test_names_of_others_can_do_no_harm(
    settings: Callable[..., Settings], engine: Engine, mail_server: MailServer
) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70), org=HOSTILE)
        failing = account(conn, "x/<b>gander</b>\r\n", org=HOSTILE)
        stand(conn, failing, result="failed", reason="answered\r\n<script>alert(2)</script>" + "x" * 1_000)

    report.turn(settings(REPORT_RECIPIENTS=f"*={ANN}"), engine, NOW)

    (received,) = mail_server.received
    harmless = 'Geese Bcc: bo@example.org <script>alert(1)</script> "><img src=x onerror=alert(1)>{{ 7 * 7 }}'
    assert received.to == (ANN,)
    assert received.message["Bcc"] is None
    assert received.message["Subject"] == f"{harmless}, week 2026-W09: +70 followers"
    assert received.text.startswith(f"{harmless}: week 2026-W09\n")
    assert "<script" not in received.html and "<img src=x" not in received.html and "<b>" not in received.html
    assert len(received.html) < 100_000  # Gmail shows no more


def test_each_gets_it_once_however_many_send(
    settings: Callable[..., Settings], engine: Engine, database_url: str, mail_server: MailServer
) -> None:
    configured = settings(REPORT_EMAIL_TO=f"{ANN}, {BO}", REPORT_RECIPIENTS=f"Geese={BO},{CY};*={ANN}")
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))
        account(conn, "x/duck", rising(1_000, 7), org="Ducks")
    together = threading.Barrier(3)

    def send() -> None:
        own = make_engine(database_url, application_name="tests")
        try:
            together.wait(60)
            report.turn(configured, own, NOW)
        finally:
            own.dispose()

    with ThreadPoolExecutor(3) as pool:
        for sender in [pool.submit(send) for _ in range(3)]:
            sender.result(60)
    report.turn(configured, engine, NOW + 6 * DAY)  # after a restart, say

    got = sorted((one.message["Subject"].partition(",")[0], *one.to) for one in mail_server.received)
    assert got == [
        ("All organisations", ANN),
        ("All organisations", BO),
        ("Ducks", ANN),
        ("Geese", ANN),
        ("Geese", BO),
        ("Geese", CY),
    ]
    report.turn(configured, engine, NOW + 7 * DAY)
    assert {one.message["Subject"].split()[-3] for one in mail_server.received[6:]} == {"2026-W10:"}
    assert len(mail_server.received) == 12
    assert len({one.message["Message-ID"] for one in mail_server.received}) == 12


def test_it_is_sent_from_its_hour_on_and_late_if_it_must(
    settings: Callable[..., Settings], engine: Engine, mail_server: MailServer
) -> None:
    configured = settings(REPORT_EMAIL_TO=ANN, REPORT_WEEKDAY="Tuesday", REPORT_HOUR="9")
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))
        # The one of the week before would still be due on Monday.
        deliveries.claim(conn, WEEK.first - 7 * DAY, Delivery(ALL, ANN), now=NOW, until=NOW + 30 * DAY)

    report.turn(configured, engine, datetime(2026, 3, 3, 8, 59, tzinfo=UTC))
    assert not mail_server.received
    report.turn(configured, engine, datetime(2026, 3, 9, 23, tzinfo=UTC))
    assert [one.message["Subject"].split()[-3] for one in mail_server.received] == ["2026-W09:"]


def test_a_failed_one_is_tried_again_and_a_refused_one_is_not(
    settings: Callable[..., Settings], engine: Engine, mail_server: MailServer
) -> None:
    configured = settings(REPORT_EMAIL_TO=f"{ANN},{BO},{CY}")
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))
    mail_server.refused |= {ANN: "450 Come back later", BO: "550 No such user"}

    report.turn(configured, engine, NOW)
    assert [one.to for one in mail_server.received] == [(CY,)]
    mail_server.refused.clear()
    report.turn(configured, engine, NOW + timedelta(minutes=4))
    assert mail_server.asked == 3
    report.turn(configured, engine, NOW + timedelta(minutes=6))
    report.turn(configured, engine, NOW + 2 * DAY)
    assert [one.to for one in mail_server.received] == [(CY,), (ANN,)]


def test_a_mail_server_that_is_away_is_asked_once_a_turn_and_gets_all_when_it_is_back(
    settings: Callable[..., Settings], engine: Engine, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))
    asked: list[str] = []
    send = mail.send

    def counted(settings: Settings, to: list[str], *args: Any, **kwargs: Any) -> None:
        asked.extend(to)
        send(settings, to, *args, **kwargs)

    monkeypatch.setattr(mail, "send", counted)

    report.turn(settings(REPORT_EMAIL_TO=f"{ANN},{BO}", SMTP_PORT=str(free_port())), engine, NOW)
    assert asked == [ANN]
    report.turn(settings(REPORT_EMAIL_TO=f"{ANN},{BO}"), engine, NOW + timedelta(minutes=6))
    assert sorted(one.to for one in mail_server.received) == [(ANN,), (BO,)]


def test_one_whose_sender_died_is_sent_by_another_as_the_same_mail(
    settings: Callable[..., Settings], engine: Engine, mail_server: MailServer
) -> None:
    configured = settings(REPORT_EMAIL_TO=ANN)
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))
        deliveries.claim(conn, WEEK.first, Delivery(ALL, ANN), now=NOW, until=NOW + timedelta(minutes=15))

    report.turn(configured, engine, NOW + timedelta(minutes=14))
    assert not mail_server.received
    report.turn(configured, engine, NOW + timedelta(minutes=16))
    (received,) = mail_server.received
    with transaction(engine) as conn:  # as if it had died before it could say that it was sent
        conn.execute(report_delivery.update().values(sent_at=None, next_try_at=NOW))
    report.turn(configured, engine, NOW + timedelta(minutes=17))
    assert [one.message["Message-ID"] for one in mail_server.received] == 2 * [received.message["Message-ID"]]


def test_it_follows_the_weeks_until_it_is_stopped_and_a_fault_of_ours_does_not_end_it(
    settings: Callable[..., Settings], engine: Engine, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_PAUSE_S", 0.05)
    with transaction(engine) as conn:
        account(conn, "x/goose", {datetime.now(UTC).date() - n * DAY: 1_000 for n in range(21)})
        account(conn, "x/duck", {datetime.now(UTC).date() - n * DAY: 1_000 for n in range(21)}, org="Ducks")
    gather = report.facts.gather

    def faulty(settings: Settings, engine: Engine, org: str | None, *rest: Any) -> Any:
        assert org != "Ducks", "a fault of ours"
        return gather(settings, engine, org, *rest)

    monkeypatch.setattr(report.facts, "gather", faulty)
    stop = threading.Event()
    configured = settings(REPORT_RECIPIENTS=f"Ducks={ANN};Geese={BO}")
    following = threading.Thread(target=report.follow, args=(configured, engine, stop))
    following.start()
    try:
        wait_for(lambda: mail_server.received, "the report", within_s=60)
    finally:
        stop.set()
        following.join(60)

    assert not following.is_alive()
    assert {one.to for one in mail_server.received} == {(BO,)}


def test_an_attempt_that_was_overtaken_says_nothing_of_the_other(engine: Engine) -> None:
    delivery = Delivery(ALL, ANN)
    with transaction(engine) as conn:
        first = deliveries.claim(conn, WEEK.first, delivery, now=NOW, until=NOW)
        second = deliveries.claim(conn, WEEK.first, delivery, now=NOW, until=NOW + DAY)
        assert (first, second) == (1, 2)
        deliveries.failed(conn, WEEK.first, delivery, 1, "too slow", again_at=NOW)
        assert deliveries.claim(conn, WEEK.first, delivery, now=NOW, until=NOW + DAY) is None
        deliveries.sent(conn, WEEK.first, delivery, now=NOW)
        deliveries.failed(conn, WEEK.first, delivery, 2, "too slow", again_at=NOW)
        assert deliveries.settled(conn, WEEK.first, now=NOW + 300 * DAY) == {delivery}


def test_an_organisation_that_had_no_account_then_gets_no_report(
    settings: Callable[..., Settings], engine: Engine, mail_server: MailServer
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/goose", org_name="Geese", added_at=NOW)

    configured = settings(REPORT_EMAIL_TO=ANN, REPORT_RECIPIENTS=f"Geese={ANN};Swans={ANN}")
    report.turn(configured, engine, NOW)

    assert not mail_server.received
    done = report.deliver(configured, engine, WEEK, report.due(configured, engine, "Geese"), NOW)
    assert [one.result for one in done] == ["settled"]


def test_the_doctor_names_an_organisation_that_is_none(settings: Callable[..., Settings], engine: Engine) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose")
        (found,) = mails.recipients(conn, settings(REPORT_RECIPIENTS=f"Geese={ANN};Gees={BO};*={CY}"))

    assert "'Gees'" in found.said and found.level == "warn"


def test_the_role_of_workers_may_send_it(postgres: str, mail_server: MailServer) -> None:
    with databases.owned(postgres) as owned:
        configured = fakes.settings(owned.url(owned.roles.workers), "redis://nowhere", **mail_server.environ)
        with databases.connected(owned, owned.owner) as engine, transaction(engine) as conn:
            account(conn, "x/goose", rising(1_000, 70))
        with databases.connected(owned, owned.roles.workers) as engine:
            report.turn(configured.model_copy(update={"report_email_to": ANN}), engine, NOW)

    assert [one.to for one in mail_server.received] == [(ANN,)]


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"REPORT_EMAIL_TO": "ann"}, "REPORT_EMAIL_TO: .*'ann' is no e-mail address"),
        ({"REPORT_RECIPIENTS": ANN}, "REPORT_RECIPIENTS: .*is no list like"),
        ({"REPORT_RECIPIENTS": "Geese=ann"}, "REPORT_RECIPIENTS: .*'ann' is no e-mail address"),
        ({"REPORT_WEEKDAY": "someday"}, "REPORT_WEEKDAY: "),
        ({"REPORT_EMAIL_TO": ANN, "SMTP_HOST": ""}, "REPORT_EMAIL_TO: .*needs SMTP_HOST"),
    ],
    ids=["to", "no organisation", "no address", "weekday", "no server"],
)
def test_settings_that_lead_nowhere_are_named(
    settings: Callable[..., Settings], environ: Mapping[str, str], fault: str
) -> None:
    with pytest.raises(SettingsError, match=fault):
        settings(**environ)


@pytest.fixture
def rollcall(
    database_url: str, mail_server: MailServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    environ = {"DATABASE_URL": database_url, "REDIS_URL": "redis://nowhere", **mail_server.environ}

    def run(*arguments: str, **more: str) -> Result:
        result = CliRunner(env={**environ, **more}).invoke(main, ["report", *arguments])
        assert isinstance(result.exception, SystemExit | None), result.exception
        return result

    return run


@pytest.fixture
def goose(engine: Engine) -> None:
    with transaction(engine) as conn:
        account(conn, "x/goose", rising(1_000, 70))


def test_a_report_is_looked_at_before_it_goes_out(
    rollcall: Callable[..., Result], goose: None, mail_server: MailServer
) -> None:
    page = rollcall("show", "--org", "Geese", "--week", "2026-W09")
    text = rollcall("show", "--week", "2026-W09", "--text")

    assert page.stdout.startswith("<!doctype html>") and 'src="data:image/png;base64,' in page.stdout
    assert page.stderr == "Subject: Geese, week 2026-W09: +70 followers\n"
    assert text.stdout.startswith("All organisations: week 2026-W09\n") and "<" not in text.stdout
    assert not mail_server.received


def test_by_hand_it_goes_to_who_has_not_got_it(
    rollcall: Callable[..., Result], goose: None, mail_server: MailServer
) -> None:
    recipients = {"REPORT_EMAIL_TO": ANN, "REPORT_RECIPIENTS": f"Geese={BO}"}
    mail_server.refused[BO] = "550 No such user"

    first = rollcall("send", "--week", "2026-W09", **recipients)
    mail_server.refused.clear()
    second = rollcall("send", "--week", "2026-W09", **recipients)

    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.stdout.splitlines()[0] == f"all\t{ANN}\tsent\t"
    assert first.stdout.splitlines()[1].startswith(f"Geese\t{BO}\tfailed\t") and "550 No such user" in first.stdout
    assert second.stdout.startswith(f"all\t{ANN}\tsettled\thas it since ")
    assert second.stdout.splitlines()[1] == f"Geese\t{BO}\tsent\t"
    assert [one.to for one in mail_server.received] == [(ANN,), (BO,)]


def test_a_copy_goes_to_anybody_and_counts_for_nobody(
    rollcall: Callable[..., Result], goose: None, mail_server: MailServer
) -> None:
    for _ in range(2):
        assert rollcall("send", "--to", CY, "--org", "Geese", "--week", "2026-W09").exit_code == 0
    mail_server.refused[CY] = "550 No such user"
    refused = rollcall("send", "--to", CY, "--week", "2026-W09")

    assert [one.to for one in mail_server.received] == [(CY,), (CY,)]
    assert refused.exit_code == 1 and "550 No such user" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("send",), "Nobody is named"),
        (("show", "--org", "Gees"), "No account is of the organisation 'Gees'"),
        (("show", "--week", "48"), "write it as 2026-W48"),
        (("show", "--week", "2999-W01"), "isn't over yet"),
        (("send", "--to", "cy", "--week", "2026-W09"), "'cy' is no e-mail address"),
        (("show", "--week", "2020-W01"), "There is nothing to say of 2020-W01"),
    ],
    ids=["nobody", "organisation", "no week", "to come", "no address", "long ago"],
)
def test_what_makes_no_sense_is_told(
    rollcall: Callable[..., Result], goose: None, arguments: tuple[str, ...], told: str
) -> None:
    result = rollcall(*arguments)

    assert result.exit_code in (1, 2)
    assert told in result.stderr


def test_a_process_that_sends_nothing_does_not_load_what_draws() -> None:
    code = "import sys, pipeline.report; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
