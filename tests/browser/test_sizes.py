"""What a first visit loads, as it is sent: a phone on the road has to wait for all of it."""

from playwright.sync_api import Page

from api.dashboard.look import NAVIGATION
from tests.browser.chromium import MODULES_MS, loaded
from tests.browser.conftest import Open

MOST_SCRIPT_BYTES, MOST_STYLE_BYTES = 60_000, 25_000
PAGES = [*(path for path, _ in NAVIGATION), "/accounts/x/agency", "/compare?s1=x/agency&s2=org:Agency", "/docs"]


def load(page: Page, path: str) -> None:
    page.goto(path, wait_until="load")
    page.wait_for_timeout(MODULES_MS)


def test_no_page_loads_more_scripts_and_styles_than_a_phone_can_wait_for(open_page: Open) -> None:
    for path in dict.fromkeys(PAGES):
        page = open_page("/healthz")
        sizes = loaded(page)
        load(page, path)
        page.close()

        assert 0 < sizes["script"] <= MOST_SCRIPT_BYTES, (path, sizes)
        assert 0 < sizes["stylesheet"] <= MOST_STYLE_BYTES, (path, sizes)


def test_a_page_without_a_chart_in_view_loads_no_charts(open_page: Open) -> None:
    page = open_page("/healthz")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    load(page, "/accounts")
    assert any("app.js" in url for url in asked)
    assert not any("chart" in url.lower() or "uplot" in url.lower() for url in asked)
