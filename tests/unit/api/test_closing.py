import asyncio
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from api import closing
from pipeline import log
from tests import fakes

WHEN = "2026-03-02T12:00:00.000001Z"


def render(form: str, path: str, cache: str | None, request_id: str) -> str:
    made = {"console": closing.console_line, "json": closing.json_line}[form]
    return made(WHEN, 0.123456, request_id, "GET", path, "/api/{name:path}", 200, cache, "00ff")


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.configure(**before)


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("path", ["/", "/api/history/x/a b", "/a=b", "/it's", '/"', "/\\"])
@pytest.mark.parametrize("cache", [None, "l1"])
@pytest.mark.usefixtures("logging_restored")
def test_a_line_is_as_the_log_would_have_rendered_it(
    form: str, path: str, cache: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(fakes.settings("postgresql:///x", "redis://x", LOG_FORMAT=form), "api")
    with structlog.contextvars.bound_contextvars(request_id="abc=1"):
        structlog.get_logger(closing.LOGGER).info(
            "request",
            method="GET",
            path=path,
            endpoint="/api/{name}",
            status=200,
            took_s=0.123456,
            cache=cache,
            key="00ff",
        )
    said = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", WHEN, capsys.readouterr().out)
    assert render(form, path, cache, "abc=1") == said


@pytest.mark.parametrize("form", ["console", "json"])
@given(path=st.text())
def test_no_path_makes_a_second_line_or_colours(form: str, path: str) -> None:
    line = render(form, path, None, "abc")
    assert line.endswith("\n")
    assert line[:-1].isprintable()


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_key_in_a_path_loses_its_secret(form: str) -> None:
    key_id, secret = "0123456789abcdef", "f0" * 32
    line = render(form, f"/api/rc_{key_id}_{secret}/x", None, "abc")
    assert secret not in line and key_id in line


@pytest.mark.parametrize(
    ("wanted", "said"), [("all", ["fast", "slow", "failed"]), ("slow", ["slow", "failed"]), ("none", [])]
)
def test_as_many_requests_are_logged_as_are_wanted(
    wanted: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask() -> None:
        lines = closing.ClosingLines(fakes.settings("postgresql:///x", "redis://x", LOG_REQUESTS=wanted))
        for request_id, took_s, status in (("fast", 0.1, 404), ("slow", 1.0, 200), ("failed", 0.1, 503)):
            lines.write(closing.Closed(0.0, took_s, request_id, "GET", "/", "/", status, None, None))
        lines.flush()

    asyncio.run(ask())
    assert re.findall(r"request_id=(\w+)", capsys.readouterr().out) == said
