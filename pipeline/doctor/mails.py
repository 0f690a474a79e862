"""The mail server, and who gets reports."""

from collections.abc import Iterator

from db import overview
from db.engine import Connection
from pipeline import mail, naming
from pipeline.doctor.finding import Finding
from pipeline.mail import MailError
from pipeline.settings import Settings


def server(settings: Settings) -> Iterator[Finding]:
    """Look whether the mail server lets this process in; nothing is sent."""
    if settings.smtp_host is None:
        return
    try:
        mail.check(settings)
    except MailError as exc:
        yield Finding("fail", "mail server", str(exc), "until then e-mails wait")
        return
    yield Finding("ok", "mail server", f"{settings.smtp_host} takes mail")


def recipients(conn: Connection, settings: Settings) -> Iterator[Finding]:
    """Look whether each organisation that has recipients of its report has an account."""
    named = [org for org in settings.reported_organisations if org != "*"]
    known = overview.organisations(conn) if named else []
    for org in named:
        if org not in known:
            said = f"no account is of the organisation {org!r}.{naming.nearest(org, known)}"
            yield Finding("warn", "reports", said, "correct REPORT_RECIPIENTS, or the account list")
