"""A page of 50 accounts beside the same page of Flask, FastAPI and datasette, and beside a file that nginx sends.

All servers run at once with two processes each (datasette has one); within a round each is loaded in turn, in a new
order. CPU is what all processes of a server, PostgreSQL and Redis spend on one request.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import zstandard
from msgspec import Struct

from tests.performance import api, served
from tests.performance.machine import Machine
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds
from tests.performance.served import Load, PeersMissing, Served
from tests.performance.snapshots import load as load_snapshots

THREADS = "8"
DAYS = 9  # so that the change of a week is known
HIT = f"/api/summary?per_page={api.PAGE}&sort=account_key"
PEERS_HIT = f"/api/summary?per_page={api.PAGE}&after=0"
FILE = "page.json"
ZSTD = {"Accept_Encoding": "zstd"}
BEHIND = 117  # any account that a whole page lies behind
MEBIBYTE = 1 << 20


def _page_behind(key: int) -> str:
    return f"/api/summary/now?per_page={api.PAGE}&after={key}"


# What is asked of whom: server, address, headers.
HITS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "Rollcall": ("Rollcall", HIT, {}),
    "Rollcall, compressed": ("Rollcall", HIT, ZSTD),
    "Flask-Caching": ("Flask", PEERS_HIT, {}),
    "Flask-Caching, compressed": ("Flask", PEERS_HIT, ZSTD),
    "FastAPI, a constant": ("FastAPI", "/api/summary", {}),
    "nginx, a file": ("nginx", f"/{FILE}", {}),
}
PAGES: Mapping[str, Callable[[int], str]] = {
    "Flask": _page_behind,
    "FastAPI": _page_behind,
    "datasette": api.datasette_path,
}


class Size(Struct, frozen=True):
    """How many accounts are listed, and how often and how long each server is loaded."""

    accounts: int = 10_000
    rounds: int = 8
    seconds: int = 2


class Field(Struct):
    """The servers that could be started, by name, and why the others couldn't."""

    servers: dict[str, Served]
    missing: list[Line]


def run(one: Machine, size: Size, python: str | PeersMissing) -> Iterator[Chapter]:
    """Compare answers that are kept, answers that no cache holds, and what the servers' memory is after both."""
    if (why := served.without_wrk()) is not None:
        yield Chapter("A page beside peers", [Line(f"not measured: {why}", None)])
        return
    field = start(one, size, python)
    yield _kept(one, size, field)
    yield _made(one, size, field)
    yield Chapter(
        "Memory of all processes of each server after that load",
        [Line(name, server.rss_bytes / MEBIBYTE, "MiB") for name, server in field.servers.items()],
    )


def start(one: Machine, size: Size, python: str | PeersMissing) -> Field:
    """List the accounts and start all servers. Raises AssertionError where one doesn't answer what Rollcall does."""
    today = datetime.now(UTC).date()
    first = today - timedelta(days=DAYS)
    load_snapshots(one.engine, accounts=size.accounts, days=DAYS, last=today, covered_from=first)
    rollcall = served.start(
        one,
        "api",
        log="rollcall",
        aside=lambda: _databases_cpu_s(one),
        WEB_CONCURRENCY=api.WORKERS,
        LOG_FORMAT="json",
        API_RATE_LIMIT="",
    )
    field = Field({"Rollcall": rollcall}, [])
    root = one.folder / "www"
    root.mkdir()
    (root / FILE).write_bytes(rollcall.get(HIT)[1])
    if (nginx := served.nginx(one, root)) is not None:
        field.servers["nginx"] = nginx
    else:
        field.missing.append(Line("nginx isn't measured: it is not installed (apt-get install nginx-light)", None))
    if isinstance(python, PeersMissing):
        field.missing.append(Line(f"Flask, FastAPI and datasette aren't measured: {python}", None))
    else:
        field.servers |= _peers(one, python, PEER_BODY=str(root / FILE))
    _compare(field)
    return field


def _databases_cpu_s(one: Machine) -> float:
    return sum(one.servers_cpu_s().values())


def _peers(one: Machine, python: str, **given: str) -> dict[str, Served]:
    environ = {
        "PEER_REDIS": one.redis_server.url,
        "PEER_STALE_AFTER_S": str(one.settings().stale_after.after_s),
        **given,
    }
    threads = ("--worker-class", "gthread", "--threads", THREADS)
    commands = {
        "Flask": (*api.GUNICORN, *threads, "tests.performance.peers.flask_app:app"),
        "FastAPI": (
            "uvicorn",
            "--workers",
            api.WORKERS,
            "--port",
            "{port}",
            "tests.performance.peers.fastapi_app:app",
        ),
    }
    servers = {
        name: served.start(one, *command, log=name, aside=lambda: _databases_cpu_s(one), python=python, **environ)
        for name, command in commands.items()
    }
    return servers | {"datasette": api.start_datasette(one, python)}


def _compare(field: Field) -> None:
    """Raise AssertionError where a server's answer, of those that are measured, isn't Rollcall's."""
    rollcall = field.servers["Rollcall"]
    kept, made = rollcall.get(HIT)[1], rollcall.get(api.page_path(BEHIND, False, 0))[1]
    for server, path, headers in HITS.values():
        if server in field.servers:
            _assert_same(field.servers[server].get(path, **headers), kept, compressed=bool(headers))
    for name, path_of in PAGES.items():
        if name in field.servers:
            _assert_same(field.servers[name].get(path_of(BEHIND)), made, keys_alone=name == "datasette")


def _assert_same(
    answer: tuple[Mapping[str, str], bytes], ours: bytes, *, compressed: bool = False, keys_alone: bool = False
) -> None:
    headers, body = answer
    assert headers.get("Content-Encoding") == ("zstd" if compressed else None), headers
    if compressed:
        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    told = json.loads(body)
    theirs, items = told.get("items", told.get("rows")), json.loads(ours)["items"]
    assert len(items) == api.PAGE
    if keys_alone:  # SQLite has neither dates nor truth values
        theirs, items = ([item["account_key"] for item in one] for one in (theirs, items))
    assert theirs == items, f"a peer's page isn't ours: {theirs[:1]} instead of {items[:1]}"


def _kept(one: Machine, size: Size, field: Field) -> Chapter:
    """Compare hits with hits of Flask-Caching, and with what has nothing to look up."""
    found = served.in_turn(
        Rounds(size.rounds, size.rounds),
        {
            name: partial(field.servers[server].load, one.folder, [path], seconds=size.seconds, **headers)
            for name, (server, path, headers) in HITS.items()
            if server in field.servers
        },
    )
    length = len(field.servers["Rollcall"].get(HIT)[1])
    return Chapter(
        f"A page of {api.PAGE} that is kept, {length:,} bytes, asked by 32 connections",
        [
            *_ratios(found, "Rollcall", ["Flask-Caching"], at_least=12),
            *_ratios(found, "Rollcall, compressed", ["Flask-Caching, compressed"]),
            *_ratios(found, "Rollcall", ["FastAPI, a constant", "nginx, a file"]),
            *_costs(found),
            *field.missing,
        ],
        fails_when="hits go through Falcon, the front left out of api/app.py: 1.6 times Flask-Caching's requests per second",
    )


def _made(one: Machine, size: Size, field: Field) -> Chapter:
    """Compare pages that are read from PostgreSQL for each request (datasette: from SQLite, which holds the same)."""
    keys = range(api.PAGE + 1, size.accounts - api.PAGE)  # a whole page lies behind each, either way
    ours = api.pages(keys, api.MOST_PAGES_PER_S * size.seconds * (size.rounds + 2))
    random.shuffle(ours)
    fresh = iter(api.slices(ours, size.rounds + 2))
    rollcall = field.servers["Rollcall"]
    loads: dict[str, Callable[[], Load]] = {
        "Rollcall": lambda: api.ask_once(rollcall, one, next(fresh), size.seconds)
    }
    for name, path_of in PAGES.items():
        if name not in field.servers:
            continue
        paths = [path_of(key) for key in keys]
        random.shuffle(paths)
        loads[name] = partial(field.servers[name].load, one.folder, paths, seconds=size.seconds, connections=8)
    found = served.in_turn(Rounds(size.rounds, size.rounds), loads)
    return Chapter(
        f"A page of {api.PAGE} that no cache holds, asked by 8 connections",
        [*_ratios(found, "Rollcall", list(PAGES)), *_costs(found), *field.missing],
    )


def _ratios(
    found: Mapping[str, Sequence[Load]], ours: str, others: Sequence[str], *, at_least: float | None = None
) -> Iterator[Line]:
    """Return ours by each of the others that was measured: requests per second, of which there may be a bound, and CPU."""
    for theirs in others:
        pairs = list(zip(found[ours], found.get(theirs, ()), strict=False))
        if pairs:
            rates = [mine.per_second / other.per_second for mine, other in pairs]
            cpu = [mine.cpu_us / other.cpu_us for mine, other in pairs]
            yield middle(f"{ours} / {theirs}: requests per second", rates, "times", at_least=at_least)
            yield middle(f"{ours} / {theirs}: CPU of a request", cpu, "times")


def _costs(found: Mapping[str, Sequence[Load]]) -> Iterator[Line]:
    for name, loads in found.items():
        yield middle(f"{name}: requests per second", [load.per_second for load in loads], "1/s")
        yield middle(f"{name}: CPU of a request", [load.cpu_us for load in loads], "µs")
        yield middle(f"{name}: p50", [load.p50_us / 1000 for load in loads], "ms")
        yield middle(f"{name}: p99", [load.p99_us / 1000 for load in loads], "ms")
