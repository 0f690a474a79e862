"""Accounts by days: the table, its filters, and the file that holds the same."""

import csv
import re
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open
from tests.browser.site import GAP


def test_nothing_breaks_the_accessibility_rules_and_nothing_moves(open_page: Open, width: int, dark: bool) -> None:
    page = open_page("/grid", width=width, dark=dark)

    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_screen_reader_is_told_account_and_day_of_each_cell(open_page: Open) -> None:
    tree = accessibility_tree(open_page("/grid?q=agency&days=7"))

    assert [node.name for node in tree.all("heading")] == ["Grid"]
    table = tree.one("table", "Followers by account and day")
    assert len(table.all("columnheader")) == 8
    assert table.all("rowheader")[0].name.startswith("Agency")
    assert len(table.all("cell")) == 7 * len(table.all("rowheader"))


def test_filters_answer_while_one_types_and_stand_in_the_address(open_page: Open) -> None:
    page = open_page("/grid")

    page.get_by_label("Search").press_sequentially("gaps")
    expect(page.get_by_role("rowheader")).to_have_count(1)
    page.get_by_label("Days", exact=True).select_option("28")
    expect(page.get_by_role("columnheader")).to_have_count(29)
    expect(page).to_have_url(re.compile(r"q=gaps.*days=28"))


def test_a_day_without_a_number_is_open_and_the_day_after_it_has_no_change(open_page: Open) -> None:
    page = open_page(f"/grid?q=gaps&days=7&to={GAP[1]}")

    assert page.get_by_role("cell").all_inner_texts()[:5] == ["–"] * 5
    why = page.locator("td.open abbr").evaluate_all("(all) => all.map(({ title }) => title)")
    assert set(why) == {"not yet tracked"}
    page = open_page(f"/grid?q=gaps&days=7&to={GAP[1]}&metric=posts")
    assert "0" not in page.get_by_role("cell").all_inner_texts()[:5]


def test_the_file_holds_what_the_table_shows(open_page: Open) -> None:
    page = open_page("/grid?days=7&sort=display_name&org=Office")
    page.get_by_role("link", name="Next").click()

    with page.expect_download() as download:
        page.get_by_role("link", name="Download this table (CSV)").click()
    head, *rows = csv.reader(Path(download.value.path()).read_text().splitlines())
    assert len(head) == 4 + 2 * 7
    cells = [re.sub(r"[,▲▼+\s]", "", text.replace("−", "-")) for text in page.get_by_role("cell").all_inner_texts()]
    assert ["".join(row[at : at + 2]) for row in rows for at in range(4, len(row), 2)] == [
        cell.replace("±", "").replace("–", "") for cell in cells
    ]


def test_pages_follow_by_what_lies_behind_the_last_row(open_page: Open) -> None:
    page = open_page("/grid")
    seen = set(page.get_by_role("rowheader").all_inner_texts())

    while page.get_by_role("link", name="Next").count():
        page.get_by_role("link", name="Next").click()
        page.wait_for_load_state()
        rows = set(page.get_by_role("rowheader").all_inner_texts())
        assert not rows & seen
        seen |= rows
    assert len(seen) == 127


def test_without_javascript_the_form_filters(open_page: Open) -> None:
    page = open_page("/grid", java_script_enabled=False)

    page.get_by_label("Search").fill("gaps")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("rowheader")).to_have_count(1)
