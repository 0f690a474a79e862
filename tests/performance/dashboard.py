"""What pages cost with 10,000 accounts: the server's time, Lighthouse's scores, the largest paint and a large chart.

Times of a busy machine say little, so each stands beside a yardstick of the same run: the API's answer with the same
accounts, uPlot without anything around it. The bounds in milliseconds are those that were asked for.
"""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from statistics import quantiles

from msgspec import Struct
from playwright.sync_api import Browser, ViewportSize
from sqlalchemy import text

from db import bulk, partitions
from db.engine import transaction
from tests.browser import chromium
from tests.browser.site import add_up
from tests.history import snapshot
from tests.performance import served
from tests.performance.machine import HERE, Machine, machine
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds
from tests.performance.served import Served
from tests.performance.snapshots import load as load_snapshots
from tests.performance.snapshots import settle

LINES, YEARS = 8, 5
PHONE = ViewportSize(width=412, height=823)
CODINGS = "gzip, deflate, br, zstd"
LIGHTHOUSE = "lighthouse@12.8.2"
CATEGORIES = ("performance", "accessibility", "best-practices")
_LIGHTHOUSE_HOME = HERE / ".benchmarks" / "lighthouse"
_SORTS = ("followers", "posts", "delta_1d", "delta_7d", "handle", "display_name", "platform", "org_name")
_LARGEST_PAINT = """
    () => new Promise((resolve) => new PerformanceObserver((seen) => resolve(seen.getEntries().at(-1).startTime))
      .observe({type: "largest-contentful-paint", buffered: true}))
"""
# What is drawn is read back: otherwise Chromium would paint it after the clock has stopped.
_DRAW = """
    async (rounds) => {
      const figure = document.querySelector("#compared");
      const module = document.querySelector("script[type=module]").src.replace("app.js", "chart.js");
      const { draw } = await import(module);
      const { json } = Response.prototype;
      let began, data;
      Response.prototype.json = async function () {
        data = await json.call(this);
        began = performance.now();
        return data;
      };
      // uPlot clears its canvas whenever it draws.
      const { clearRect } = CanvasRenderingContext2D.prototype;
      let cleared = 0;
      CanvasRenderingContext2D.prototype.clearRect = function (...where) {
        if (figure.contains(this.canvas)) cleared += 1;
        clearRect.apply(this, where);
      };
      const painted = (root) => { for (const one of root.querySelectorAll("canvas")) one.getContext("2d").getImageData(0, 0, 1, 1); };
      const ours = [], bare = [], times = [];
      for (let round = 0; round < rounds; round += 1) {
        const drawn = new Promise((resolve) => figure.addEventListener("drawn", () => queueMicrotask(() => {
          painted(figure);
          resolve(performance.now() - began);
        }), { once: true }));
        cleared = 0;
        await draw(figure);
        ours.push(await drawn);
        // Who watches its size is told of it by then.
        await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
        times.push(cleared);
        const place = document.createElement("div");
        document.body.append(place);
        const { clientWidth: width, clientHeight: height } = figure.querySelector("[data-plot]");
        const columns = [data.dates.map((date) => Date.parse(date) / 1000), ...data.series.map((one) => one.values)];
        const start = performance.now();
        const plot = new uPlot({ width, height, series: columns.map((_, index) => index ? { stroke: "black" } : {}) }, columns, place);
        await null;
        painted(place);
        bare.push(performance.now() - start);
        plot.destroy();
        place.remove();
      }
      return { ours, bare, times, points: data.dates.length, series: data.series.length };
    }
"""


class Size(Struct, frozen=True):
    """How much is there, and how often it is asked for."""

    accounts: int = 10_000
    days: int = 62
    rounds: Rounds = Rounds(5, 10)
    requests: int = 40
    visits: int = 5
    draws: int = 15
    lighthouse: int = 5


QUICK = Size(accounts=600, days=20, rounds=Rounds(1, 1), requests=10, visits=1, draws=2, lighthouse=1)


def run(*, quick: bool = False) -> Iterator[Chapter]:
    """Measure, and yield each chapter as it is found."""
    size = QUICK if quick else Size()
    with machine() as one:
        names = _fill(one, size)
        api = _api(one)
        yield _server(api, size)
        if chromium.chromium() is None:
            yield Chapter("Chromium", [Line(f"not run: {chromium.HOW_TO_GET_IT}", None)])
            return
        with chromium.started() as browser:
            yield _visits(one, browser, names, size)
            yield _chart(api, browser, names, size)
        yield _lighthouse(api, names, size)


def _fill(one: Machine, size: Size) -> Sequence[str]:
    """List accounts with some weeks of history, eight of them with years of it and with posts; return their names."""
    today = datetime.now(UTC).date()
    first = today - timedelta(days=365 * YEARS)
    load_snapshots(one.engine, accounts=size.accounts, days=size.days, last=today, covered_from=first)
    add_up(one.engine)  # before the years of a few: they needn't be
    named = text("SELECT account_key, handle FROM dim_account WHERE platform = 'x' ORDER BY account_key LIMIT :lines")
    with transaction(one.engine) as conn:
        found = conn.execute(named, {"lines": LINES}).all()
        days = [first + timedelta(days=number) for number in range((today - first).days)]
        partitions.cover(conn, days)
        for key, _ in found:
            bulk.upsert_snapshots(conn, [_past(key, day) for day in days[: -size.days]])
        conn.execute(text(_POSTS), {"keys": [key for key, _ in found]})
    settle(one.engine)
    return [f"x/{handle}" for _, handle in found]


def _past(key: int, day: date) -> bulk.Snapshot:
    """Return a day of a line that goes up, by weeks, with the noise that lines have."""
    return snapshot(key, day, 1_000 * key + 3 * day.toordinal() + random.Random(f"{key} {day}").randrange(500))


_POSTS = """
    INSERT INTO fact_social_post (account_key, post_id, url, published_at, post_type, text, likes, comments, read_at, source)
    SELECT account_key, n, 'https://x.example/' || n, now() - n * interval '7 hours', 'post',
           repeat('Words of a post. ', 1 + n % 20), n, n % 9, now(), 'live'
    FROM unnest(CAST(:keys AS bigint[])) AS account_key, generate_series(1, 40) AS n
"""


def _server(api: Served, size: Size) -> Chapter:
    """Ask for list, search and grid: pages that no cache holds, each once, and one that memory holds."""
    fresh = _paths(size)
    pages = ("list", "search", "grid")
    kept = {name: next(fresh[name]) for name in (*pages, "list, API")}
    asked: dict[str, Callable[[], str]] = {name: partial(next, paths) for name, paths in fresh.items()}
    asked |= {f"{name}, kept": partial(str, path) for name, path in kept.items()}
    found: dict[str, list[list[float]]] = {name: [] for name in asked}
    cpu_ms: dict[str, list[float]] = {name: [] for name in asked}

    def ratio(name: str) -> Line:
        pairs = zip(cpu_ms[name], cpu_ms[f"{name}, API"], strict=True)
        shares = [ours / theirs for ours, theirs in pairs]
        return middle(f"{name} / the API's answer with as many accounts, CPU", shares, at_most=4)

    connection = HTTPConnection("127.0.0.1", api.port, timeout=60)
    for number in size.rounds.until_steady(lambda: map(ratio, pages)):
        for name in random.sample([*asked], len(asked)):
            before = api.cpu_s
            times = [_ask(connection, asked[name](), kept=name.endswith("kept")) for _ in range(size.requests)]
            if number:
                found[name].append(times)
                cpu_ms[name].append((api.cpu_s - before) * 1_000 / size.requests)
    connection.close()
    lines = [
        middle(f"{name}: p95", [_p95(times) for times in found[name]], "ms", at_most=100)
        for page in pages
        for name in (page, f"{page}, kept")
    ]
    for name in pages:
        lines += [middle(f"{name}: CPU, PostgreSQL's included", cpu_ms[name], "ms"), ratio(name)]
    return Chapter(
        f"Pages of {size.accounts:,} accounts, one process",
        lines,
        fails_when="templates are compiled for each page: a list took 11 times the CPU of the API's answer, the grid 9",
    )


def _ask(connection: HTTPConnection, path: str, *, kept: bool) -> float:
    """Return the milliseconds until the last byte of an answer, on a connection that is open."""
    began = time.perf_counter()
    connection.request("GET", path, headers={"Accept-Encoding": CODINGS})
    answer = connection.getresponse()
    answer.read()
    took_ms = (time.perf_counter() - began) * 1_000
    assert answer.status == 200, f"{path}: {answer.status}"
    assert kept or answer.headers["X-Cache"] == "miss", f"{path} was meant to be made: {answer.headers['X-Cache']}"
    return took_ms


def _p95(times: Sequence[float]) -> float:
    return quantiles(times, n=20, method="inclusive")[-1]


def _paths(size: Size) -> Mapping[str, Iterator[str]]:
    """Return addresses that are asked for once each, by what they are; those of the API have the accounts of the pages."""
    pages = range(1, size.accounts // 100 + 1)
    sorts = [f"{sign}{column}" for sign in ("", "-") for column in _SORTS]
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=age) for age in range(size.days)]
    paths = {
        "list": [f"/accounts?sort={sort}&page={page}" for sort, page in product(sorts, pages)],
        "list, API": [f"/api/summary?per_page=100&sort={sort}&page={page}" for sort, page in product(sorts, pages)],
        "search": [f"/accounts?q=agency{number}" for number in range(size.accounts)],
        "search, API": [
            f"/api/summary?per_page=100&sort=-followers&q=agency{number}" for number in range(size.accounts)
        ],
        "grid": [f"/grid?sort={sort}&to={day}" for sort, day in product(sorts, days)],
        "grid, API": [
            f"/api/summary?per_page=50&sort={sort}&page={page}"
            for sort, page in product(sorts, range(1, size.accounts // 50 + 1))
        ],
    }
    return {name: iter(random.sample(those, len(those))) for name, those in paths.items()}


def _visits(one: Machine, browser: Browser, names: Sequence[str], size: Size) -> Chapter:
    """Open overview and account as a phone does that was never here: each made for it, and then out of memory."""
    paths = {"overview": "/", "account": f"/accounts/{names[0]}"}
    drawn = {"overview": "#platforms canvas", "account": "#trend canvas"}
    paints: dict[str, list[float]] = {}
    sizes: dict[str, dict[str, int]] = {}
    for number in range(size.visits + 1):
        one.redis.flushall()
        api = _api(one)
        for (name, path), level in product(paths.items(), ("miss", "l1")):
            with browser.new_context(viewport=PHONE, base_url=f"http://127.0.0.1:{api.port}") as context:
                page = context.new_page()
                loaded = chromium.loaded(page)
                answer = page.goto(path)
                assert answer and answer.headers["x-cache"] == level
                page.locator(drawn[name]).wait_for()
                if number:  # the first one warms up
                    paints.setdefault(f"{name}, {level}", []).append(page.evaluate(_LARGEST_PAINT))
                else:  # a canvas may stand there before the size of each script has been told
                    page.wait_for_timeout(chromium.MODULES_MS)
                    sizes[name] = loaded
        one.end(api.process)
    return Chapter(
        f"A first visit from this machine, {size.accounts:,} accounts",
        [
            *(middle(f"{name}: largest paint", found, "ms", at_most=1_000) for name, found in paints.items()),
            *(
                Line(f"{name}: {kind} as sent", of[kind] / 1_000, "kB", at_most=most)
                for name, of in sizes.items()
                for kind, most in (("script", 60), ("stylesheet", 25))
            ),
        ],
        fails_when="all organisations are shown instead of the 25 largest: the overview's largest paint, made for it, after"
        " 1,650 ms, with 1,500 accounts; each page loads 150 kB of script more: 177 kB",
    )


def _api(one: Machine) -> Served:
    environ = {"WEB_CONCURRENCY": "1", "API_RATE_LIMIT": ""}
    return served.start(one, "api", log="api", aside=lambda: one.servers_cpu_s()["PostgreSQL"], **environ)


def _chart(api: Served, browser: Browser, names: Sequence[str], size: Size) -> Chapter:
    """Draw eight lines of five years, and the same with nothing but uPlot."""
    first = datetime.now(UTC).date() - timedelta(days=365 * YEARS - 1)
    which = "&".join(f"s{number}={name}" for number, name in enumerate(names, 1))
    with browser.new_context(
        viewport={"width": 1280, "height": 900}, base_url=f"http://127.0.0.1:{api.port}"
    ) as context:
        page = context.new_page()
        page.goto(f"/compare?{which}&from={first}")
        page.locator("#compared canvas").wait_for()
        page.evaluate(_DRAW, 2)  # warms up
        found = page.evaluate(_DRAW, size.draws)
    ratios = [ours / bare for ours, bare in zip(found["ours"], found["bare"], strict=True)]
    return Chapter(
        f"A chart of {found['series']} lines of {found['points']:,} days",
        [
            middle("drawn", found["ours"], "ms", at_most=50),
            middle("uPlot alone", found["bare"], "ms"),
            middle("drawn / uPlot alone", ratios, at_most=2),
            middle("how often it is drawn", found["times"], at_most=1),
        ],
        fails_when="each day is a point: 151 ms, 10.6 times uPlot alone; it is drawn again when it is told of its size: twice",
    )


def _lighthouse(api: Served, names: Sequence[str], size: Size) -> Chapter:
    """Let Lighthouse judge overview and account as a phone's; the best of its runs: what else a machine does takes off."""
    program = lighthouse()
    title = "Lighthouse, mobile profile, the best of each run"
    if isinstance(program, str):
        return Chapter(title, [Line(f"not run: {program}", None)])
    lines = []
    for name, path in (("overview", "/"), ("account", f"/accounts/{names[0]}")):
        runs = [_judged(program, f"http://127.0.0.1:{api.port}{path}") for _ in range(size.lighthouse)]
        for category in CATEGORIES:
            scores = [100 * run[category] for run in runs]
            lines.append(Line(f"{name}: {category}", max(scores), "points", min(scores), max(scores), at_least=100))
    return Chapter(
        title,
        lines,
        fails_when="an image has no alt: accessibility 95; a script isn't there: best practices 96, with 200 accounts",
    )


def lighthouse() -> Path | str:
    """Return Lighthouse's program, got by npm on the first call; or why there is none."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return "node and npm are not installed (https://nodejs.org)"
    program = _LIGHTHOUSE_HOME / "node_modules" / ".bin" / "lighthouse"
    if not program.exists():
        _LIGHTHOUSE_HOME.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-fund", "--no-audit", "--ignore-scripts", LIGHTHOUSE]
        done = subprocess.run(command, cwd=_LIGHTHOUSE_HOME, capture_output=True, text=True, check=False)
        if done.returncode or not program.exists():
            return f"npm could not get it: {done.stderr.strip()[-200:]}"
    return program


def _judged(program: Path, url: str) -> dict[str, float]:
    """Return the score of each category, from 0 to 1. Raises CalledProcessError."""
    options = [f"--only-categories={','.join(CATEGORIES)}", "--output=json", "--quiet"]
    flags = "--chrome-flags=--headless=new --no-sandbox --disable-gpu"
    environ = os.environ | {"CHROME_PATH": str(chromium.chromium())}
    done = subprocess.run(
        [str(program), url, *options, flags], capture_output=True, text=True, check=True, env=environ
    )
    return {name: found["score"] for name, found in json.loads(done.stdout)["categories"].items()}
