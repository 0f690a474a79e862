"""However a page is read: on paper, enlarged, on a narrow screen, in another language, in the system's own colours."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open

PAGES = ["/", "/accounts", "/accounts/x/agency", "/compare?s1=x/agency&s2=x/gaps&s3=org:Agency", "/grid", "/offline"]


@pytest.mark.parametrize("pixels", [640, 390, 320])  # 640 is a desk at 200 %, 320 one at 400 %
def test_no_page_is_wider_than_the_screen(open_page: Open, pixels: int) -> None:
    page = open_page("/", width=pixels)
    for path in PAGES:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= pixels, path


def test_on_paper_there_are_numbers_and_charts_and_no_ways_to_go_on(open_page: Open) -> None:
    page = open_page("/", dark=True)
    page.locator("canvas").wait_for()
    page.emulate_media(media="print", color_scheme="dark")

    for gone in (".top", ".choices", ".chart-links"):
        assert page.locator(gone).first.is_hidden(), gone
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('table')).color") == "rgb(23, 28, 38)"
    assert page.locator("canvas").is_visible()
    assert page.evaluate(_DARKEST) < 160, "lines for a dark page would hardly show on paper"
    page.set_viewport_size({"width": 718, "height": 1000})  # a sheet of A4 within its margins
    for path in PAGES[:4]:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 718, path
    assert page.pdf(format="A4").startswith(b"%PDF")


# How dark the darkest of what is drawn is, where it is drawn at all.
_DARKEST = """() => {
    const canvas = document.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let darkest = 255;
    for (let at = 0; at < data.length; at += 4)
        if (data[at + 3] > 250) darkest = Math.min(darkest, Math.max(data[at], data[at + 1], data[at + 2]));
    return darkest;
}"""


def test_numbers_and_times_are_the_readers_own_and_utc_stays_on_hover(open_page: Open) -> None:
    page = open_page("/accounts/x/agency")
    english = page.locator(".figure .value").first.inner_text()
    german = open_page("/accounts/x/agency", locale="de-DE")
    value = german.locator(".figure .value").first
    expect(value).to_have_text(english.replace(",", "."))

    time = german.locator(".fresh-line time").first
    assert re.fullmatch(r"\d\d\.\d\d\.20\d\d, \d\d:\d\d", time.inner_text())
    assert re.fullmatch(r"\d+ \w+ 20\d\d, \d\d:\d\d UTC", time.get_attribute("title") or "")
    day = german.locator("tbody time").first
    assert re.fullmatch(r"\d\d\.\d\d\.20\d\d", day.inner_text())
    assert (day.get_attribute("title") or "").endswith("a UTC day")
    # As often as it may be asked for: 1.000.000 is no 1.
    german.goto("/accounts?q=agency")
    german.get_by_label("Search").fill("agenc")
    expect(german.get_by_role("row").nth(1)).to_contain_text("1.000.000")
    german.get_by_label("Search").fill("agency")
    expect(german.get_by_role("row").nth(1)).to_contain_text("1.000.000")


def test_peoples_own_words_are_left_as_they_wrote_them(open_page: Open) -> None:
    page = open_page("/grid?q=hostile", locale="de-DE")
    expect(page.get_by_role("columnheader").nth(1)).to_have_text(re.compile(r"^\w+\., \d+\. "))
    expect(page.get_by_role("rowheader")).to_contain_text("<img src=x onerror=alert(1)>")


def test_without_javascript_a_page_says_what_it_cannot_do(open_page: Open) -> None:
    page = open_page("/", java_script_enabled=False)
    expect(page.locator("noscript p")).to_be_visible()
    assert "charts are tables" in (page.locator("noscript p").text_content() or "")
    assert page.locator("[data-legend]").is_hidden()
    time = page.locator(".fresh-line time").first
    expect(time).to_contain_text("UTC")


def test_the_systems_own_colours_draw_the_chart_and_mark_what_had_a_ground(open_page: Open) -> None:
    page = open_page("/", forced_colors="active")
    page.locator("canvas").wait_for()
    banner = page.locator(".status").first
    assert banner.evaluate("(node) => getComputedStyle(node).borderTopStyle") == "solid"
    assert (
        page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--soft').trim()") == "CanvasText"
    )


def test_who_wants_no_motion_sees_none(open_page: Open) -> None:
    page = open_page("/", reduced_motion="reduce")
    moving = "document.getAnimations().filter(({ playState }) => playState === 'running').length"
    assert page.evaluate(moving) == 0
    page.locator("canvas").wait_for()
    assert page.evaluate(moving) == 0


def test_a_chart_has_its_place_and_its_names_before_it_is_drawn(
    open_page: Open, width: int, complaints: list[str]
) -> None:
    page = open_page("/compare", width=width, service_workers="block")
    page.route("**/charts/platforms?*", lambda route: None)  # it never comes
    page.goto("/")
    expect(page.locator("#platforms [data-plot]")).to_have_attribute("aria-busy", "true")
    before = page.locator("#platforms").bounding_box()
    page.unroute("**/charts/platforms?*")
    page.goto("/")
    page.locator("canvas").wait_for()
    assert page.locator("#platforms").bounding_box() == before
    expect(page.locator("[data-legend] li")).to_have_count(4)
    assert all("blocked by Playwright" in line for line in complaints), complaints
    complaints.clear()
