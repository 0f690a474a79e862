"""What counting statements adds to a request: an API that does (DB_PROFILE) and one that doesn't, in one process.

gunicorn runs `both` as it runs the API. A request says in a header which of the two it is for; each answer says how
much CPU the process had used when it began. So every request has its own, from the first byte that is read of it on,
and nothing differs but what is asked about. The CPU of PostgreSQL and Redis isn't in it.
"""

import http.client
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import mean
from typing import Any

from falcon.testing import ASGIConductor

from api.__main__ import CONFIGURATION
from api.app import App, from_environment
from deploy import embedded
from tests.performance.report import Chapter, middle
from tests.serving import gunicorn

ROUNDS = 30
PAIRS = 100
_RUN = ("-m", "gunicorn", "--config", str(CONFIGURATION), "tests.performance.counted:both()")
_COUNTS = b"x-counts"
_CPU_S = b"x-cpu-s"


def both() -> "Both":
    """Return what gunicorn runs."""
    redis_url = os.environ["REDIS_URL"].removesuffix("?db=0")
    return Both(_api(f"{redis_url}?db=1", "false"), _api(f"{redis_url}?db=2", "true"))


def _api(redis_url: str, counts: str) -> App:
    # Each with a cache of its own: neither finds what the other has kept.
    os.environ |= {"REDIS_URL": redis_url, "DB_PROFILE": counts}
    return from_environment()


class Both:
    """Two whole APIs as one, with the CPU that the process has used in each answer."""

    def __init__(self, bare: App, counting: App) -> None:
        self._bare = bare
        self._counting = counting

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return

        async def stamped(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (_CPU_S, repr(time.process_time()).encode())]
            await send(message)

        counts = any(name == _COUNTS for name, _ in scope["headers"])
        await (self._counting if counts else self._bare)(scope, receive, stamped)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        async with ASGIConductor(self._bare), ASGIConductor(self._counting):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def measure(database_url: str, paths: Sequence[str]) -> Chapter:
    """Ask either API once for each of these paths, as far as the rounds go: every request misses every cache."""
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        redis = embedded.start_redis(Path(folder) / "redis")
        try:
            with (
                gunicorn(database_url, redis.url, Path(folder), workers=1, run=_RUN) as server,
                closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection,
            ):
                rounds = list(_rounds(_Client(connection), paths))
        finally:
            redis.stop()
    return Chapter(
        "Statements counted (DB_PROFILE)",
        [
            middle("CPU of a request that misses the caches", [bare_s * 1_000 for bare_s, _ in rounds], "ms"),
            middle("added by counting / that", [(mine - bare) / bare for bare, mine in rounds], at_most=0.02),
        ],
        fails_when="it is noted, too, from where in the code each statement was sent: 0.13 of a request",
    )


class _Client:
    """One connection, on which one request follows the other."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._before_s = 0.0

    def cpu_s(self, path: str, *, counts: bool) -> float:
        """Return what the server has spent since the answer before this one began."""
        self._connection.request("GET", path, headers={_COUNTS.decode(): "yes"} if counts else {})
        answer = self._connection.getresponse()
        answer.read()
        assert (answer.status, answer.headers["X-Cache"]) == (200, "miss"), path
        now_s = float(answer.headers[_CPU_S.decode()])
        spent_s, self._before_s = now_s - self._before_s, now_s
        return spent_s


def _rounds(client: _Client, paths: Sequence[str]) -> Iterator[tuple[float, float]]:
    """Yield per round what a request costs without counting and with it, in CPU seconds.

    A tenth of the paths is left out, those that cost most on both sides together: what disturbs one side alone, such as a
    search for garbage or another process, would outweigh what is looked for, and hits either.
    """
    for number in range(min(ROUNDS + 1, len(paths) // PAIRS)):
        pairs = [_pair(client, path) for path in paths[number * PAIRS : (number + 1) * PAIRS]]
        if number:  # the first warms up
            calm = sorted(pairs, key=sum)[: -PAIRS // 10]
            yield mean(bare for bare, _ in calm), mean(counting for _, counting in calm)


def _pair(client: _Client, path: str) -> tuple[float, float]:
    """Ask for a path twice, in either order; return the CPU seconds without counting and with it."""
    spent_s = {counts: client.cpu_s(path, counts=counts) for counts in random.sample((False, True), 2)}
    return spent_s[False], spent_s[True]
