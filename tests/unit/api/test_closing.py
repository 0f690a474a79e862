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
    return made(WHEN, "GET", path, 200, 0.12, cache, request_id)


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
            "request", method="GET", path=path, status=200, duration_ms=0.12, cache=cache
        )
    said = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", WHEN, capsys.readouterr().out)
    assert render(form, path, cache, "abc=1") == said


@pytest.mark.parametrize("form", ["console", "json"])
@given(path=st.text())
def test_no_path_makes_a_second_line_or_colours(form: str, path: str) -> None:
    line = render(form, path, None, "abc")
    assert line.endswith("\n")
    assert line[:-1].isprintable()
