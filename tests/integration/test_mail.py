"""E-mails through a real mail server, and what is said where it doesn't take one."""

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline import mail
from pipeline.doctor import mails
from pipeline.settings import Settings, SettingsError
from tests import fakes, smtp
from tests.nginx import make_certificate
from tests.smtp import MailServer
from tests.varnish import free_port

PNG = bytes.fromhex("89504e470d0a1a0a")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("mail"))


def settings(server: MailServer, **environ: str) -> Settings:
    return fakes.settings("postgresql:///nowhere", "redis://nowhere", **{**server.environ, **environ})


def test_a_mail_arrives_as_text_and_html_with_its_pictures(mail_server: MailServer) -> None:
    html = '<p>Größe: 7 → 9</p><img src="cid:trend" alt="rising">'

    mail.send(
        settings(mail_server),
        ["goose@example.org", "duck@example.org"],
        "Gänse: 9",
        "Größe: 7 → 9\n" + "x" * 2000,
        html,
        {"trend": PNG},
    )

    (received,) = mail_server.received
    message = received.message
    assert received.to == ("goose@example.org", "duck@example.org")
    assert received.sender == "rollcall@example.org"
    assert (message["From"], message["Subject"]) == ("Rollcall <rollcall@example.org>", "Gänse: 9")
    assert message["To"] == "goose@example.org, duck@example.org"
    assert message["Date"].datetime is not None
    assert message["Message-ID"].endswith("@example.org>")
    assert message["Auto-Submitted"] == "auto-generated"
    assert received.text.rstrip("\n") == "Größe: 7 → 9\n" + "x" * 2000
    assert received.html.rstrip("\n") == html
    assert received.images == {"trend": PNG}
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
    ]
    assert message.get_payload(1).get_param("type") == "text/html"
    assert received.raw.isascii() and max(map(len, received.raw.splitlines())) < 1000


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_the_password_goes_under_tls_to_a_server_whose_certificate_is_known(
    tls: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{smtp.PASSWORD}\n")
    with smtp.serving(certificate, tls_at_once=tls == "tls", asks_who=True) as server:
        configured = settings(
            server,
            SMTP_HOST="localhost",
            SMTP_TLS=tls,
            SMTP_USER="rollcall",
            SMTP_PASSWORD_FILE=str(tmp_path / "password"),
        )
        with pytest.raises(mail.MailError, match=r"isn't trusted.*SSL_CERT_FILE"):
            mail.send(configured, ["goose@example.org"], "Hello", "Hello")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        mail.send(configured, ["goose@example.org"], "Hello", "Hello")

    assert [(received.was_encrypted, received.user) for received in server.received] == [(True, "rollcall")]


def test_a_wrong_password_is_refused_without_being_told(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with smtp.serving(certificate, asks_who=True) as server:
        wrong = settings(
            server, SMTP_HOST="localhost", SMTP_TLS="starttls", SMTP_USER="rollcall", SMTP_PASSWORD="wrong-horse"
        )
        with pytest.raises(mail.MailError, match="refuses SMTP_USER with SMTP_PASSWORD") as raised:
            mail.send(wrong, ["goose@example.org"], "Hello", "Hello")

    assert not isinstance(raised.value, mail.Refused)
    assert "wrong-horse" not in f"{raised.value} {raised.value.__cause__!r}"


def test_a_password_is_never_sent_in_the_clear() -> None:
    with pytest.raises(SettingsError, match=r"SMTP_TLS: .*unencrypted") as raised:
        fakes.settings(
            "postgresql:///nowhere",
            "redis://nowhere",
            SMTP_HOST="mail.example.org",
            MAIL_FROM="rollcall@example.org",
            SMTP_USER="rollcall",
            SMTP_PASSWORD="wrong-horse",
            SMTP_TLS="none",
        )

    assert "wrong-horse" not in str(raised.value)


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"SMTP_HOST": "mail.example.org"}, r"SMTP_HOST: .*needs MAIL_FROM"),
        ({"SMTP_HOST": "mail.example.org:25/x", "MAIL_FROM": "a@example.org"}, r"SMTP_HOST: .*no name of a server"),
        ({"MAIL_FROM": "a@example.org\r\nBcc: b@example.org"}, r"MAIL_FROM: .*is no sender"),
        ({"MAIL_FROM": "Rollcall"}, r"MAIL_FROM: .*is no"),
        ({"SMTP_USER": "rollcall"}, r"SMTP_PASSWORD: .*set both, or neither"),
        ({"SMTP_USER": "rollcall", "SMTP_PASSWORD": "wröng-horse"}, r"SMTP_PASSWORD: .*SMTP can't carry"),
    ],
    ids=["no sender", "an address", "two headers", "no address", "no password", "letters"],
)
def test_settings_that_lead_nowhere_are_named(environ: Mapping[str, str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault) as raised:
        fakes.settings("postgresql:///nowhere", "redis://nowhere", **environ)

    assert "horse" not in str(raised.value)


def test_who_is_refused_is_named_and_the_others_have_the_mail(mail_server: MailServer) -> None:
    mail_server.refused["gone@example.org"] = "550 No such user"

    with pytest.raises(mail.NotAll, match=r"gone@example\.org \(550 No such user\)"):
        mail.send(settings(mail_server), ["gone@example.org", "goose@example.org"], "Hello", "Hello")

    assert [received.to for received in mail_server.received] == [("goose@example.org",)]


@pytest.mark.parametrize(("answer", "is_final"), [("550 No such user", True), ("450 Come back later", False)])
def test_a_refusal_says_whether_it_is_final(mail_server: MailServer, answer: str, is_final: bool) -> None:
    mail_server.refused["gone@example.org"] = answer

    with pytest.raises(mail.Refused, match=answer) as raised:
        mail.send(settings(mail_server), ["gone@example.org"], "Hello", "Hello")

    assert raised.value.is_final is is_final


@pytest.mark.parametrize(
    ("to", "subject"),
    [
        ("goose@example.org\r\nBcc: duck@example.org", "Hello"),
        ("goose@example.org, duck@example.org", "Hello"),
        ("goose@example.org", "Hello\r\nBcc: duck@example.org"),
        ("goose@example.org", "Hello\nBcc: duck@example.org"),
    ],
    ids=["address", "two addresses", "subject", "subject with a bare line feed"],
)
def test_headers_take_no_further_lines(mail_server: MailServer, to: str, subject: str) -> None:
    with pytest.raises(mail.MailError, match=r"no e-mail address|control character"):
        mail.send(settings(mail_server), [to], subject, "Hello")

    assert not mail_server.received


def test_it_is_said_where_no_mail_server_is() -> None:
    nowhere = MailServer()
    nowhere.port = free_port()
    named_nowhere = fakes.settings("postgresql:///nowhere", "redis://nowhere")

    with pytest.raises(mail.MailError, match=r"can't be reached .* SMTP_HOST and SMTP_PORT"):
        mail.send(settings(nowhere), ["goose@example.org"], "Hello", "Hello")
    with pytest.raises(mail.MailError, match="set SMTP_HOST and MAIL_FROM"):
        mail.send(named_nowhere, ["goose@example.org"], "Hello", "Hello")


def test_a_server_without_tls_gets_nothing(mail_server: MailServer) -> None:
    with pytest.raises(mail.MailError, match="doesn't offer STARTTLS"):
        mail.send(settings(mail_server, SMTP_TLS="starttls"), ["goose@example.org"], "Hello", "Hello")
    with pytest.raises(mail.MailError, match="doesn't speak TLS from the start"):
        mail.send(settings(mail_server, SMTP_TLS="tls"), ["goose@example.org"], "Hello", "Hello")

    assert not mail_server.received


def test_the_doctor_says_whether_the_mail_server_lets_us_in(mail_server: MailServer) -> None:
    nowhere = MailServer()
    nowhere.port = free_port()

    found = [*mails.server(settings(mail_server)), *mails.server(settings(nowhere))]

    assert [(finding.level, finding.what) for finding in found] == [("ok", "mail server"), ("fail", "mail server")]
    assert not mail_server.received
    assert list(mails.server(fakes.settings("postgresql:///nowhere", "redis://nowhere"))) == []


def test_a_server_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "TIMEOUT_S", 0.2)
    silent = MailServer()
    with socket.create_server((silent.host, 0)) as listener:
        silent.port = listener.getsockname()[1]
        with pytest.raises(mail.MailError, match="doesn't answer within"):
            mail.send(settings(silent), ["goose@example.org"], "Hello", "Hello")
