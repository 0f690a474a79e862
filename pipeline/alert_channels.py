"""Where alerts are told: a webhook as Slack takes it, and e-mail. Whatever is in the way is said without secrets."""

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct
from pydantic import SecretStr
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError, NewConnectionError, TimeoutError

from pipeline import mail, proxy
from pipeline.settings import Settings

_TIMEOUT = Timeout(connect=5, total=15)
HOW_TO_SET = "set ALERT_WEBHOOK_URL, or ALERT_EMAIL_TO with SMTP_HOST and MAIL_FROM"


class Message(Struct, frozen=True):
    """What is told at once. `name` stands for it: told twice, as when a process dies in between, it's the same one."""

    name: str
    title: str
    lines: Sequence[str]


class NotTold(Exception):
    """A channel didn't take a message. Says why and how to mend it, in words that hold no secret."""


class PartlyTold(NotTold):
    """Some have it, and would get it again if it were tried again."""


class Channel(Protocol):
    """One way to people. `name` is kept in the database, `to` says where it leads without telling a secret."""

    name: str
    to: str

    def tell(self, message: Message) -> None:
        """Raises NotTold."""


class Webhook:
    """Posts `{"text": …}`. Source: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""

    name = "webhook"
    to = "ALERT_WEBHOOK_URL"

    def __init__(self, url: SecretStr, http: PoolManager) -> None:
        self._url = url
        self._http = http

    def tell(self, message: Message) -> None:
        body = msgspec.json.encode(
            {"text": _plain("\n".join([message.title, *(f"• {line}" for line in message.lines)]))}
        )
        try:
            answer = self._http.request(
                "POST",
                self._url.get_secret_value(),
                body=body,
                headers=dict(self._http.headers) | {"Content-Type": "application/json"},
                timeout=_TIMEOUT,
                retries=False,
                redirect=False,
            )
        # The errors' own texts quote the address, which is the secret.
        except NewConnectionError:
            raise NotTold(
                "the server of ALERT_WEBHOOK_URL can't be reached: correct it, or let this machine out"
            ) from None
        except TimeoutError:
            raise NotTold("the server of ALERT_WEBHOOK_URL doesn't answer in time") from None
        except HTTPError as exc:
            raise NotTold(f"the server of ALERT_WEBHOOK_URL can't be reached ({type(exc).__name__})") from None
        if answer.status in (401, 403, 404, 410):
            raise NotTold(f"ALERT_WEBHOOK_URL is refused ({answer.status}): make a new one there, and set it")
        if not 200 <= answer.status < 300:
            raise NotTold(f"the server of ALERT_WEBHOOK_URL answers {answer.status}")


class Email:
    """Sends plain text to everybody in ALERT_EMAIL_TO."""

    name = "email"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.to = ", ".join(settings.alert_recipients)

    def tell(self, message: Message) -> None:
        text = "\n\n".join([f"{message.title}:", *message.lines]) + "\n"
        own_id = mail.new_id(self._settings, message.name)
        try:
            mail.send(self._settings, self._settings.alert_recipients, message.title, text, message_id=own_id)
        except mail.NotAll as exc:
            raise PartlyTold(str(exc)) from exc
        except mail.MailError as exc:
            raise NotTold(str(exc)) from exc


def configured(settings: Settings) -> Sequence[Channel]:
    """Return every channel that the settings name. Connections open on first use."""
    channels: list[Channel] = []
    if (url := settings.alert_webhook_url) is not None:
        channels.append(
            Webhook(url, proxy.pool(settings, url.get_secret_value(), {"User-Agent": settings.user_agent}))
        )
    if settings.alert_recipients:
        channels.append(Email(settings))
    return channels


def _plain(text: str) -> str:
    """Write text so that nothing in it is a command to Slack (`<!channel>`), or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
