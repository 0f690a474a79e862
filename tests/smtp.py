"""A mail server for tests: it speaks SMTP on a port of its own, keeps what it was given and refuses what a test says."""

import asyncio
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import NamedTuple, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

PASSWORD = "correct horse"  # of the user `rollcall`, where signing in is asked for


class Received(NamedTuple):
    """One mail that was taken: for whom, as it came, and how the connection stood."""

    sender: str
    to: tuple[str, ...]
    raw: bytes
    was_encrypted: bool
    user: str | None

    @property
    def message(self) -> EmailMessage:
        return cast(EmailMessage, message_from_bytes(self.raw, policy=default))

    @property
    def text(self) -> str:
        """Return the plain text."""
        return self._part("plain")

    @property
    def html(self) -> str:
        return self._part("html")

    @property
    def images(self) -> dict[str, bytes]:
        """Return the pictures by their Content-ID."""
        parts = (part for part in self.message.walk() if part.get_content_type() == "image/png")
        return {part["Content-ID"].strip("<>"): part.get_payload(decode=True) for part in parts}

    def _part(self, kind: str) -> str:
        part = self.message.get_body((kind,))
        assert part is not None, f"no {kind} in {self.raw.decode()}"
        return str(part.get_content()).replace("\r\n", "\n")


class MailServer:
    """A running server. A test may change `refused` while it runs: what is said of an address instead of `250 OK`."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.port = 0
        self.received: list[Received] = []
        self.refused: dict[str, str] = {}
        self.refuses_data: str | None = None
        self.asked = 0
        """How many recipients have been named, refused ones too."""
        self.passwords: list[bytes] = []
        """What was said by who signed in, rightly or not."""

    @property
    def environ(self) -> Mapping[str, str]:
        """Return the settings that lead here without encryption."""
        return {
            "SMTP_HOST": self.host,
            "SMTP_PORT": str(self.port),
            "SMTP_TLS": "none",
            "MAIL_FROM": "Rollcall <rollcall@example.org>",
        }

    async def handle_RCPT(  # aiosmtpd's names, from here on
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        self.asked += 1
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refuses_data:
            return self.refuses_data
        self.received.append(
            Received(
                sender=str(envelope.mail_from),
                to=tuple(envelope.rcpt_tos),
                raw=cast(bytes, envelope.content),
                was_encrypted=server.transport.get_extra_info("sslcontext") is not None,
                user=session.auth_data.login.decode() if session.authenticated else None,
            )
        )
        return "250 OK"


@contextmanager
def serving(
    certificate: tuple[Path, Path] | None = None, *, tls_at_once: bool = False, asks_who: bool = False
) -> Iterator[MailServer]:
    """Yield a server that runs until the block ends.

    With a certificate and its key it offers STARTTLS, or with `tls_at_once` speaks nothing but TLS. `asks_who` takes
    mail only from who has signed in.
    """
    server = MailServer()
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)

    def knows(
        _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: LoginPassword
    ) -> AuthResult:
        server.passwords.append(data.password)
        is_right = data.login == b"rollcall" and data.password == PASSWORD.encode()
        return AuthResult(success=is_right, handled=False, auth_data=data)

    has_starttls = context is not None and not tls_at_once

    def protocol() -> SMTP:
        return SMTP(
            server,
            hostname="mail.example.org",
            tls_context=None if tls_at_once else context,
            require_starttls=has_starttls,
            authenticator=knows if asks_who else None,
            auth_required=asks_who and has_starttls,  # it doesn't see TLS that was there before it
            auth_require_tls=has_starttls,
            loop=loop,
        )

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    starting = loop.create_server(protocol, server.host, 0, ssl=context if tls_at_once else None)
    listener = asyncio.run_coroutine_threadsafe(starting, loop).result(60)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_close(listener), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(listener: asyncio.Server) -> None:
    listener.close()
    mine = asyncio.current_task()
    open_now = [task for task in asyncio.all_tasks() if task is not mine]
    for task in open_now:
        task.cancel()
    await asyncio.gather(*open_now, return_exceptions=True)
