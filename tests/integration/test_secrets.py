"""Secrets stay where they were put: planted wherever one can be, none is found where it doesn't belong.

Which settings are secret the settings say themselves, so a new one is planted, too.
"""

import base64
import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import psycopg2
import pytest
import redis
from sqlalchemy import make_url, text

from db import keys
from db.engine import Engine, transaction
from deploy.embedded import redis_server
from pipeline import platforms
from pipeline.accounts import import_list
from pipeline.settings import Settings, SettingsError, is_secret, load_settings
from tests import smtp
from tests.hostile import Hostile, hostile
from tests.smtp import MailServer
from tests.system import System, system
from tests.varnish import free_port

PATIENCE_S = 120.0
ACCOUNTS = {
    "x": "x/agency",
    "youtube": "youtube/UC0123456789012345678901",
    "facebook": "facebook/agency",
    "reddit": "reddit/agency",
}
# Of the platforms that no worker reads here.
PROBED = (
    "bluesky/agency.bsky.social",
    "instagram/agency",
    "threads/agency",
    "tiktok/agency",
    "linkedin/agency",
    "flickr/agency",
    "mastodon/agency@social.example",
    "truthsocial/agency",
)
PAGES = ("/", "/accounts", "/accounts/x/agency", "/health", "/performance", "/docs", "/sign-in", "/keys")
ANSWERS = (
    "/api/summary",
    "/api/accounts",
    "/api/health/data",
    "/api/jobs",
    "/api/performance",
    "/api/nothing",
    "/metrics",
    "/healthz",
    "/readyz",
    "/openapi.json",
)


class Plants:
    """Secrets by where they are planted, each with a text that nothing else has."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def plant(self, where: str) -> str:
        self.texts[where] = f"planted{hashlib.sha256(where.encode()).hexdigest()[:24]}"
        return self.texts[where]

    def found(self, hay: Mapping[str, bytes]) -> list[str]:
        """Return what was planted where, and found where; base64 and bytes as hexadecimal digits hide nothing."""
        return [
            f"{where} in {place}"
            for place, content in hay.items()
            for shown in ([content, *_decoded(content)],)
            for where, secret in self.texts.items()
            if any(secret.encode() in part for part in shown)
        ]


def _decoded(content: bytes) -> Iterator[bytes]:
    for one in re.findall(rb"\\\\?x((?:[0-9a-f]{2}){12,})", content):
        yield bytes.fromhex(one.decode())
    for one in set(re.findall(rb"[A-Za-z0-9+/_-]{24,}={0,2}", content)):
        with suppress(ValueError):
            yield base64.b64decode(one.rstrip(b"=") + b"==", altchars=b"-_" if set(one) & set(b"-_") else None)


def _secret_settings() -> list[str]:
    named = [name.upper() for name in Settings.model_fields]
    for platform in platforms.load().values():
        named += [*platform.needs, *platform.instead, *platform.uses]
    return sorted({name for name in named if is_secret(name)})


def _shaped(name: str, secret: str, plain: Mapping[str, str], servers: Mapping[str, str]) -> str:
    """Return a setting that holds the secret, in the first shape that this setting takes."""
    if name in servers:
        return servers[name].replace("SECRET", secret)
    for shape in (secret, f"http://ann:{secret}@127.0.0.1:9/{secret}", f"name={secret}"):
        with suppress(SettingsError):
            load_settings({**plain, name: shape}, env_files=())
            return shape
    raise AssertionError(f"{name} takes no secret of any shape here: add one to `servers`")


@contextmanager
def guarded_redis(folder: Path, port: int, plants: Plants) -> Iterator[None]:
    """Run a Redis that asks for a password, another one of whoever brings messages."""
    users = "".join(f"user {name} on >{plants.texts[name]} ~* &* +@all\n" for name in ("REDIS_URL", "BROKER_URL"))
    configuration = folder / "redis.conf"
    configuration.write_text(f"bind 127.0.0.1\nport {port}\ndir {folder}\nsave ''\nuser default off\n{users}")
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen([redis_server(), configuration], stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


class Api:
    """The API as a client without manners asks it; `said` is every answer, headers included."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.said: dict[str, bytes] = {}

    def ask(
        self, method: str, path: str, body: str = "", *, port: int | None = None, **headers: str
    ) -> tuple[int, str]:
        """Return the status and what stands in Set-Cookie, which is the one place where a session's token belongs."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body or None, given)
            answer = connection.getresponse()
            told = [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() != "set-cookie"]
            name = f"answer {len(self.said)}, {method} {path.partition('?')[0]}"
            self.said[name] = "\n".join(told).encode() + b"\n\n" + answer.read()
            return answer.status, answer.getheader("Set-Cookie") or ""
        finally:
            connection.close()

    def send(self, raw: bytes) -> None:
        """Send what is no request, and take what comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            came = b""
            with suppress(ConnectionError):
                while piece := connection.recv(65_536):
                    came += piece
        self.said[f"answer {len(self.said)} to no request"] = came

    def is_up(self) -> bool:
        try:
            return self.ask("GET", "/healthz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False


class Shell:
    """Commands as people call them, at a time; `said` is what they wrote, and `seen` what others saw of them."""

    def __init__(self, processes: System, folder: Path) -> None:
        self._processes = processes
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self.said: dict[str, bytes] = {}
        self.seen: set[bytes] = set()

    def start(self, *arguments: str, **environ: str) -> None:
        with (self._folder / f"rollcall-{arguments[0]}.log").open("wb") as log:
            command = [Path(sys.executable).parent / "rollcall", *arguments]
            given = {**self._processes.environ, **environ}
            process = subprocess.Popen(command, env=given, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT)
        self._running.append(process)

    def wait(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while any(process.poll() is None for process in self._running):
            assert time.monotonic() < until, "a command doesn't end"
            self.seen |= command_lines()
            time.sleep(0.2)
        self.said = {log.name: log.read_bytes() for log in self._folder.glob("rollcall-*.log")}


def command_lines() -> set[bytes]:
    found = set()
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.add(one.read_bytes())
    return found


def database_rows(url: str) -> dict[str, bytes]:
    """Return every table as text, and what sessions run."""
    hay = {}
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    conn = psycopg2.connect(address)
    with conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT oid::regclass::text FROM pg_class"
            " WHERE relkind IN ('r', 'm') AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')"
        )
        for name in [*(name for (name,) in cursor.fetchall()), "pg_stat_activity"]:
            cursor.execute(f"SELECT array_agg(one::text) FROM {name} AS one")
            rows = (cursor.fetchone() or (None,))[0]
            hay[f"table {name}"] = "\n".join(rows or ()).encode()
    conn.close()
    return hay


def redis_content(url: str) -> dict[str, bytes]:
    kinds = {
        b"string": lambda client, key: [client.get(key)],
        b"list": lambda client, key: client.lrange(key, 0, -1),
        b"set": lambda client, key: client.smembers(key),
        b"hash": lambda client, key: [part for pair in client.hgetall(key).items() for part in pair],
        b"zset": lambda client, key: client.zrange(key, 0, -1),
    }
    with redis.Redis.from_url(url) as client:
        found = {key: kinds[client.type(key)](client, key) for key in client.scan_iter() if client.type(key) in kinds}
    return {f"Redis {key!r}": b"\n".join([key, *(part for part in parts if part)]) for key, parts in found.items()}


@pytest.fixture
def plants() -> Plants:
    return Plants()


@pytest.fixture
def enemy(plants: Plants) -> Iterator[Hostile]:
    with hostile(plants.plant("a token that platforms gave")) as one:
        yield one


@pytest.fixture
def post_office() -> Iterator[MailServer]:
    with smtp.serving(asks_who=True) as server:
        yield server


@pytest.fixture
def environ(
    plants: Plants, enemy: Hostile, post_office: MailServer, database_url: str, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """Return settings whose secrets are all planted, every other one in a file."""
    port = free_port()
    mail = {**post_office.environ, "SMTP_USER": "ann", "ALERT_EMAIL_TO": "bo@example.org"}
    plain = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1/0"}
    servers = {
        "DATABASE_URL": make_url(database_url).set(password="SECRET").render_as_string(hide_password=False),
        "DATABASE_READ_REPLICA_URL": "postgresql://ann:SECRET@127.0.0.1:9/none",
        "REDIS_URL": f"redis://REDIS_URL:SECRET@127.0.0.1:{port}/0",
        "BROKER_URL": f"redis://BROKER_URL:SECRET@127.0.0.1:{port}/1",
        "HTTPS_PROXY": f"http://ann:SECRET@127.0.0.1:{enemy.port}",
        "FLOWER_BASIC_AUTH": "ann:SECRET",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20SECRET",
        "ALERT_WEBHOOK_URL": f"{enemy.url}/hooks/SECRET",
        "SMTP_PASSWORD": "SECRET",
    }
    made = mail | {
        "ENABLE_READ_REPLICA": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": enemy.url,
        "LOG_LEVEL": "debug",
        "DB_PROFILE": "true",
        "DB_SLOW_MS": "0.001",
        "API_RATE_LIMIT_KEY": "10000/1m",
        "WEB_CONCURRENCY": "1",
        "PORT": str(free_port()),
        "FLOWER_PORT": str(free_port()),
    }
    made |= {f"{name.upper()}_BASE_URL": f"{enemy.url}/{name}" for name in platforms.load()}
    made["BLUESKY_BASE_URL"] = "https://platform.example"  # by the proxy
    for number, name in enumerate(_secret_settings()):
        value = _shaped(name, plants.plant(name), plain, servers)
        if number % 2:
            file = tmp_path / f"{name}.secret"
            file.write_text(f"{value}\n")
            made[f"{name}_FILE"] = str(file)
        else:
            made[name] = value
    with guarded_redis(tmp_path, port, plants):
        yield made


def test_no_secret_is_found_where_it_does_not_belong(
    plants: Plants,
    enemy: Hostile,
    post_office: MailServer,
    environ: dict[str, str],
    database_url: str,
    engine: Engine,
    tmp_path: Path,
) -> None:
    rows = [name.replace("/", ",", 1) for name in ACCOUNTS.values()]
    import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    with transaction(engine) as conn:
        token = keys.create(conn, name="Ann", scopes=["admin"])
    plants.texts["an API key"] = token.rpartition("_")[2]
    logs = tmp_path / "logs"
    hay: dict[str, bytes] = {}
    with system("", "", logs, **{"SIMULATOR_URL": "", **environ}) as (processes, simulator):
        processes.environ["X_BASE_URL"] = f"{simulator.url}/x"
        api, shell = Api(int(environ["PORT"])), Shell(processes, tmp_path)
        server = processes.start("api")
        cdn = {"CDN_FASTLY_SERVICE_ID": "service", "CDN_FASTLY_URL": enemy.url}
        processes.start("pipeline.beat", **cdn)
        processes.start("workers.recorder")
        processes.start("pipeline.notifier")
        processes.start("pipeline.app", "flower")
        workers = {}
        for name in ACCOUNTS:
            workers[name] = logs / f"{len(processes.processes)}-workers-{name}.log"
            processes.worker(name)
        _start_cut_off(processes, plants)
        processes.wait(api.is_up, within_s=PATIENCE_S, what="the API")
        _use(api, processes, plants, token, workers, int(environ["FLOWER_PORT"]))
        _command(shell, plants)
        _crash(api, processes, plants, engine, token, workers["x"])
        hay |= {"command lines": b"\n".join(command_lines() | shell.seen), **database_rows(database_url)}
        for name in ("REDIS_URL", "BROKER_URL"):
            hay |= redis_content(_given(environ, name))
        server.send_signal(signal.SIGHUP)
        processes.wait(lambda: "Hang up" in processes.said(), within_s=PATIENCE_S, what="the reload")
        processes.wait(api.is_up, within_s=PATIENCE_S, what="the API")
    hay |= {log.name: log.read_bytes() for log in logs.iterdir()} | api.said | shell.said

    found = plants.found(hay)
    assert not found, "\n".join(found)
    assert plants.texts["SMTP_PASSWORD"].encode() in post_office.passwords
    _is_worth_something(plants, enemy, hay)


def _given(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or Path(environ[f"{name}_FILE"]).read_text().strip()


def _start_cut_off(processes: System, plants: Plants) -> None:
    """Start a worker that finds no server, and has passwords for them."""
    log = processes.logs / f"{len(processes.processes)}-workers-truthsocial.log"
    processes.worker(
        "truthsocial",
        DATABASE_URL=f"postgresql://ann:{plants.plant('the password of a database that is away')}@127.0.0.1:9/none",
        BROKER_URL=f"amqp://ann:{plants.plant('the password of a broker that is away')}@127.0.0.1:9//",
        DATABASE_URL_FILE="",
        BROKER_URL_FILE="",
    )
    processes.wait(
        lambda: log.exists() and b"127.0.0.1:9" in log.read_bytes(), within_s=PATIENCE_S, what="a broker missed"
    )


def _use(
    api: Api, processes: System, plants: Plants, token: str, workers: Mapping[str, Path], flower_port: int
) -> None:
    """Do what people and programs do, rightly and wrongly."""
    key = {"Authorization": f"Bearer {token}"}
    wrong = f"rc_{'0' * 16}_{hashlib.sha256(b'wrong').hexdigest()}"
    plants.texts["a wrong API key"] = wrong.rpartition("_")[2]
    form = {"Content_Type": "application/x-www-form-urlencoded", "Sec_Fetch_Site": "same-origin"}
    status, cookie = api.ask("POST", "/sign-in", urlencode({"key": token}), **form)
    assert status == 303
    session = cookie.partition(";")[0]
    plants.texts["a session"] = session.partition("=")[2]
    assert api.ask("POST", "/sign-in", urlencode({"key": wrong}), **form)[0] == 403
    for path in (*ANSWERS, *PAGES):
        api.ask("GET", path, Cookie=session, Accept="text/html")
        api.ask("GET", path, **key)
    for path in ("/api/summary", "/"):
        for _ in range(3):  # so that the third is a hit
            api.ask("GET", path, **key)
        api.ask("GET", path, Authorization=f"Bearer {wrong}", Cookie=f"rollcall_session={plants.plant('a cookie')}")
        api.ask("GET", f"{path}?key={token}&access_token={wrong}")
    api.ask("GET", f"/api/{token}", Accept="text/html")
    api.ask("POST", "/api/refresh", '{"accounts": ["x/agency"]}', Authorization=f"Bearer {wrong}")
    api.ask("POST", "/api/refresh", f'{{"key": "{token}", "accounts": 7}}', **key)
    api.send(f"GET /api/summary?key={token} HTTP/9.9\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    api.send(f"GET /api/summary HTTP/1.1\r\nHost: a\r\nAuthor ization: Bearer {token}\r\n\r\n".encode())
    api.send(f"GET /{token}é HTTP/1.1\r\nHost: a\r\nCookie: {session}\r\n\r\n".encode())
    asked = json.dumps({"accounts": list(ACCOUNTS.values())})
    for done in (2, 3):  # one is the planner's
        assert api.ask("POST", "/api/refresh", asked, Content_Type="application/json", **key)[0] == 202
        processes.wait(
            lambda done=done: all(log.read_text().count("job_finished") >= done for log in workers.values()),
            within_s=PATIENCE_S,
            what=f"{done} jobs of each worker",
        )
    flower = base64.b64encode(f"ann:{plants.texts['FLOWER_BASIC_AUTH']}".encode()).decode()
    stranger = base64.b64encode(f"ann:{plants.plant('a wrong password of Flower')}".encode()).decode()
    processes.wait(lambda: _opens(api, flower_port, flower), within_s=PATIENCE_S, what="Flower")
    assert api.ask("GET", "/api/workers", port=flower_port, Authorization=f"Basic {stranger}")[0] == 401
    for path in ("/workers", "/tasks", "/broker", "/metrics", f"/nothing?key={token}"):
        api.ask("GET", path, port=flower_port, Authorization=f"Basic {flower}")


def _opens(api: Api, port: int, password: str) -> bool:
    try:
        return api.ask("GET", "/api/workers", port=port, Authorization=f"Basic {password}")[0] == 200
    except OSError:
        return False


def _command(shell: Shell, plants: Plants) -> None:
    wrong = f"mysql://ann:{plants.plant('an address of a database that is none')}@127.0.0.1/none"
    shell.start("doctor")
    shell.start("probe", "--raw", *PROBED)
    shell.start("enqueue", *ACCOUNTS.values(), "--json")
    shell.start("alerts", "test")
    shell.start("status", DATABASE_URL=wrong, DATABASE_URL_FILE="", REDIS_URL=wrong, REDIS_URL_FILE="")
    shell.wait()


def _crash(api: Api, processes: System, plants: Plants, engine: Engine, token: str, log: Path) -> None:
    """Take away tables, so that a worker and the API fail in the middle."""
    key = {"Authorization": f"Bearer {token}", "Content_Type": "application/json"}
    with transaction(engine) as conn:
        conn.execute(text("ALTER TABLE fact_followers_snapshot RENAME TO taken_away"))
    api.ask("POST", "/api/refresh", '{"accounts": ["x/agency"]}', **key)
    processes.wait(lambda: b"Traceback" in log.read_bytes(), within_s=PATIENCE_S, what="a worker's traceback")
    with transaction(engine) as conn:
        conn.execute(text("ALTER TABLE api_key RENAME TO taken_away_too"))
    unknown = f"rc_{'1' * 16}_{hashlib.sha256(b'unknown').hexdigest()}"
    plants.texts["a key that couldn't be looked up"] = unknown.rpartition("_")[2]
    assert api.ask("GET", "/api/summary", Authorization=f"Bearer {unknown}")[0] >= 500


def _is_worth_something(plants: Plants, enemy: Hostile, hay: Mapping[str, bytes]) -> None:
    """See that secrets were in play, and that what went wrong was told."""
    heard = "\n".join(enemy.heard)
    for sent in (
        "YOUTUBE_API_KEY",
        "FACEBOOK_ACCESS_TOKEN",
        "REDDIT_CLIENT_SECRET",
        "INSTAGRAM_ACCESS_TOKEN",
        "FLICKR_API_KEY",
        "TIKTOK_CLIENT_SECRET",
        "HTTPS_PROXY",
        "FASTLY_API_TOKEN",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "ALERT_WEBHOOK_URL",
        "a token that platforms gave",
    ):
        assert plants.texts[sent] in heard, f"{sent} was never sent"
    said = b"\n".join(content for name, content in hay.items() if name.endswith(".log"))
    for event in (b"database_failed", b"Traceback", b"cdn_behind", b"traces_lost", b"statement_slow", b"succeeded"):
        assert event in said, event
    assert plants.found({"itself": "\n".join(plants.texts.values()).encode()})
