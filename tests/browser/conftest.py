"""What the browser tests share: one Chromium and one site per file, and pages that fail on what they complain of.

A file has another list by a fixture `fill` of its own, and other settings of gunicorn by `environ`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pytest
import redis
from playwright.sync_api import Browser, Page

from db.engine import make_engine
from tests import databases
from tests.browser import chromium
from tests.browser import site as sites
from tests.browser.site import Fill, Site
from tests.serving import gunicorn

PATIENCE_MS = 15_000


class Open(Protocol):
    """Open a path of the site in a page of its own. Options are those of playwright's `new_context`."""

    def __call__(self, path: str, *, width: int = 1280, dark: bool = False, **options: Any) -> Page: ...


# playwright's loop runs in this thread until it is closed: not longer than one file, or others could run none.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if chromium.chromium() is None:
        pytest.skip(chromium.HOW_TO_GET_IT)
    with chromium.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def fill() -> Fill:
    return sites.fill


@pytest.fixture(scope="module")
def environ() -> Mapping[str, str]:
    return {}


@pytest.fixture(scope="module")
def site(
    postgres: str,
    redis_server: str,
    fill: Fill,
    environ: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Return the file's site. Tests that change what it shows leave it so that the others don't mind."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    with databases.copied(postgres) as url:
        engine = make_engine(url, application_name="tests")
        fill(engine)
        with gunicorn(url, redis_server, tmp_path_factory.mktemp("api"), workers=1, **environ) as server:
            yield Site(f"http://127.0.0.1:{server.port}", engine, url, redis_server)
        engine.dispose()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """Collect what pages complain of; a test that provokes some looks at them and takes them with `clear()`."""
    said: list[str] = []
    yield said
    assert said == []


@pytest.fixture
def open_page(browser: Browser, site: Site, complaints: list[str]) -> Iterator[Open]:
    """Return how a test opens pages. What they complain of fails the test."""
    contexts = []

    def open_page(path: str, *, width: int = 1280, dark: bool = False, **options: Any) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            base_url=site.url,
            **{"locale": "en-GB", "timezone_id": "Europe/Berlin"} | options,
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        chromium.watch(page, site.url, complaints)
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(params=[1280, 390])
def width(request: pytest.FixtureRequest) -> int:
    """Run a test on a desk and on a phone."""
    return int(request.param)


@pytest.fixture(params=[False, True], ids=["light", "dark"])
def dark(request: pytest.FixtureRequest) -> bool:
    """Run a test in the light and in the dark."""
    return bool(request.param)
