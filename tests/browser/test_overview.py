"""The first page, as people see it: what is on it, in words, and how it is used."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open

DRAWN = "#platforms canvas"


def test_nothing_breaks_the_accessibility_rules_and_nothing_moves(open_page: Open, width: int, dark: bool) -> None:
    page = open_page("/", width=width, dark=dark)
    page.locator(DRAWN).wait_for()

    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_screen_reader_is_told_what_the_page_shows(open_page: Open) -> None:
    page = open_page("/")
    page.locator(DRAWN).wait_for()

    tree = accessibility_tree(page)

    assert [node.name for node in tree.all("heading")] == ["Overview", "Followers by platform, first day = 100"]
    platforms = tree.one("table", "Platforms")
    assert [head.name for head in platforms.all("columnheader")] == ["Platform", "Followers", "7 days", "60 days"]
    assert [head.name.split()[0] for head in platforms.all("rowheader")][:2] == ["X", "YouTube"]
    assert tree.one("table", "Biggest gains").all("rowheader")[0].name.startswith("Agency")
    figure = tree.one("figure", "Followers by platform")
    assert "All accounts: " in figure.text
    assert figure.all("application")[0].name.endswith("left and right arrow go from day to day")


def test_the_banner_says_what_is_not_fresh_and_why(open_page: Open) -> None:
    page = open_page("/")

    banner = page.locator(".fresh-line")
    expect(banner).to_contain_text("125 of 127 accounts are fresh")
    banner.get_by_text("Why").click()
    expect(banner).to_contain_text("1 of Facebook blocked: needs FACEBOOK_ACCESS_TOKEN")


def test_the_chart_goes_by_keyboard_from_day_to_day_and_says_each(open_page: Open) -> None:
    page = open_page("/?scale=absolute")
    page.locator(DRAWN).wait_for()
    plot = page.locator("#platforms [data-plot]")
    said = page.locator("#platforms [data-cursor]")

    plot.focus()
    plot.press("End")
    expect(said).to_contain_text("X: ")
    newest = said.inner_text()
    plot.press("ArrowLeft")
    expect(said).not_to_have_text(newest)
    assert "followers" in said.inner_text()
    assert said.get_attribute("aria-live") == "polite"


def test_the_chart_is_a_table_and_a_file_as_well(open_page: Open, tmp_path: Path) -> None:
    page = open_page("/?scale=absolute")
    page.locator(DRAWN).wait_for()

    page.get_by_role("button", name="Show as table").press("Enter")
    table = page.get_by_role("region", name="Followers by platform as a table")
    expect(table.locator("tbody tr")).to_have_count(60)
    shown = table.locator("tbody tr").first.locator("td").first.inner_text()

    with page.expect_download() as download:
        page.locator("#platforms").get_by_role("link", name="CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == 61
    assert shown.replace(",", "") in lines[-1].split(",")


def test_without_javascript_the_numbers_are_there(open_page: Open) -> None:
    page = open_page("/", java_script_enabled=False)

    expect(page.locator("#platforms")).to_contain_text("The chart needs JavaScript")
    page.locator("#platforms").get_by_role("link", name="Show as table").click()
    expect(page.locator("#platforms-by-day tbody tr")).to_have_count(60)
    page.get_by_role("link", name="Followers", exact=True).click()
    expect(page.get_by_role("heading", name="Followers by platform")).to_be_visible()


def test_what_people_wrote_stays_text(open_page: Open) -> None:
    page = open_page("/accounts?q=hostile")

    expect(page.get_by_role("rowheader")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("img").count() == 0
