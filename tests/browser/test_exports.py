"""Exports and the code of a chart, and the chart in a frame of another site."""

import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open
from tests.browser.site import Site

THREE = "s1=x/agency&s2=x/gaps&s3=org:Agency"


class _Elsewhere(BaseHTTPRequestHandler):
    """A page of another site; what stands in it is set by the test."""

    code = ""

    def do_GET(self) -> None:
        body = f"<!doctype html><html lang=en><title>Elsewhere</title><h1>Elsewhere</h1>{self.code}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, str]]:
    """Return two other sites: one that may frame charts, and one that may not."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield tuple(f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def environ(elsewhere: tuple[str, str]) -> Mapping[str, str]:
    return {"EMBED_ORIGINS": elsewhere[0]}


def test_nothing_breaks_the_accessibility_rules_and_nothing_moves(open_page: Open, width: int, dark: bool) -> None:
    page = open_page(f"/exports?{THREE}", width=width, dark=dark)
    preview = page.frame_locator(".preview")
    page.locator(".preview").scroll_into_view_if_needed()
    preview.locator("canvas").wait_for()

    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_screen_reader_is_told_what_each_file_holds(open_page: Open) -> None:
    tree = accessibility_tree(open_page("/exports"))

    assert [node.name for node in tree.all("heading")] == [
        "Exports & API",
        "The API",
        "Keys",
        "A chart for another site",
    ]
    table = tree.one("table", "Files")
    assert [head.name for head in table.all("columnheader")] == ["What is in it", "Rows now", "Download as"]
    assert "Grid as Excel" in [link.name for link in table.all("link")]


def test_a_chart_is_put_together_and_its_code_copied(open_page: Open) -> None:
    page = open_page("/compare?s1=x/gaps", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("link", name="Embed this chart").click()
    page.get_by_label("Or the last").select_option("90")
    page.get_by_label("Drawn as").select_option("indexed")
    page.get_by_label("Add an account or organisation").fill("org:Agency")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("list", name="Compared").get_by_role("listitem").nth(1).wait_for()

    page.locator("#embed").get_by_role("button", name="Copy").click()
    expect(page.locator("#embed [data-copied]")).to_have_text("Copied.")
    code = page.evaluate("navigator.clipboard.readText()")
    assert "/embed?s1=x%2Fgaps&amp;s2=org%3AAgency&amp;scale=indexed&amp;days=90" in code
    assert code == page.get_by_label("Code of this chart").input_value()


def test_without_javascript_the_code_stands_there_to_be_copied_by_hand(open_page: Open) -> None:
    page = open_page("/exports", java_script_enabled=False)
    page.get_by_label("Add an account or organisation").fill("x/agency")
    page.get_by_role("button", name="Show").click()
    code = page.get_by_label("Code of this chart")
    assert code.input_value().startswith("<iframe src=")
    assert code.get_attribute("readonly") is not None
    expect(page.locator("#embed").get_by_role("button", name="Copy")).to_be_hidden()
    expect(page.frame_locator(".preview").get_by_role("link", name="Show as table")).to_be_visible()


def test_a_site_that_may_shows_the_chart_and_another_does_not(
    open_page: Open, site: Site, elsewhere: tuple[str, str], complaints: list[str]
) -> None:
    page = open_page(f"/exports?{THREE}")
    _Elsewhere.code = page.get_by_label("Code of this chart").input_value()
    allowed, refused = elsewhere

    page.goto(allowed)
    chart = page.frame_locator("iframe")
    chart.locator("canvas").wait_for()
    expect(chart.get_by_role("figure")).to_contain_text("Some days missing has 5")
    chart.get_by_role("button", name="Show as table").click()
    expect(chart.locator("[data-table] tbody tr")).to_have_count(60)
    assert [said for said in complaints if not said.startswith(allowed)] == []

    with page.expect_console_message(lambda said: "frame-ancestors" in said.text):
        page.goto(refused)
    expect(page.get_by_role("heading", name="Elsewhere")).to_be_visible()
    expect(chart.get_by_role("figure")).to_have_count(0)
    complaints.clear()  # these are other sites, and the second was refused


def test_an_embedded_chart_breaks_no_rule_and_fits_its_frame(open_page: Open, width: int, dark: bool) -> None:
    page = open_page(f"/embed?{THREE}", width=width, dark=dark)
    page.set_viewport_size({"width": width, "height": 520})
    page.locator("canvas").wait_for()
    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if width > 400:
        assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_an_embedded_chart_is_a_table_without_javascript(open_page: Open) -> None:
    page: Page = open_page(f"/embed?{THREE}", java_script_enabled=False)
    page.get_by_role("link", name="Show as table").click()
    expect(page.locator("#by-day tbody tr")).to_have_count(60)
