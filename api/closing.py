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

import structlog

from pipeline.settings import Settings

LOGGER = "api.closing"
TOGETHER_S = 0.05
# Whatever else a path holds (quotes, colours, ends of lines) is written as Python writes it.
_PLAIN = re.compile(r"[!#-&(-<>-~]*")


class ClosingLines:
    """Writes one line per request to standard output, those of a twentieth of a second together.

    A request only notes what its line will say. Writing each would take as long as the rest of a hit, and rendering each
    an eighth of it: done for all at once, the code stays in the processor's caches. Who is killed takes what waits with
    him.
    """

    def __init__(self, settings: Settings) -> None:
        self._wanted = settings.log_level in ("debug", "info")
        self._render = json_line if settings.log_format == "json" else console_line
        self._is_seen = settings.log_format != "json" and sys.stdout.isatty()
        self._noted: list[tuple[float, str, str, int, float, str | None, str]] = []

    def write(
        self, ended: float, method: str, path: str, status: int, took_s: float, cache: str | None, request_id: str
    ) -> None:
        """Have the line of a request written; it `ended` by the clock of `time.perf_counter`."""
        if not self._wanted:
            return
        if self._is_seen:  # in colours
            structlog.get_logger(LOGGER).info(
                "request",
                method=method,
                path=path,
                status=status,
                duration_ms=_ms(took_s),
                cache=cache,
                request_id=request_id,
            )
            return
        if not self._noted:
            asyncio.get_running_loop().call_later(TOGETHER_S, self.flush)
        self._noted.append((ended, method, path, status, took_s, cache, request_id))

    def flush(self) -> None:
        """Write what was noted."""
        noted, self._noted = self._noted, []
        clock, render = _Clock(), self._render
        lines = [
            render(clock.text(ended), method, path, status, _ms(took_s), cache, request_id)
            for ended, method, path, status, took_s, cache, request_id in noted
        ]
        sys.stdout.write("".join(lines))
        sys.stdout.flush()


def json_line(
    now: str, method: str, path: str, status: int, duration_ms: float, cache: str | None, request_id: str
) -> str:
    before, between = _same_json(method, path, status, cache)
    return f'{before}{duration_ms}{between}{request_id}", "level": "info", "logger": "{LOGGER}", "timestamp": "{now}"}}\n'


@lru_cache(4096)
def _same_json(method: str, path: str, status: int, cache: str | None) -> tuple[str, str]:
    """Return what lines of the same address share: before the time it took, and from there to the request's id."""
    return (
        f'{{"method": {encode_basestring_ascii(method)}, "path": {encode_basestring_ascii(path)}, "status": {status},'
        ' "duration_ms": ',
        f', "cache": {"null" if cache is None else encode_basestring_ascii(cache)},'
        ' "event": "request", "process": "api", "request_id": "',
    )


def console_line(
    now: str, method: str, path: str, status: int, duration_ms: float, cache: str | None, request_id: str
) -> str:
    between, after = _same_console(method, path, status)
    return (
        f"{now} [info     ] {'request':30} [{LOGGER}] cache={cache} duration_ms={duration_ms}{between}"
        f"{_plain(request_id)}{after}"
    )


@lru_cache(4096)
def _same_console(method: str, path: str, status: int) -> tuple[str, str]:
    """Return what lines of the same address share: after the time it took, and after the request's id."""
    return f" method={_plain(method)} path={_plain(path)} process=api request_id=", f" status={status}\n"


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


def _ms(seconds: float) -> float:
    return int(seconds * 100_000 + 0.5) / 100  # round() takes four times as long


def _plain(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else repr(text)
