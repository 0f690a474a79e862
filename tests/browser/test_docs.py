"""The page of the API, as people see it."""

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open


# axe takes long for so long a page: not each width in each colour.
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_nothing_breaks_the_accessibility_rules_and_nothing_moves(open_page: Open, width: int, dark: bool) -> None:
    page = open_page("/docs", width=width, dark=dark)

    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_is_a_page_among_the_others_and_leads_to_each_endpoint(open_page: Open) -> None:
    page = open_page("/docs")

    tree = accessibility_tree(page)

    assert tree.one("navigation", "Pages").one("link", "Overview")
    headings = [node.name.replace(" ", "") for node in tree.all("heading")]
    assert headings[0].startswith("API") and "GET/api/summary" in headings
    page.get_by_role("navigation", name="Contents").locator("a[href='#getTotals']").click()
    expect(page.locator("#getTotals")).to_be_in_viewport()
