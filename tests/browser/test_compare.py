"""Comparing accounts and organisations: by hand, by address, and without a script."""

import re

from playwright.sync_api import expect

from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open
from tests.browser.site import GAP

THREE = "/compare?s1=x/agency&s2=x/gaps&s3=org:Agency"
DRAWN = "#compared canvas"


def test_nothing_breaks_the_accessibility_rules_and_nothing_moves(open_page: Open, width: int, dark: bool) -> None:
    page = open_page(THREE, width=width, dark=dark)
    page.locator(DRAWN).wait_for()

    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_empty_comparison_and_a_wrong_one_break_no_rule_either(open_page: Open) -> None:
    assert axe(open_page("/compare")) == []
    wrong = open_page("/compare?s1=x/agencie")
    assert axe(wrong) == []
    expect(wrong.get_by_role("alert")).to_contain_text("x/agencie isn't in the list; x/agency")


def test_a_screen_reader_is_told_who_changed_how(open_page: Open) -> None:
    page = open_page(THREE)
    page.locator(DRAWN).wait_for()

    tree = accessibility_tree(page)

    assert [node.name for node in tree.all("heading")] == ["Compare", "Followers"]
    figure = tree.one("figure", "Followers")
    assert "Agency (x/agency) has changed by +4.3 %, the most" in figure.text
    assert "Days without a number are left open: Some days missing has 5." in figure.text
    changes = tree.one("table", "The change of each")
    assert [head.name for head in changes.all("columnheader")][-1] == "Days open"
    assert [node.name.split(" x/")[0] for node in changes.all("rowheader")][1] == "Some days missing"


def test_names_are_offered_while_one_types_and_a_chosen_one_is_added(open_page: Open) -> None:
    page = open_page("/compare?s1=x/gaps")
    field = page.get_by_label("Add an account or organisation")

    field.press_sequentially("agen")
    page.locator("datalist option[value='org:Agency']").wait_for(state="attached")
    assert page.locator("datalist option").evaluate_all("(all) => all.map(({ value }) => value)")[1] == "x/agency"
    field.fill("org:Agency")

    expect(page).to_have_url(re.compile(r"s1=x%2Fgaps&s2=org%3AAgency&scale=absolute$"))
    expect(page.get_by_role("list", name="Compared").get_by_role("listitem")).to_have_count(2)
    page.get_by_role("link", name="Remove Some days missing").press("Enter")
    expect(page).to_have_url(re.compile(r"\?s1=org%3AAgency$"))


def test_lines_are_shown_in_percent_of_the_first_day(open_page: Open) -> None:
    page = open_page(THREE)
    page.get_by_role("link", name="First day = 100").click()
    page.locator(DRAWN).wait_for()

    plot = page.locator("#compared [data-plot]")
    plot.focus()
    plot.press("Home")
    said = page.locator("#compared [data-cursor]")
    expect(said).to_contain_text("Some days missing: 100 % of the first day")


def test_a_day_without_a_number_says_so(open_page: Open) -> None:
    page = open_page(f"/compare?s1=x/gaps&s2=x/agency&from={GAP[0]}&to={GAP[1]}")
    page.locator(DRAWN).wait_for()

    plot = page.locator("#compared [data-plot]")
    plot.focus()
    plot.press("Home")
    expect(page.locator("#compared [data-cursor]")).to_contain_text("Some days missing: no number")
    page.get_by_role("button", name="Show as table").click()
    cells = page.get_by_role("region", name="Followers as a table").locator("tbody td:nth-child(2)")
    assert cells.all_inner_texts() == ["–"] * 5


def test_without_javascript_a_form_adds_and_a_table_shows(open_page: Open) -> None:
    page = open_page("/compare", java_script_enabled=False)

    page.get_by_label("Add an account or organisation").fill("x/agency")
    page.get_by_role("button", name="Show").click()
    page.get_by_label("Add an account or organisation").fill("org:Office")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("list", name="Compared").get_by_role("listitem")).to_have_count(2)
    page.get_by_role("link", name="Show as table").click()
    expect(page.locator("#by-day tbody tr")).to_have_count(60)
    page.get_by_role("link", name="Remove Office").click()
    expect(page.get_by_role("list", name="Compared").get_by_role("listitem")).to_have_count(1)
