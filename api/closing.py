"""The closing line of each request, in the form of the log, but made by hand. An id needs no quoting (api/request.py).

structlog takes some 40 µs for a line: as long as a whole answer from memory.
"""

import asyncio
import re
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import structlog

from api.counting import endpoint_of
from db.keys import hidden
from pipeline.settings import Settings

LOGGER = "api.closing"
TOGETHER_S = 0.05
SLOW_S = 1.0
# Whatever else a path holds (quotes, colours, ends of lines) is written as Python writes it.
_PLAIN = re.compile(r"[!#-&(-<>-~]*")


class Closed(NamedTuple):
    """What a line says of a request that `ended` by the clock of `time.perf_counter`. `key` is the id of a key."""

    ended: float
    took_s: float
    request_id: str
    method: str
    path: str
    template: str | None
    status: int
    cache: str | None
    key: str | None


class ClosingLines:
    """Writes one line per request to standard output, those of a twentieth of a second together.

    A request only notes what its line will say. Writing each would take as long as the rest of a hit, and rendering each
    an eighth of it: done for all at once, the code stays in the processor's caches. Who is killed takes what waits with
    him.
    """

    def __init__(self, settings: Settings) -> None:
        is_wanted = settings.log_level in ("debug", "info")
        self._wanted = settings.log_requests if is_wanted else "none"
        self._render = json_line if settings.log_format == "json" else console_line
        self._is_seen = settings.log_format != "json" and sys.stdout.isatty()
        self._noted: list[Closed] = []

    def write(self, closed: Closed) -> None:
        """Have the line of a request written, if it is wanted."""
        if self._wanted == "none":
            return
        if self._wanted == "slow" and closed.took_s < SLOW_S and closed.status < 500:
            return
        if self._is_seen:  # in colours
            structlog.get_logger(LOGGER).info(
                "request",
                method=closed.method,
                path=hidden(closed.path),
                endpoint=endpoint_of(closed.template),
                status=closed.status,
                took_s=round(closed.took_s, 6),
                cache=closed.cache,
                key=closed.key,
                request_id=closed.request_id,
            )
            return
        if not self._noted:
            asyncio.get_running_loop().call_later(TOGETHER_S, self.flush)
        self._noted.append(closed)

    def flush(self) -> None:
        """Write what was noted."""
        noted, self._noted = self._noted, []
        clock, render = _Clock(), self._render
        sys.stdout.write("".join([render(clock.text(closed.ended), *closed[1:]) for closed in noted]))
        sys.stdout.flush()


def json_line(now: str, took_s: float, request_id: str, *said: Any) -> str:
    before, between = _same_json(*said)
    return (
        f'{before}{took_s:.6f}{between}{request_id}", "level": "info", "logger": "{LOGGER}", "timestamp": "{now}"}}\n'
    )


@lru_cache(4096)
def _same_json(
    method: str, path: str, template: str | None, status: int, cache: str | None, key: str | None
) -> tuple[str, str]:
    """Return what lines of the same address share: before the time it took, and from there to the request's id."""
    return (
        f'{{"method": {_quoted(method)}, "path": {_quoted(hidden(path))}, "endpoint": {_quoted(endpoint_of(template))},'
        f' "status": {status}, "took_s": ',
        f', "cache": {_quoted(cache)}, "key": {_quoted(key)}, "event": "request", "process": "api", "request_id": "',
    )


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


def console_line(now: str, took_s: float, request_id: str, *said: Any) -> str:
    before, between = _same_console(*said)
    return f"{now}{before}{_plain(request_id)}{between}{took_s:.6f}\n"


@lru_cache(4096)
def _same_console(
    method: str, path: str, template: str | None, status: int, cache: str | None, key: str | None
) -> tuple[str, str]:
    """Return what lines of the same address share: from the moment to the request's id, and to the time it took."""
    return (
        f" [info     ] {'request':30} [{LOGGER}] cache={cache} endpoint={_plain(endpoint_of(template))} key={key}"
        f" method={_plain(method)} path={_plain(hidden(path))} process=api request_id=",
        f" status={status} took_s=",
    )


class _Clock:
    """Tells times of `time.perf_counter` as ISO 8601 has them; what is the same for a whole second is made once in it."""

    def __init__(self) -> None:
        self._began_us = time.time_ns() // 1000 - int(time.perf_counter() * 1e6)
        self._second = 0
        self._text = ""

    def text(self, at: float) -> str:
        second, us = divmod(self._began_us + int(at * 1e6), 1_000_000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{us:06d}Z"


def _plain(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else repr(text)
