"""One typed, frozen object from the environment (and a `.env` file). Nothing else reads the environment.

Every field is the setting's name in lower case: `db_pool_size` is `DB_POOL_SIZE`. What platforms bring of their own
(credentials, `X_BASE_URL`, `RATE_LIMIT_X_PROFILES`) is gathered in `platforms`, by the names they declare.
"""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values
from msgspec import Struct
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from redis import Redis

from pipeline import platforms
from pipeline.limits import Rate
from pipeline.platforms import Platform
from pipeline.records import Doubt, Kind, Source

# Where `./dev run` writes the addresses of the servers that it started, for commands in another terminal.
EMBEDDED_ENV = ".rollcall/env"


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
        False, description="send the API's reads to the replica; answers then lag as far as it does"
    )
    db_pool_size: int = Field(5, ge=1, description="connections kept open per process")
    db_max_overflow: int = Field(10, ge=0, description="connections opened beyond the pool under load")
    db_pool_timeout: float = Field(30, gt=0, description="seconds to wait for a connection")
    db_pool_recycle: int = Field(3600, description="seconds after which a connection is replaced")
    redis_url: SecretStr = Field(description="Redis, as redis://host:6379/0 or unix:///path?db=0")
    broker_url: SecretStr | None = Field(None, description="the message broker, where it is not REDIS_URL")

    simulator_url: str | None = Field(None, description="read every platform from this simulator; rows say so")
    read_interval_s: int = Field(86_400, gt=0, description="seconds between two readings of an account")
    posts_interval_s: int = Field(86_400, gt=0, description="seconds between two readings of its posts")
    stale_after_s: int = Field(93_600, gt=0, description="an account not read for longer is stale")
    posts_pages: int = Field(1, ge=1, description="most pages of posts read per account and reading")
    engagement_days: int = Field(30, ge=1, description="engagement counts posts of this many days")

    job_lease_s: float = Field(120, gt=0, description="a job not finished after this is given out again")
    job_max_attempts: int = Field(5, ge=1, description="a job begun this often without an end has failed")
    job_retention_days: int = Field(30, ge=1, description="finished jobs are kept this long")
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
    worker_concurrency: int = Field(4, ge=1, description="calls one worker process makes at a time")
    http_deadline_s: float = Field(30, gt=0, description="total time one call may take")
    http_contact: str = Field("", description="URL or e-mail by which platforms reach whoever runs this")
    https_proxy: SecretStr | None = Field(None, description="proxy to the platforms, as http://host:3128")
    no_proxy: str = Field("", description="hosts reached without it, comma-separated; each with all below it")
    http_allow_private_hosts: bool = Field(False, description="read Mastodon servers at private addresses too")

    bind: str = Field("127.0.0.1", description="address that the API and Flower listen on")
    port: int = Field(8000, ge=0, le=65535, description="port of the API and the dashboard")
    web_concurrency: int = Field(2, ge=1, description="API processes")
    read_threads: int = Field(8, ge=1, description="database reads at a time in one API process")
    api_require_key: bool = Field(False, description="close reading to callers without a key")
    cors_origins: str = Field("", description="origins allowed to read the API from a browser, comma-separated")
    cache_entries: int = Field(1000, ge=1, description="answers kept in the memory of one API process")
    cache_memory_s: float = Field(60, gt=0, description="longest time an answer stays in memory")

    flower_port: int = Field(5555, ge=0, le=65535, description="port of Flower")
    flower_basic_auth: SecretStr | None = Field(None, description="user:password of Flower; it stays closed without")
    log_format: str = Field("console", pattern="^(console|json)$", description="console or json")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level logged")

    platforms: Mapping[str, SecretStr] = Field({}, exclude=True, description="what platforms declare")

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
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # its text may quote the address, password and all
            is_address = False
        if not is_address:
            raise ValueError("is not a proxy's address (http://host:3128)")
        return SecretStr(url)

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
    def broker(self) -> str:
        """Return the broker's address in kombu's spelling."""
        url = (self.broker_url or self.redis_url).get_secret_value()
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

    def _named(self, platform: Platform, suffix: str) -> dict[str, SecretStr]:
        """Return the platform's credentials whose names have this suffix, by their names without it."""
        names = (*platform.needs, *platform.instead, *platform.uses)
        return {name: self.platforms[name + suffix] for name in names if name + suffix in self.platforms}


def load_settings(
    environ: Mapping[str, str] | None = None,
    env_files: Sequence[Path] = (Path(EMBEDDED_ENV), Path(".env")),
    *,
    fallback: Mapping[str, str] = {},
) -> Settings:
    """Return the settings of this process. The environment outranks the files, a later file an earlier one.

    `fallback` holds what is taken where nothing is set. Raises SettingsError with every fault at once.
    """
    filed = {name: value for file in env_files for name, value in dotenv_values(file).items() if value}
    found = filed | dict(os.environ if environ is None else environ)
    # Other programs read these in lower case.
    found = {name.upper(): found[name] for name in ("https_proxy", "no_proxy") if name in found} | found
    found |= {name: value for name, value in fallback.items() if not found.get(name)}
    declared = _declared() | {name for name in found if _is_further(name)}
    faults = _incomplete_sets(found)
    faults += [
        f"{name}: no platform has such a call; known are {', '.join(sorted(_of_rates(declared)))}"
        for name in found
        if name.startswith("RATE_LIMIT_") and name not in declared
    ]
    for name in _of_rates(declared) & found.keys():
        try:
            Rate.parse(found[name])
        except ValueError as exc:
            faults.append(f"{name}: {exc}")
    values: dict[str, object] = {n: found[n.upper()] for n in Settings.model_fields if found.get(n.upper())}
    values["platforms"] = {name: found[name] for name in declared & found.keys() if found[name]}
    try:
        settings = Settings(**values)  # type: ignore[arg-type]  # pydantic converts and validates
    except ValidationError as exc:
        # Never the input: a wrong DATABASE_URL holds a password.
        faults += [f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in exc.errors(include_input=False)]
    if faults:
        raise SettingsError("Settings are missing or wrong:\n  " + "\n  ".join(sorted(faults)))
    return settings


def _declared() -> set[str]:
    """Return every environment name that registered platforms bring."""
    names = _of_credentials()
    for platform in platforms.load().values():
        upper = platform.name.upper()
        names.add(f"{upper}_BASE_URL")
        names |= {f"RATE_LIMIT_{upper}_{kind.upper()}" for kind in platform.calls}
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


def _of_rates(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("RATE_LIMIT_")}
