"""What an answer costs: hits beside a constant answer of the same server, misses beside the database and datasette.

Every server runs with two processes on the same machine, all at once; within a round each is loaded in turn, in a new
order. CPU is what all processes of a server, and for a miss PostgreSQL too, spend on one request.
"""

import base64
import json
import random
import re
import sqlite3
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from itertools import accumulate, count, islice
from pathlib import Path

from msgspec import Struct, structs
from sqlalchemy import event, text

from db import reads, tags
from db.engine import reading, transaction
from db.models import account_latest, dim_account
from db.reads import AccountSummary, After, Clock, Filters, Order, Window
from pipeline.app import make_celery
from pipeline.messages import Purger
from tests.performance import exporting, served
from tests.performance.machine import Machine, machine
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds
from tests.performance.served import Load, Served
from tests.performance.snapshots import load as load_snapshots
from tests.serving import Gunicorn

WORKERS = "2"
GUNICORN = ("gunicorn", "--no-control-socket", "--workers", WORKERS, "--bind", "127.0.0.1:{port}")
PAGE = 50
# More than a machine with two cores makes of them in a second.
MOST_PAGES_PER_S = 5_000
# Of about 10 kB, as the constant has it.
HIT = "/api/summary?per_page=19"
COMPRESSED = {"Accept_Encoding": "zstd"}
ZIPF = 1.1
SWEPT_PER_S = 100
MEBIBYTE = 1 << 20


class Size(Struct, frozen=True):
    """How much is there and how long it is asked for. `export_days` of every account are exported."""

    accounts: int = 10_000
    days: int = 36
    rounds: Rounds = Rounds(5, 12)
    seconds: int = 2
    zipf_s: int = 30
    requests: int = 100_000
    export_days: int = 365


QUICK = Size(accounts=600, days=5, rounds=Rounds(1, 1), seconds=1, zipf_s=4, requests=2_000, export_days=5)


def run(*, quick: bool = False) -> Iterator[Chapter]:
    """Measure, and yield each chapter as it is found."""
    size = QUICK if quick else Size()
    with machine() as one:
        today = datetime.now(UTC).date()
        load_snapshots(
            one.engine,
            accounts=size.accounts,
            days=max(size.days, size.export_days),
            last=today,
            covered_from=today - timedelta(days=max(size.days, size.export_days)),
        )
        yield _hits(one, size)
        yield _misses(one, size)
        yield sweep(one, size)
        yield _memory(one, size)


def _api(one: Machine, log: str, *, with_postgres: bool = False, **environ: str) -> Served:
    given = {"WEB_CONCURRENCY": WORKERS, "LOG_FORMAT": "json", "API_RATE_LIMIT": "", **environ}
    aside = (lambda: one.servers_cpu_s()["PostgreSQL"]) if with_postgres else (lambda: 0.0)
    return served.start(one, "api", log=log, aside=aside, **given)


def _hits(one: Machine, size: Size) -> Chapter:
    """Compare what the caches hold with a constant of the same bytes, and with Flask-Caching's."""
    api = _api(one, "api")
    headers, body = api.get(HIT)
    file = one.folder / "body"
    file.write_bytes(body)
    constant = served.start(
        one,
        *(*GUNICORN, "--worker-class", "asgi", "tests.performance.constant:app()"),
        log="constant",
        BENCH_BODY=str(file),
    )
    python = served.peers_or_why()
    flask = None if isinstance(python, served.PeersMissing) else _flask(one, python, file)
    assert {server.get(HIT)[1] for server in (flask, constant) if server} == {body}
    # One entry of a first level, and more addresses than that: every answer comes from the second.
    second = _api(one, "second level", CACHE_ENTRIES="1")
    several = [f"{HIT}&sort={sort}" for sort in ("followers", "-followers", "posts", "-posts", "platform", "handle")]
    for path in several * 2:
        second.get(path)

    def ratios(found: Mapping[str, Sequence[Load]]) -> list[Line]:
        return [
            _cpu("L1 hit / constant answer, CPU", found, "l1", "constant", at_most=1.15),
            _cpu("compressed L1 hit / constant answer, CPU", found, "zstd", "constant", at_most=0.8),
            _cpu("304 / constant answer, CPU", found, "304", "constant", at_most=0.8),
            _cpu("L2 hit / constant answer, CPU", found, "l2", "constant", at_most=3.5),
            _rate("L1 hit / Flask-Caching, requests per second", found, "l1", "flask", at_least=12)
            if flask
            else Line(f"Flask-Caching isn't measured: {python}", None),
        ]

    found = served.in_turn(
        size.rounds,
        {
            "constant": lambda: constant.load(one.folder, ["/api/summary"], seconds=size.seconds),
            "l1": lambda: api.load(one.folder, [HIT], seconds=size.seconds),
            "zstd": lambda: api.load(one.folder, [HIT], seconds=size.seconds, **COMPRESSED),
            "304": lambda: api.load(one.folder, [HIT], seconds=size.seconds, If_None_Match=headers["ETag"]),
            "l2": lambda: second.load(one.folder, several, seconds=size.seconds),
            **({"flask": lambda: flask.load(one.folder, [HIT], seconds=size.seconds)} if flask else {}),
        },
        ratios,
    )
    levels = Counter(second.get(several[number % len(several)])[0]["X-Cache"] for number in range(60))
    assert levels["l2"] > 50, f"the second level was meant to be measured: {levels}"
    for server in filter(None, (api, constant, flask, second)):
        one.end(server.process)
    return Chapter(
        "Hits",
        [*_costs(found), Line("an answer", len(body) / 1_000, "kB"), *ratios(found)],
        fails_when="hits go through Falcon and its middleware: compressed 1.17 of the constant, a 304 1.07, an L2 hit 6.5",
    )


def _flask(one: Machine, python: str, file: Path) -> Served:
    return served.start(
        one,
        *(*GUNICORN, "--worker-class", "gthread", "--threads", "8", "tests.performance.peers.cached_flask:app"),
        log="flask",
        python=python,
        PEER_BODY=str(file),
        PEER_REDIS=one.redis_server.url,
    )


def _misses(one: Machine, size: Size) -> Chapter:
    """Compare a page that no cache holds with the same rows from datasette, and with the statement alone."""
    api = _api(one, "misses", with_postgres=True)
    python = served.peers_or_why()
    datasette = None if isinstance(python, served.PeersMissing) else start_datasette(one, python)
    keys = list(range(PAGE + 1, size.accounts - PAGE))  # a whole page lies behind each, either way
    rounds = size.rounds.most + 2
    ours = pages(keys, MOST_PAGES_PER_S * size.seconds * rounds)
    theirs = [datasette_path(key) for key in keys]
    random.shuffle(ours)
    random.shuffle(theirs)
    assert len(json.loads(api.get(ours[0])[1])["items"]) == PAGE
    assert datasette is None or len(json.loads(datasette.get(theirs[0])[1])["rows"]) == PAGE
    fresh = iter(slices(ours, rounds))
    bench = _Pgbench(one, size.accounts)

    def ratios(found: Mapping[str, Sequence[Load]]) -> list[Line]:
        return [
            _cpu("with PostgreSQL's / datasette's, CPU", found, "page", "datasette", at_most=0.5)
            if datasette
            else Line(f"datasette isn't measured: {python}", None),
            _rate("requests per second / pgbench's transactions", found, "page", "pgbench", at_least=0.25),
        ]

    found = served.in_turn(
        size.rounds,
        {
            "page": lambda: ask_once(api, one, next(fresh), size.seconds),
            **(
                {"datasette": lambda: datasette.load(one.folder, theirs, seconds=size.seconds, connections=8)}
                if datasette
                else {}
            ),
            "pgbench": lambda: bench.run(size.seconds, clients=8),
        },
        ratios,
    )
    for server in filter(None, (api, datasette)):
        one.end(server.process)
    return Chapter(
        f"A page of {PAGE} that no cache holds",
        [
            *_costs({name: loads for name, loads in found.items() if name != "pgbench"}),
            middle("pgbench, the same statement prepared", [load.per_second for load in found["pgbench"]], "1/s"),
            *ratios(found),
        ],
        fails_when="each page's statement is put together anew: 2.7 times datasette's CPU, with 1,500 accounts; "
        "eight reads at a time in a process, and pages behind a cursor in Redis: 0.21 of pgbench",
    )


def pages(keys: Sequence[int], number: int) -> list[str]:
    """Return addresses of the pages behind these rows: of each as many as it takes, which no cache knows to be the same."""
    every = (page_path(key, way, spelling) for spelling in count() for key in keys for way in (False, True))
    return list(islice(every, number))


def ask_once(api: Served, one: Machine, paths: Sequence[str], seconds: int) -> Load:
    """Load with addresses none of which may come from a cache. Raises AssertionError where there were too few."""
    load = api.load(one.folder, paths, seconds=seconds, connections=8)
    assert load.requests <= len(paths), "some were asked for twice: they came from a cache"
    return load


def page_path(key: int, descending: bool, spelling: int) -> str:
    cursor = json.dumps(["account_key", descending, key, key]) + " " * spelling
    place = base64.urlsafe_b64encode(cursor.encode()).rstrip(b"=")
    return f"/api/summary?per_page={PAGE}&sort={'-' if descending else ''}account_key&cursor={place.decode()}"


def slices(paths: Sequence[str], number: int) -> list[Sequence[str]]:
    each = len(paths) // number
    return [paths[start * each : (start + 1) * each] for start in range(number)]


def start_datasette(one: Machine, python: str) -> Served:
    """Serve what a page of the summary shows with datasette, as its one process does."""
    rows = one.folder / "accounts.db"
    _to_sqlite(one, rows)
    command = ("datasette", "serve", str(rows), "--port", "{port}", "--setting", "suggest_facets", "0")
    return served.start(one, *command, log="datasette", python=python)


def datasette_path(key: int) -> str:
    """Return the address of datasette's page behind this account."""
    return f"/accounts/summary.json?_size={PAGE}&_next={key}&_nocount=1&_shape=objects"


def _to_sqlite(one: Machine, file: Path) -> None:
    """Give datasette what a page of the summary shows, by the same key."""
    with reading(one.engine) as conn:
        window = Window(limit=100_000)
        clock = Clock(datetime.now(UTC), one.settings().stale_after)
        rows = reads.summary(conn, Filters(), Order(), window, clock).rows
    names = AccountSummary.__struct_fields__
    with sqlite3.connect(file) as database:
        database.execute(f"CREATE TABLE summary (account_key INTEGER PRIMARY KEY, {', '.join(names[1:])})")
        database.executemany(
            f"INSERT INTO summary VALUES ({', '.join('?' * len(names))})",
            [
                [value if isinstance(value, int | float | None) else str(value) for value in structs.astuple(row)]
                for row in rows
            ],
        )
    database.close()


class _Pgbench:
    """PostgreSQL's own benchmark with the statement that a page sends, prepared, behind a new row each time."""

    def __init__(self, one: Machine, accounts: int) -> None:
        self._one = one
        self._script = one.folder / "page.sql"
        self._script.write_text(f"\\set key random(1, {accounts - PAGE})\n{self._statement()};\n")

    def run(self, seconds: int, *, clients: int) -> Load:
        server = self._one.postgres.server
        command = [str(server.bin_path / "pgbench"), "-n", "-M", "prepared", "-c", str(clients), "-T", str(seconds)]
        done = subprocess.run(
            [*command, "-f", str(self._script), self._one.postgres.url], capture_output=True, text=True, check=True
        )
        found = re.search(r"number of transactions actually processed: (\d+)", done.stdout)
        assert found, done.stdout + done.stderr
        return Load(requests=int(found[1]), duration_us=seconds * 1_000_000, failed=0, p50_us=0, p99_us=0)

    def _statement(self) -> str:
        """Return the statement as the API sends it; the key alone is a parameter, the rest is always the same."""
        sent: list[tuple[str, dict[str, object]]] = []
        event.listen(
            self._one.engine, "before_cursor_execute", lambda _c, _cur, sql, values, *_: sent.append((sql, values))
        )
        clock = Clock(datetime.now(UTC), self._one.settings().stale_after)
        with reading(self._one.engine) as conn:
            reads.summary(conn, Filters(), Order(), Window(limit=PAGE, after=After(1, 1)), clock)
            sql, values = sent[-1]
            cursor = conn.connection.cursor()
            literals = {name: cursor.mogrify("%s", (value,)).decode() for name, value in values.items()}
        return " ".join((sql % (literals | {"after_key": ":key"})).split())


def sweep(one: Machine, size: Size) -> Chapter:
    """Ask for accounts' answers by Zipf's law while a sweep changes a hundred accounts a second."""
    api = _api(one, "sweep")
    with reading(one.engine) as conn:
        listed = conn.execute(text("SELECT platform, handle, host FROM dim_account ORDER BY account_key")).all()
    names = [f"{row.platform}/{row.handle}" + (f"@{row.host}" if row.host else "") for row in listed]
    paths = [f"/api/{what}/{name}" for name in names for what in ("accounts", "history")]
    random.Random(7).shuffle(paths)
    paths = ["/api/summary?sort=-followers", "/api/totals", "/api/accounts?status=failing", *paths]
    weights = list(accumulate(1 / rank**ZIPF for rank in range(1, len(paths) + 1)))
    stop = threading.Event()
    with ThreadPoolExecutor(9) as threads:
        sweep = threads.submit(_change, one, size.accounts, stop)
        try:
            for _ in range(2):  # the first warms up
                until = time.monotonic() + size.zipf_s
                found = [threads.submit(_ask, api.port, paths, weights, until) for _ in range(8)]
                levels = sum((one_found.result() for one_found in found), Counter())
        finally:
            stop.set()
        changed = sweep.result()
    one.end(api.process)
    asked = sum(levels.values())
    hits = levels["l1"] + levels["l2"] + levels["stale"]
    return Chapter(
        "Accounts asked for by Zipf's law while others change",
        [
            Line(f"requests for {len(paths):,} addresses", asked / size.zipf_s, "1/s"),
            Line("accounts that change", changed, "1/s"),
            Line("hit rate", 100 * hits / asked, "%", at_least=80),
            *(Line(f"of them {level}", 100 * levels[level] / asked, "%") for level in ("l1", "l2", "stale")),
        ],
        fails_when="each job purges everything instead of what it touched: a hit rate of 18 %",
    )


def _change(one: Machine, accounts: int, stop: threading.Event) -> float:
    """Change a hundred accounts each second as jobs do, purge what shows them, and return how many a second it was."""
    purger = Purger(make_celery(one.settings()), one.redis)
    began, done, first = time.monotonic(), 0, 0
    while not stop.is_set():
        keys = [number % accounts + 1 for number in range(first, first + SWEPT_PER_S)]
        with transaction(one.engine) as conn:
            newer = account_latest.update().where(account_latest.c.account_key.in_(keys))
            conn.execute(newer.values(followers=account_latest.c.followers + 1, captured_at=datetime.now(UTC)))
            platforms = conn.scalars(
                dim_account.select()
                .with_only_columns(dim_account.c.platform)
                .where(dim_account.c.account_key.in_(keys))
            ).all()
        for platform in set(platforms):
            of_platform = [key for key, its in zip(keys, platforms, strict=False) if its == platform]
            purger.purge(tags.of_job(platform, of_platform))
        done, first = done + len(keys), first + SWEPT_PER_S
        stop.wait(max(0.0, began + done / SWEPT_PER_S - time.monotonic()))
    return done / (time.monotonic() - began)


def _ask(port: int, paths: Sequence[str], weights: Sequence[float], until: float) -> Counter[str]:
    """Ask over one connection until the time has come; return how often each level answered."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    levels: Counter[str] = Counter()
    while time.monotonic() < until:
        (path,) = random.choices(paths, cum_weights=weights)
        connection.request("GET", path, headers={"Accept-Encoding": "zstd"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, f"{path}: {answer.status}"
        levels[answer.headers["X-Cache"]] += 1
    connection.close()
    return levels


def _memory(one: Machine, size: Size) -> Chapter:
    """Watch the memory over very many requests of all kinds, and over the export of all days."""
    api = _api(one, "memory")
    keys = range(1, size.accounts - PAGE)
    listed = [page_path(key, way, 0) for key in keys for way in (False, True)]
    paths = [*listed, *["/healthz", HIT, "/api/totals", "/api/accounts"] * (size.accounts // 100)]
    random.shuffle(paths)
    waiting = deque(paths)
    # What is kept of answers, requests and counts is bounded, and fills up: with what comes again, too.
    _requests(api, one, waiting, size.requests)
    filled = api.rss_bytes
    asked = _requests(api, one, waiting, size.requests)
    grown = api.rss_bytes - filled
    one.end(api.process)
    single = _api(one, "export", WEB_CONCURRENCY="1")
    whole = exporting.measure(Gunicorn(single.process, single.port), "/api/export/grid?format=csv")
    one.end(single.process)
    return Chapter(
        "Memory of two API processes",
        [
            Line("filled", filled / MEBIBYTE, "MiB"),
            Line(f"more after {asked:,} further requests", grown / MEBIBYTE, "MiB", at_most=8),
            Line(
                f"an export of {whole.lines - 1:,} rows, above idle",
                whole.above_idle_bytes / MEBIBYTE,
                "MiB",
                at_most=64,
            ),
        ],
        fails_when="each request leaves 10 kB behind: 61 MiB more after 2,400 further ones",
    )


def _requests(api: Served, one: Machine, paths: deque[str], number: int) -> int:
    """Ask for these in turn, going on where it was left, until it was so many; return how many it was."""
    asked = 0
    while asked < number:
        now = api.load(one.folder, paths, seconds=2, connections=16).requests
        paths.rotate(-now)
        asked += now
    return asked


def _costs(found: Mapping[str, Sequence[Load]]) -> Iterator[Line]:
    for name, loads in found.items():
        yield middle(f"{name}: CPU of a request", [load.cpu_us for load in loads], "µs")
        yield middle(f"{name}: requests per second", [load.per_second for load in loads], "1/s")
        yield middle(
            f"{name}: p99 of 32 connections" if name != "page" else f"{name}: p99",
            [load.p99_us / 1000 for load in loads],
            "ms",
        )


def _cpu(name: str, found: Mapping[str, Sequence[Load]], ours: str, theirs: str, **bounds: float) -> Line:
    pairs = zip(found[ours], found[theirs], strict=True)
    return middle(name, [mine.cpu_us / other.cpu_us for mine, other in pairs], **bounds)


def _rate(name: str, found: Mapping[str, Sequence[Load]], ours: str, theirs: str, **bounds: float) -> Line:
    pairs = zip(found[ours], found[theirs], strict=True)
    return middle(name, [mine.per_second / other.per_second for mine, other in pairs], **bounds)
