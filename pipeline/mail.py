"""One e-mail, handed to a mail server: a text, perhaps the same as HTML, with the pictures that it shows.

What stands in the way is a MailError that says how to mend it. Nothing is kept here and nothing tried again: whoever sends decides that.
"""

import smtplib
import ssl
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from socket import gaierror
from typing import cast

from pipeline import mailbox
from pipeline.settings import Settings

TIMEOUT_S = 30
"""For each answer of the server."""
_LONGEST_ANSWER = 200
_QUOTED = "quoted-printable"  # the server may not take 8 bits, nor lines of any length


class MailError(Exception):
    """A mail that wasn't sent. Says why and how to mend it, in words that hold no secret."""


class Refused(MailError):
    """The fault lies in this mail or its recipients: others may go all the same.

    `is_final` is set where it will never be taken, however often it is tried.
    """

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


class NotAll(Refused):
    """The server took the mail, but not for every recipient: `refused` says what it said of the others."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        super().__init__(f"the mail server refuses {_listed(refused)}; the others have it", is_final=True)
        self.refused = refused


def send(
    settings: Settings,
    to: Sequence[str],
    subject: str,
    text: str,
    html: str | None = None,
    images: Mapping[str, bytes] = {},
    *,
    message_id: str | None = None,
) -> None:
    """Hand one mail to the mail server. Raises MailError.

    `images` are PNGs by their Content-ID (`trend@rollcall`), which `html` shows by `<img src="cid:trend@rollcall">`. Two
    mails with the same `message_id` (see new_id) are the same mail to those who receive them; without it each has its own.
    """
    if settings.smtp_host is None:
        raise MailError("no mail server is named: set SMTP_HOST and MAIL_FROM")
    message = _message(settings, to, subject, text, html, images, message_id)
    with _told(settings), _connected(settings, settings.smtp_host) as server:
        refused = server.send_message(message)
    if refused:
        raise NotAll({address: _answer(*said) for address, said in refused.items()})


def new_id(settings: Settings, name: str) -> str:
    """Return the Message-ID of the mail that a name stands for, the same each time; the name is letters, digits, - and dots."""
    return f"{name}@{mailbox.sender(settings.mail_from).domain}"


def check(settings: Settings) -> None:
    """Connect to the mail server and sign in, as for a mail, and send none. Raises MailError."""
    if settings.smtp_host is not None:
        with _told(settings), _connected(settings, settings.smtp_host) as server:
            server.noop()


def _message(
    settings: Settings,
    to: Sequence[str],
    subject: str,
    text: str,
    html: str | None,
    images: Mapping[str, bytes],
    message_id: str | None,
) -> EmailMessage:
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in subject):
        raise Refused("the subject holds a line break or another control character", is_final=True)
    if not to:
        raise Refused("nobody is named to send it to", is_final=True)
    try:
        recipients = [mailbox.checked(address) for address in to]
    except ValueError as exc:
        raise Refused(str(exc), is_final=True) from exc
    sender = mailbox.sender(settings.mail_from)
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = f"<{message_id}>" if message_id else make_msgid(domain=sender.domain)
    message["Auto-Submitted"] = "auto-generated"  # so that no absent person's mailbox answers (RFC 3834)
    message.set_content(text, cte=_QUOTED)
    if html is not None:
        message.add_alternative(html, subtype="html", cte=_QUOTED)
        shown = cast(EmailMessage, message.get_payload(1))
        for name, png in images.items():
            shown.add_related(
                png, "image", "png", cid=f"<{name}>", disposition="inline", filename=f"{name.partition('@')[0]}.png"
            )
        if images:
            shown.set_param("type", "text/html")  # which of the parts is the mail (RFC 2387)
    return message


@contextmanager
def _connected(settings: Settings, host: str) -> Iterator[smtplib.SMTP]:
    """Lend a connection, under TLS and signed in as the settings say."""
    if settings.smtp_tls == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            host, settings.mail_port, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        server = smtplib.SMTP(host, settings.mail_port, timeout=TIMEOUT_S)
    try:
        if settings.smtp_tls == "starttls":
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user and settings.smtp_password:
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        yield server
        with suppress(smtplib.SMTPException, OSError):  # it has the mail: how it says goodbye doesn't matter
            server.quit()
    finally:
        server.close()


@contextmanager
def _told(settings: Settings) -> Iterator[None]:
    """Turn whatever the connection raises into a MailError that names the server and the settings to look at."""
    server = f"the mail server {settings.smtp_host}:{settings.mail_port}"
    try:
        yield
    except smtplib.SMTPAuthenticationError as exc:
        # What it says may quote what was sent.
        raise MailError(f"{server} refuses SMTP_USER with SMTP_PASSWORD ({exc.smtp_code}): correct them") from None
    except smtplib.SMTPRecipientsRefused as exc:
        said = {address: _answer(*answer) for address, answer in exc.recipients.items()}
        is_final = all(answer[0] >= 500 for answer in exc.recipients.values())
        raise Refused(f"{server} refuses {_listed(said)}: correct the address", is_final=is_final) from exc
    except smtplib.SMTPSenderRefused as exc:
        said_so = _answer(exc.smtp_code, exc.smtp_error)
        raise MailError(f"{server} refuses the sender ({said_so}): correct MAIL_FROM, or sign in") from exc
    except smtplib.SMTPDataError as exc:
        said_so = _answer(exc.smtp_code, exc.smtp_error)
        raise Refused(f"{server} refuses the mail ({said_so})", is_final=exc.smtp_code >= 500) from exc
    except smtplib.SMTPNotSupportedError as exc:
        missing = "STARTTLS: set SMTP_TLS=tls or none" if "STARTTLS" in str(exc) else "to sign in: unset SMTP_USER"
        raise MailError(f"{server} doesn't offer {missing}, or name another") from exc
    except smtplib.SMTPServerDisconnected as exc:
        if isinstance(exc.__context__, TimeoutError):
            raise _silent(server) from exc
        raise MailError(f"{server} broke off: see whether SMTP_PORT and SMTP_TLS go together") from exc
    except smtplib.SMTPResponseException as exc:
        raise MailError(f"{server} answers {_answer(exc.smtp_code, exc.smtp_error)}") from exc
    except smtplib.SMTPException as exc:
        # Of `login`, where it knows none of the server's ways: its text holds no secret.
        raise MailError(f"{server} can't be signed in to: {exc}") from exc
    except ssl.SSLCertVerificationError as exc:
        why = f"{server} has a certificate that isn't trusted ({exc.verify_message})"
        raise MailError(f"{why}: correct SMTP_HOST, or name its authority in SSL_CERT_FILE") from exc
    except ssl.SSLError as exc:
        raise MailError(f"{server} doesn't speak TLS from the start: try SMTP_TLS=starttls") from exc
    except gaierror as exc:
        raise MailError(f"no address is known of {settings.smtp_host}: correct SMTP_HOST") from exc
    except TimeoutError as exc:
        raise _silent(server) from exc
    except OSError as exc:
        why = f"{server} can't be reached ({exc.strerror or type(exc).__name__})"
        raise MailError(f"{why}: start it, or correct SMTP_HOST and SMTP_PORT") from exc


def _silent(server: str) -> MailError:
    why = f"{server} doesn't answer within {TIMEOUT_S} s"
    return MailError(f"{why}: correct SMTP_HOST and SMTP_PORT, or let this machine through to it")


def _answer(code: int, text: bytes | str) -> str:
    """Return what a server said, as one short line."""
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    return " ".join(f"{code} {said}".split())[:_LONGEST_ANSWER]


def _listed(said: Mapping[str, str]) -> str:
    return "; ".join(f"{address} ({answer})" for address, answer in said.items())
