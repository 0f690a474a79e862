"""One typed, frozen object from the environment (and a `.env` file). Nothing else reads the environment.

Every field is the setting's name in lower case: `db_pool_size` is `DB_POOL_SIZE`. What platforms bring of their own
(credentials, `X_BASE_URL`, `RATE_LIMIT_X_PROFILES`, `READ_INTERVAL_S_X`) is gathered in `platforms`, by the names they declare.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from msgspec import Struct
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from redis import Redis

from db.partitions import WIDTHS
from db.standing import StaleAfter
from pipeline import mailbox, platforms
from pipeline.limits import Rate
from pipeline.platforms import Platform
from pipeline.records import Doubt, Kind, Source
from pipeline.weeks import Weekday

# Where `./dev run` writes the addresses of the servers that it started, for commands in another terminal.
EMBEDDED_ENV = ".rollcall/env"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """One message that names every setting that is missing or wrong, and how to mend it."""


class Credentials(Struct, frozen=True):
    """One set of a platform's credentials, by their names in the environment. The label is no secret."""

    label: str
    values: Mapping[str, SecretStr]


class Settings(BaseSettings):
    """The whole configuration of a process. Times end in `_s` (seconds)."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: SecretStr = Field(description="PostgreSQL, as postgresql://user:password@host/name")
    database_read_replica_url: SecretStr | None = Field(None, description="a replica for the API's reads")
    enable_read_replica: bool = Field(
        False, description="send the API's reads to the replica while it follows the primary"
    )
    replica_max_lag_s: float = Field(10, gt=0, description="a replica further behind is left until it has caught up")
    db_pool_size: int = Field(
        5, ge=1, description="connections kept open per process; by the API as many as READ_THREADS, if that is more"
    )
    db_max_overflow: int = Field(10, ge=0, description="connections opened beyond the pool under load")
    db_pool_timeout: float = Field(30, gt=0, description="seconds to wait for a connection")
    db_pool_recycle: int = Field(3600, description="seconds after which a connection is replaced")
    db_read_timeout_s: float = Field(
        15, gt=0, description="the server ends a statement of the API or the notifier that takes longer"
    )
    db_write_timeout_s: float = Field(
        600, gt=0, description="and one of a worker or the recorder that does; commands may take any time"
    )
    db_idle_timeout_s: float = Field(
        60, gt=0, description="and a transaction whose process says nothing for so long, commands excepted"
    )
    db_api_role: str = Field("rollcall_api", description="the API's role in PostgreSQL, for `rollcall db roles`")
    db_workers_role: str = Field("rollcall_workers", description="that of workers, beat, recorder and notifier")
    db_profile: bool = Field(False, description="count what the API's statements cost, for `rollcall db profile`")
    db_slow_ms: float = Field(
        200, gt=0, description="milliseconds from which a counted statement is slow, and logged"
    )
    redis_url: SecretStr = Field(description="Redis, as redis://host:6379/0 or unix:///path?db=0")
    broker_url: SecretStr | None = Field(None, description="the message broker, where it is not REDIS_URL")

    simulator_url: str | None = Field(None, description="read every platform from this simulator; rows say so")
    read_interval_s: int = Field(86_400, gt=0, description="seconds between two readings of an account")
    posts_interval_s: int = Field(86_400, gt=0, description="seconds between two readings of its posts")
    read_at: str = Field("", description="time of the day (UTC) at which all are read, as 06:00; else spread over it")
    stale_after_s: int | None = Field(
        None, gt=0, description="an account not read for longer is stale; not set: 13/12 of the interval"
    )
    posts_pages: int = Field(1, ge=1, description="most pages of posts read per account and reading")
    engagement_days: int = Field(30, ge=1, description="engagement counts posts of this many days")

    partition_months: int = Field(12, description="months of snapshots a partition holds: 1, 2, 3, 4, 6 or 12")
    retention_months: int | None = Field(None, ge=2, description="whole months that snapshots are kept; all without")
    retention_action: Literal["detach", "drop"] = Field(
        "detach", description="what becomes of older ones: detach (they stay in tables of their own) or drop"
    )

    job_lease_s: float = Field(120, gt=0, description="a job not finished after this is given out again")
    job_max_attempts: int = Field(5, ge=1, description="a job begun this often without an end has failed")
    job_retention_days: int = Field(30, ge=1, description="finished jobs are kept this long")
    metrics_retention_days: int = Field(
        30, ge=2, description="minutes and hours of metrics are kept this long; sums since the first day for good"
    )
    backoff_base_s: float = Field(60, gt=0, description="first wait after a failure; doubles each time")
    backoff_cap_s: float = Field(21_600, gt=0, description="longest wait between retries")
    gone_recheck_s: float = Field(86_400, gt=0, description="first wait before a gone account is looked for again")
    blocked_recheck_s: float = Field(3_600, gt=0, description="wait before a refused credential is tried again")
    held_drop_pct: int = Field(50, ge=1, le=100, description="a reading with so many percent fewer followers is held")
    held_rise_pct: int = Field(300, ge=1, description="so is one with so many percent more in a day")
    held_min_followers: int = Field(
        1_000, ge=1, description="least followers, before or after, for a reading to be held"
    )
    held_recheck_s: float = Field(3_600, gt=0, description="longest wait before a held reading gets its second one")
    plan_ahead_s: float = Field(5, gt=0, description="seconds of a platform's allowance kept queued")
    worker_concurrency: int = Field(
        4, ge=1, description="planned calls one worker process makes at a time; as many more are for people"
    )
    http_deadline_s: float = Field(30, gt=0, description="total time one call may take")
    watchdog_s: float = Field(60, gt=0, description="`./dev run` replaces a process without progress for so long")
    http_contact: str = Field("", description="URL or e-mail by which platforms reach whoever runs this")
    https_proxy: SecretStr | None = Field(None, description="proxy to the platforms, as http://host:3128")
    no_proxy: str = Field("", description="hosts reached without it, comma-separated; each with all below it")
    http_allow_private_hosts: bool = Field(False, description="read Mastodon servers at private addresses too")

    bind: str = Field("127.0.0.1", description="address that the API and Flower listen on")
    port: int = Field(8000, ge=0, le=65535, description="port of the API and the dashboard")
    web_concurrency: int = Field(2, ge=1, description="API processes")
    read_threads: int = Field(8, ge=1, description="database reads at a time in one API process")
    api_require_key: bool = Field(False, description="close reading to callers without a key")
    sign_in_s: int = Field(43_200, ge=60, description="seconds after which a signed-in browser must sign in again")
    api_rate_limit: str = Field("", description="requests that an address may make, as 600/1m; any number without")
    api_rate_limit_key: str = Field("", description="requests that a key may make, wherever from; any number without")
    api_timeout_s: float = Field(30, gt=0, description="a request that isn't answered after this gets a 503")
    api_body_timeout_s: float = Field(10, gt=0, description="a body that hasn't come after this gets a 408")
    trusted_proxies: str = Field(
        "",
        description="addresses or networks of proxies whose X-Forwarded-For and -Proto are believed, comma-separated",
    )
    cors_origins: str = Field("", description="origins allowed to read the API from a browser, comma-separated")
    embed_origins: str = Field(
        "", description="origins whose pages may show a chart of /embed in a frame, comma-separated, or *; else none"
    )
    static_url: str = Field("", description="where a CDN serves /static, as https://cdn.example; else the API itself")
    cache_entries: int = Field(1000, ge=1, description="answers kept in the memory of one API process")
    cache_memory_s: float = Field(60, gt=0, description="longest time an answer stays in memory")
    cdn_varnish_urls: str = Field(
        "",
        description="Varnish servers before the API, as http://host:6081, comma-separated; each is told what changed",
    )
    fastly_api_token: SecretStr | None = Field(None, description="token of Fastly, with the scope purge_select")
    cdn_fastly_service_id: str | None = Field(
        None, description="service of Fastly before the API, told in the same way"
    )
    cdn_fastly_url: str = Field("https://api.fastly.com", description="where Fastly's API is")

    live_streams: int = Field(
        100, ge=0, description="pages that one API process tells of changes while accounts are read; 0 for none"
    )
    live_stream_s: float = Field(300, gt=0, description="a page is told for so long, and then asks again")
    export_threads: int = Field(2, ge=1, description="exports that one API process reads at a time")
    export_open: int = Field(
        20, ge=1, description="exports of one API process that are being read or whose client is not yet done"
    )
    export_snapshot_s: float = Field(
        300, gt=0, description="an export that takes longer to read from the database is broken off"
    )
    export_stall_s: float = Field(
        120, gt=0, description="an export whose client takes nothing for so long is broken off"
    )
    export_folder: str = Field("/var/tmp", description="where exports wait for their clients: on a disk")  # noqa: S108
    export_keep_free_mb: int = Field(500, ge=0, description="megabytes there that exports leave free")

    mail_from: str = Field("", description="who e-mails are from, as Rollcall <rollcall@example.org>")
    smtp_host: str | None = Field(None, description="mail server that takes e-mails; none are sent without")
    smtp_port: int | None = Field(
        None, ge=1, le=65535, description="its port; not set: 587, with SMTP_TLS=tls 465, with none 25"
    )
    smtp_user: str | None = Field(
        None, pattern="^[ -~]+$", description="user to sign in there with, where it asks for one"
    )
    smtp_password: SecretStr | None = Field(None, description="password of that user")
    smtp_tls: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="starttls, tls (from the start), or none: then a password goes to this machine only"
    )

    report_email_to: str = Field(
        "", description="addresses that get the weekly report on all organisations, comma-separated"
    )
    report_recipients: str = Field(
        "",
        description="who gets that on one organisation, as Geese=ann@example.org,bo@example.org;Ducks=cy@example.org; * is each of them",
    )
    report_weekday: Weekday = Field("monday", description="day of the week on which reports are sent")
    report_hour: int = Field(7, ge=0, le=23, description="hour of that day (UTC) from which they are sent")
    alert_webhook_url: SecretStr | None = Field(
        None, description="where alerts are posted, as Slack, Mattermost and others take them"
    )
    alert_email_to: str = Field("", description="whom alerts are e-mailed to, comma-separated")
    alert_interval_s: float = Field(60, gt=0, description="seconds between two looks for what is worth an alert")
    alert_remind_s: float = Field(86_400, gt=0, description="an alert that goes on is told again after so long")
    alert_drop_pct: float = Field(
        10, gt=0, le=100, description="an account that loses so many percent of its followers in a day is an alert"
    )
    alert_spike_pct: float = Field(50, gt=0, description="an account that gains so many percent in a day is an alert")
    alert_min_followers: int = Field(1_000, ge=1, description="least followers, before or after, for either")
    alert_stale_s: float = Field(
        21_600, ge=0, description="accounts are an alert once they have been stale (STALE_AFTER_S) for so long"
    )
    alert_failures: int = Field(3, ge=1, description="accounts are an alert once so many attempts in a row failed")
    alert_min_accounts: int = Field(1, ge=1, description="least such accounts of one platform for an alert")
    token_expiry: str = Field(
        "", description="when tokens end, as THREADS_ACCESS_TOKEN=2027-01-30, comma-separated: no platform says it"
    )
    alert_token_days: int = Field(14, ge=0, description="a token that ends within so many days is an alert")
    alert_quota_pct: float = Field(
        90, gt=0, le=100, description="a day's quota of which so many percent are used is an alert"
    )
    alert_budget_usd: float | None = Field(
        None, ge=0, description="a list whose reading costs more US dollars a day is an alert"
    )

    flower_port: int = Field(5555, ge=0, le=65535, description="port of Flower")
    flower_basic_auth: SecretStr | None = Field(None, description="user:password of Flower; it stays closed without")
    log_format: str = Field("console", pattern="^(console|json)$", description="console or json")
    log_requests: Literal["all", "slow", "none"] = Field(
        "all", description="requests that get a line: all, slow (a second or more, or answered 5xx) or none"
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level logged")
    otel_exporter_otlp_endpoint: str = Field(
        "", description="OpenTelemetry collector that traces go to, as http://host:4318; there are none without"
    )
    otel_exporter_otlp_headers: SecretStr | None = Field(
        None, description="headers it wants to see, as authorization=Bearer%20token, comma-separated"
    )

    platforms: Mapping[str, SecretStr] = Field({}, exclude=True, description="what platforms declare")
    secret_files: tuple[Path, ...] = Field((), exclude=True, description="the files that secrets were read from")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load_settings` gathers the environment: one place, testable

    @field_validator("database_url", "database_read_replica_url")
    @classmethod
    def _psycopg2(cls, value: SecretStr | None) -> SecretStr | None:
        """Read a bare `postgresql://` as psycopg2: SQLAlchemy 2.1 takes it for psycopg 3."""
        if value is None:
            return None
        scheme, _, rest = value.get_secret_value().partition("://")
        if scheme not in ("postgres", "postgresql", "postgresql+psycopg2"):
            raise ValueError("is not a PostgreSQL address (postgresql://user:password@host/name)")
        return SecretStr(f"postgresql+psycopg2://{rest}")

    @field_validator("enable_read_replica")
    @classmethod
    def _has_replica(cls, value: bool, info: ValidationInfo) -> bool:
        # A faulty address is said by itself, and not among the data.
        if value and "database_read_replica_url" in info.data and info.data["database_read_replica_url"] is None:
            raise ValueError("needs DATABASE_READ_REPLICA_URL")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        try:
            Redis.from_url(value.get_secret_value()).close()
        except ValueError:  # its text may quote the address, password and all
            raise ValueError("is not a Redis address (redis://host:6379/0 or unix:///path?db=0)") from None
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: SecretStr | None) -> SecretStr | None:
        known = ("redis", "rediss", "unix", "redis+socket", "amqp", "amqps")
        if value is not None and value.get_secret_value().partition("://")[0] not in known:
            raise ValueError("is no address of a broker (redis://host:6379/0 or amqp://user:password@host//)")
        return value

    @field_validator("read_at")
    @classmethod
    def _time_of_day(cls, value: str) -> str:
        if not re.fullmatch(r"(([01]\d|2[0-3]):[0-5]\d)?", value):
            raise ValueError("is no time of the day (06:00)")
        return value

    @field_validator("api_rate_limit", "api_rate_limit_key")
    @classmethod
    def _rate(cls, value: str) -> str:
        if value:
            Rate.parse(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for name in _listed(value):
            try:
                ipaddress.ip_network(name)
            except ValueError:
                raise ValueError(f"{name!r} is no address and no network (10.0.0.7, 10.0.0.0/8)") from None
        return value

    @field_validator("cors_origins", "embed_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for origin in _listed(value):
            if not re.fullmatch(r"\*|https?://[\w.\-\[\]:]+", origin, re.ASCII):
                raise ValueError(f"{origin!r} is no origin (https://example.org, without a path) and not *")
        return value

    @field_validator("partition_months")
    @classmethod
    def _width(cls, value: int) -> int:
        if value not in WIDTHS:
            raise ValueError(f"is not one of {', '.join(map(str, WIDTHS))}: partitions make whole years")
        return value

    @field_validator("http_contact")
    @classmethod
    def _contact(cls, value: str) -> str:
        if not re.fullmatch(r"[!-'*-~]*", value):  # it stands between parentheses in a header
            raise ValueError("is not a URL or an e-mail address")
        return value

    @field_validator("https_proxy")
    @classmethod
    def _proxy(cls, value: SecretStr | None) -> SecretStr | None:
        """Read a bare `host:3128` as curl does."""
        if value is None:
            return None
        written = value.get_secret_value()
        url = written if "://" in written else f"http://{written}"
        if not _is_server(url):
            raise ValueError("is not a proxy's address (http://host:3128)")
        return SecretStr(url)

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _collector(cls, value: str) -> str:
        if value and not (_is_server(value) and re.fullmatch(r"https?://[^@?#\s]+", value)):
            raise ValueError("is no address of a collector (http://host:4318)")
        try:
            for package in ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-common") if value else ():
                version(package)
        except PackageNotFoundError as exc:
            raise ValueError(f"needs {exc.name}, which isn't installed: pip install 'rollcall[tracing]'") from exc
        return value

    @field_validator("otel_exporter_otlp_headers")
    @classmethod
    def _headers(cls, value: SecretStr | None) -> SecretStr | None:
        # As they are sent: the error of a header that can't be would show it.
        pairs = map(unquote, _listed(value.get_secret_value())) if value else ()
        if not all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+=[ -~]*", pair) for pair in pairs):
            raise ValueError("is no list of headers (name=value,name=value)")
        return value

    @field_validator("cdn_varnish_urls", "cdn_fastly_url")
    @classmethod
    def _addresses(cls, value: str, info: ValidationInfo) -> str:
        urls = _listed(value) if info.field_name == "cdn_varnish_urls" else [value]
        if not all(_is_server(url) and re.fullmatch(r"https?://[^/@?#]+/?", url) for url in urls):
            raise ValueError("is no address of a server (http://host:6081)")
        return value

    @field_validator("fastly_api_token")
    @classmethod
    def _header_text(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("holds characters that a header can't carry")
        return value

    @field_validator("cdn_fastly_service_id")
    @classmethod
    def _has_token(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9]+", value):
            raise ValueError("is no id of a service (letters and digits)")
        # A faulty token is said by itself, and not among the data.
        if value is not None and "fastly_api_token" in info.data and info.data["fastly_api_token"] is None:
            raise ValueError("needs FASTLY_API_TOKEN")
        return value

    @field_validator("mail_from")
    @classmethod
    def _sender(cls, value: str) -> str:
        if value:
            mailbox.sender(value)
        return value

    @field_validator("smtp_host")
    @classmethod
    def _mail_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9.:_-]+", value, re.ASCII):
            raise ValueError("is no name of a server (mail.example.org)")
        # A faulty sender is said by itself, and not among the data.
        if value is not None and info.data.get("mail_from") == "":
            raise ValueError("needs MAIL_FROM")
        return value

    @field_validator("smtp_password")
    @classmethod
    def _has_user(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if (value is None) != (info.data.get("smtp_user") is None):
            raise ValueError("goes together with SMTP_USER: set both, or neither")
        if value is not None and not re.fullmatch(r"[ -~]+", value.get_secret_value()):
            raise ValueError("holds characters that SMTP can't carry")
        return value

    @field_validator("smtp_tls")
    @classmethod
    def _hides_password(cls, value: str, info: ValidationInfo) -> str:
        """Refuse what would show the password to the network."""
        host = info.data.get("smtp_host")
        if value == "none" and info.data.get("smtp_password") and host and not _is_loopback(host):
            raise ValueError("none would send SMTP_PASSWORD over the network unencrypted: set starttls or tls")
        return value

    @field_validator("report_weekday", mode="before")
    @classmethod
    def _weekday(cls, value: str) -> str:
        return value.lower()

    @field_validator("report_email_to", "alert_email_to")
    @classmethod
    def _mailboxes(cls, value: str, info: ValidationInfo) -> str:
        for address in _listed(value):
            mailbox.checked(address)
        return _needs_mail_server(value, info)

    @field_validator("report_recipients")
    @classmethod
    def _by_organisation(cls, value: str, info: ValidationInfo) -> str:
        for org, addresses in _by_name(value):
            if not org or not addresses:
                raise ValueError("is no list like Geese=ann@example.org,bo@example.org;Ducks=cy@example.org")
            for address in addresses:
                mailbox.checked(address)
        return _needs_mail_server(value, info)

    @field_validator("alert_webhook_url")
    @classmethod
    def _webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_server(value.get_secret_value()):
            raise ValueError("is no address (https://hooks.example.org/…)")
        return value

    @field_validator("token_expiry")
    @classmethod
    def _expiry(cls, value: str) -> str:
        for name, day in _pairs(value):
            if not (name in _of_credentials() or _is_further(name)):
                raise ValueError(f"{name!r} is no credential of a platform: `rollcall platforms` names them")
            try:
                date.fromisoformat(day)
            except ValueError:
                raise ValueError(f"{day!r} is no day (2027-01-30)") from None
        return value

    @property
    def mail_port(self) -> int:
        """Return the port of the mail server."""
        return self.smtp_port or {"starttls": 587, "tls": 465, "none": 25}[self.smtp_tls]

    @property
    def reported_to(self) -> Sequence[str]:
        """Return the addresses that get the report on all organisations."""
        return _listed(self.report_email_to)

    def reported_to_about(self, org: str) -> Sequence[str]:
        """Return the addresses that get the report on this organisation."""
        return tuple(
            dict.fromkeys(a for name, found in _by_name(self.report_recipients) if name in (org, "*") for a in found)
        )

    @property
    def reported_organisations(self) -> Sequence[str]:
        """Return the organisations that have recipients of their own; `*` stands for each that there is."""
        return tuple(dict.fromkeys(org for org, _ in _by_name(self.report_recipients)))

    @property
    def otlp_headers(self) -> Mapping[str, str]:
        given = self.otel_exporter_otlp_headers
        pairs = [pair.partition("=") for pair in _listed(given.get_secret_value())] if given else []
        return {name: unquote(value) for name, _, value in pairs}

    @property
    def alert_recipients(self) -> Sequence[str]:
        return _listed(self.alert_email_to)

    @property
    def tokens_end(self) -> Mapping[str, date]:
        """Return when the tokens end whose end is known and that are set, by their names."""
        return {name: date.fromisoformat(day) for name, day in _pairs(self.token_expiry) if name in self.platforms}

    @property
    def varnish_urls(self) -> Sequence[str]:
        return _listed(self.cdn_varnish_urls)

    @property
    def has_cdn(self) -> bool:
        """Tell whether something keeps answers that is told of purges."""
        return bool(self.varnish_urls) or self.cdn_fastly_service_id is not None

    @property
    def source(self) -> Source:
        """Return what every row written by this process says of its origin."""
        return "simulated" if self.simulator_url else "live"

    @property
    def doubt(self) -> Doubt:
        """Return when a reading is held, and how soon its account is read again."""
        return Doubt(
            drop_pct=self.held_drop_pct,
            rise_pct=self.held_rise_pct,
            min_followers=self.held_min_followers,
            recheck_s=self.held_recheck_s,
        )

    @property
    def proxies(self) -> tuple[Network, ...]:
        """Return the networks of trusted proxies."""
        return tuple(ipaddress.ip_network(name) for name in _listed(self.trusted_proxies))

    @property
    def origins(self) -> tuple[str, ...]:
        """Return the origins whose pages may read the API."""
        return tuple(_listed(self.cors_origins))

    @property
    def framed_by(self) -> str:
        """Return whose pages may frame a chart, as a Content-Security-Policy has it."""
        return " ".join(("'self'", *_listed(self.embed_origins)))

    @property
    def stop_s(self) -> float:
        """Return how long a worker may take to stop: the calls under way, and writing what they bring."""
        return self.http_deadline_s + 5

    @property
    def broker(self) -> str:
        """Return the broker's address in kombu's spelling. Its certificate is checked, unless the address says otherwise."""
        url = (self.broker_url or self.redis_url).get_secret_value()
        if url.startswith("rediss://") and "ssl_cert_reqs=" not in url:  # kombu would take any certificate
            return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"
        path, _, query = url.removeprefix("unix://").partition("?")
        if not url.startswith("unix://"):
            return url
        return f"redis+socket://{path}" + (f"?{query.replace('db=', 'virtual_host=')}" if query else "")

    @property
    def user_agent(self) -> str:
        """Return how Rollcall names itself to platforms."""
        return f"rollcall/{version('rollcall')}" + (f" (+{self.http_contact})" if self.http_contact else "")

    def is_public_only(self, platform: Platform) -> bool:
        """Tell whether a platform's servers are named by anybody, so that none may be one of ours."""
        own_address = self.base_url(platform) == platform.base_url
        return own_address and "{host}" in platform.base_url and not self.http_allow_private_hosts

    def base_url(self, platform: Platform) -> str:
        """Return where a platform is read: the simulator, its `X_BASE_URL`, or its own address."""
        if self.simulator_url:
            suffix = "/{host}" if "{host}" in platform.base_url else ""
            return f"{self.simulator_url.rstrip('/')}/{platform.name}{suffix}"
        own = self.platforms.get(f"{platform.name.upper()}_BASE_URL")
        return (own.get_secret_value() if own else platform.base_url).rstrip("/")

    def rate(self, platform: Platform, kind: Kind) -> Rate:
        """Return the limit of a kind of call: its setting, or what the platform publishes."""
        own = self.platforms.get(f"RATE_LIMIT_{platform.name.upper()}_{kind.upper()}")
        return Rate.parse(own.get_secret_value() if own else platform.calls[kind].limit)

    def interval_s(self, platform: Platform, kind: Kind) -> int:
        """Return the seconds between two readings of an account, or of its posts, that has no interval of its own."""
        if kind == "posts":
            return self._of_platform("POSTS_INTERVAL_S", platform.name) or self.posts_interval_s
        return self._of_platform("READ_INTERVAL_S", platform.name) or self.read_interval_s

    @property
    def read_at_s(self) -> int | None:
        """Return the second of the UTC day at which everything is read, None where readings are spread."""
        hours, _, minutes = self.read_at.partition(":")
        return int(hours) * 3600 + int(minutes) * 60 if minutes else None

    @property
    def stale_after(self) -> StaleAfter:
        """Return how old an account's numbers may grow."""
        intervals = {name: self._of_platform("READ_INTERVAL_S", name) for name in platforms.load()}
        return StaleAfter(
            interval_s=self.read_interval_s,
            intervals_s={name: interval_s for name, interval_s in intervals.items() if interval_s},
            after_s=self.stale_after_s or self.read_interval_s * 13 / 12,
        )

    def _of_platform(self, name: str, platform: str) -> int | None:
        own = self.platforms.get(f"{name}_{platform.upper()}")
        return int(own.get_secret_value()) if own else None

    def credentials(self, platform: Platform) -> tuple[Credentials, ...]:
        """Return the sets of credentials that share a platform's work, each with an allowance of its own.

        The first has the names that the platform declares, further ones the same with `_2`, `_3` and so on; what only
        helps is taken from the first where a set hasn't its own. Empty when the platform can't be read. A platform
        that needs none has one set. The simulator takes anything, so there nothing is lacking and nothing is sent.
        """
        if self.simulator_url:
            return (Credentials("1", dict.fromkeys(platform.needs, SecretStr("simulated"))),)
        if self.lacks(platform):
            return ()
        sets = [Credentials("1", self._named(platform, ""))]
        while further := self._named(platform, f"_{len(sets) + 1}"):
            helping = {name: sets[0].values[name] for name in platform.uses if name in sets[0].values}
            sets.append(Credentials(str(len(sets) + 1), helping | further))
        return tuple(sets)

    def lacks(self, platform: Platform) -> tuple[str, ...]:
        """Return the names of the credentials that a platform needs and that are not set."""
        if self.simulator_url or any(name in self.platforms for name in platform.instead):
            return ()
        return tuple(name for name in platform.needs if name not in self.platforms)

    def names_of(self, platform: Platform, label: str) -> tuple[str, ...]:
        """Return the names by which the credentials with this label are set; none are under the simulator."""
        suffix = "" if label == "1" else f"_{label}"
        names = (*platform.needs, *platform.instead, *platform.uses)
        return tuple(name + suffix for name in names if name + suffix in self.platforms)

    def _named(self, platform: Platform, suffix: str) -> dict[str, SecretStr]:
        """Return the platform's credentials whose names have this suffix, by their names without it."""
        names = (*platform.needs, *platform.instead, *platform.uses)
        return {name: self.platforms[name + suffix] for name in names if name + suffix in self.platforms}


def _is_server(url: str) -> bool:
    """Tell whether this is an address of http or https."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text may quote the address, password and all
        return False


def _is_loopback(host: str) -> bool:
    """Tell whether what goes to this server stays on the machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _needs_mail_server(value: str, info: ValidationInfo) -> str:
    # A faulty server is said by itself, and not among the data.
    if value and "smtp_host" in info.data and info.data["smtp_host"] is None:
        raise ValueError("needs SMTP_HOST and MAIL_FROM")
    return value


def _by_name(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what is before and behind the `=` of each part between semicolons."""
    for part in filter(None, map(str.strip, text.split(";"))):
        name, _, values = part.rpartition("=")
        yield name.strip(), _listed(values)


def _pairs(text: str) -> Sequence[tuple[str, str]]:
    """Return what stands between commas as `NAME=value`."""
    parted = (part.partition("=") for part in _listed(text))
    return [(name.strip(), value.strip()) for name, _, value in parted]


def _listed(text: str) -> Sequence[str]:
    """Return what stands between commas, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def load_settings(
    environ: Mapping[str, str] | None = None,
    env_files: Sequence[Path] = (Path(EMBEDDED_ENV), Path(".env")),
    *,
    fallback: Mapping[str, str] = {},
) -> Settings:
    """Return the settings of this process. The environment outranks the files, a later file an earlier one.

    A secret may stand in a file of its own, which `NAME_FILE` names. `fallback` holds what is taken where nothing is set.
    Raises SettingsError with every fault at once.
    """
    faults: list[str] = []
    secret_files: dict[str, Path] = {}
    found: dict[str, str] = {}
    for file in env_files:
        found |= with_secrets({n: v for n, v in dotenv_values(file).items() if v}, secret_files, faults)
    found |= with_secrets(os.environ if environ is None else environ, secret_files, faults)
    # Other programs read these in lower case.
    found = {name.upper(): found[name] for name in ("https_proxy", "no_proxy") if name in found} | found
    found |= {name: value for name, value in fallback.items() if not found.get(name)}
    declared = _declared() | {name for name in found if _is_further(name)}
    faults += _incomplete_sets(found)
    faults += _of_families(found, declared)
    values: dict[str, object] = {n: found[n.upper()] for n in Settings.model_fields if found.get(n.upper())}
    values["secret_files"] = tuple(secret_files.values())
    values["platforms"] = {name: found[name] for name in declared & found.keys() if found[name]}
    try:
        settings = Settings(**values)  # type: ignore[arg-type]  # pydantic converts and validates
    except ValidationError as exc:
        # Never the input: a wrong DATABASE_URL holds a password.
        faults += [f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in exc.errors(include_input=False)]
    if faults:
        raise SettingsError("Settings are missing or wrong:\n  " + "\n  ".join(sorted(faults)))
    return settings


def with_secrets(given: Mapping[str, str], files: dict[str, Path], faults: list[str]) -> dict[str, str]:
    """Return settings as they are given in one place, each `NAME_FILE` of a secret replaced by what that file holds.

    Adds the files to `files` by setting, and what is wrong with them to `faults`.
    """
    found = dict(given)
    for name, path in given.items():
        secret = name.removesuffix("_FILE")
        if secret == name or not path or not is_secret(secret):
            continue
        if given.get(secret):
            faults.append(f"{secret}: set beside {name}; which of the two counts is not clear")
            continue
        try:
            found[secret] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "is no text"
            faults.append(f"{name}: {path}: {why}")
            continue
        files[secret] = Path(path)
        if not found[secret]:
            faults.append(f"{name}: {path} holds nothing")
    return found


def is_secret(name: str) -> bool:
    """Tell whether a setting may be read from a file: those whose values are never shown."""
    field = Settings.model_fields.get(name.lower())
    if field is not None:
        return field.annotation in (SecretStr, SecretStr | None)
    return name in _of_credentials() or _is_further(name)


def _declared() -> set[str]:
    """Return every environment name that registered platforms bring."""
    names = _of_credentials()
    for platform in platforms.load().values():
        upper = platform.name.upper()
        names.add(f"{upper}_BASE_URL")
        names |= {f"RATE_LIMIT_{upper}_{kind.upper()}" for kind in platform.calls}
        names |= {f"READ_INTERVAL_S_{upper}"} if platform.calls else set()
        names |= {f"POSTS_INTERVAL_S_{upper}"} if "posts" in platform.calls else set()
    return names


def _is_further(name: str) -> bool:
    """Tell whether a name is that of a credential with a number behind it."""
    base, _, number = name.rpartition("_")
    return number.isdecimal() and int(number) > 1 and base in _of_credentials()


def _incomplete_sets(found: Mapping[str, str]) -> list[str]:
    """Name what keeps a further set of credentials from being one: half a set would fail on every call."""
    faults = []
    for platform in platforms.load().values():
        numbers = {
            int(name.rpartition("_")[2])
            for name in found
            if _is_further(name) and found[name] and name.rpartition("_")[0] in (*platform.needs, *platform.instead)
        }
        for number in sorted(numbers):
            missing = [f"{name}_{number}" for name in platform.needs if not found.get(f"{name}_{number}")]
            alone = any(found.get(f"{name}_{number}") for name in platform.instead)
            if missing and not alone:
                faults.append(f"{', '.join(missing)}: missing beside the others of that number")
            if number > 2 and number - 1 not in numbers:
                faults.append(f"credentials of {platform.title} go from _{number} without _{number - 1}")
    return faults


def _of_credentials() -> set[str]:
    return {n for p in platforms.load().values() for n in (*p.needs, *p.instead, *p.uses)}


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise ValueError(f"{text!r} is no number of seconds")
    return int(text)


# What begins so has a platform's name behind it, and is read so.
_FAMILIES: Mapping[str, Callable[[str], object]] = {
    "RATE_LIMIT_": Rate.parse,
    "READ_INTERVAL_S_": _seconds,
    "POSTS_INTERVAL_S_": _seconds,
}


def _of_families(found: Mapping[str, str], declared: set[str]) -> Iterator[str]:
    """Name what is wrong in the settings that every platform has."""
    for prefix, parse in _FAMILIES.items():
        known = sorted(name for name in declared if name.startswith(prefix))
        for name in (name for name in found if name.startswith(prefix) and found[name]):
            try:
                parse(found[name])
            except ValueError as exc:
                yield f"{name}: {exc}"
            if name not in known:
                yield f"{name}: no platform has such a call; known are {', '.join(known)}"
