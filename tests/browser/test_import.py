"""Importing a list and making keys in a browser: by keyboard, without a script, and what a screen reader is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from db import keys
from db.engine import reading, transaction
from db.models import dim_account
from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open
from tests.browser.site import HOSTILE, Site

LIST = f"""url,organization,is_core
https://x.com/agency,Agency,no
https://x.com/{{name}},"{HOSTILE.replace('"', '""')}",yes
https://x.com/home,Agency,no
https://x.com/gaps,,
"""


@pytest.fixture(scope="module")
def admin_key(site: Site) -> str:
    with transaction(site.engine) as conn:
        return keys.create(conn, name="Ann of Press", scopes=["admin"])


@pytest.fixture
def open_signed_in(open_page: Open, site: Site, admin_key: str, browser: Any) -> Callable[..., Page]:
    """Return how a test opens pages as an admin."""
    context = browser.new_context(base_url=site.url)
    context.request.post("/sign-in", form={"key": admin_key}, headers={"Origin": site.url})
    state = context.storage_state()
    context.close()
    return lambda path, **options: open_page(path, storage_state=state, **options)


def handles(site: Site) -> set[str]:
    with reading(site.engine) as conn:
        return {row.handle for row in conn.execute(dim_account.select())}


def test_a_list_is_pasted_checked_and_brought_in_by_keyboard_alone(
    open_signed_in: Callable[..., Page], site: Site, width: int, dark: bool
) -> None:
    name = f"keyed{width}{dark}"
    page = open_signed_in("/import", width=width, dark=dark)
    assert axe(page) == []
    page.get_by_label("Paste it here").focus()
    page.keyboard.insert_text(LIST.format(name=name))
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Check the list")).to_be_focused()
    page.keyboard.press("Enter")

    tally = page.locator("#verdicts .tally")
    expect(tally).to_contain_text("1 new")
    expect(tally).to_contain_text("1 refused")
    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert name not in handles(site)
    page.get_by_role("button", name="Import ").focus()
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading", name="Imported")).to_be_visible()
    assert name in handles(site)
    assert axe(page) == []
    page.get_by_role("link", name="Import another list").press("Enter")
    expect(page.get_by_label("Paste it here")).to_have_value("")


def test_a_screen_reader_is_told_what_becomes_of_each_row(open_signed_in: Callable[..., Page]) -> None:
    page = open_signed_in("/import")
    page.get_by_label("Paste it here").fill(LIST.format(name="told"))
    page.get_by_role("button", name="Check the list").click()
    page.locator("#verdicts").wait_for()

    tree = accessibility_tree(page)

    assert [node.name for node in tree.all("heading")] == [
        "Import",
        "Checked: nothing is written yet",
        "The list",
    ]
    table = tree.one("table", "A verdict per row")
    assert [head.name for head in table.all("columnheader")] == ["Row", "Verdict", "Account", "Why, or what changes"]
    refused = table.all("row")[1]
    assert [cell.text for cell in refused.all("cell")][:2] == ["refused", "–"]
    assert "a page of X itself" in refused.text


def test_without_javascript_a_file_is_checked_and_brought_in(
    open_signed_in: Callable[..., Page], site: Site, tmp_path: Path
) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(LIST.format(name="filed").replace("\n", "\r\n").encode("utf-8-sig"))
    page = open_signed_in("/import", java_script_enabled=False)
    page.get_by_label("Or choose a file").set_input_files(file)
    page.get_by_role("button", name="Check the list").click()
    expect(page.locator("#verdicts .tally")).to_contain_text("1 new")
    page.get_by_role("button", name="Import ").click()
    expect(page.get_by_role("heading", name="Imported")).to_be_visible()
    assert "filed" in handles(site)


def test_a_list_that_is_too_long_stays_in_the_field(open_signed_in: Callable[..., Page]) -> None:
    page = open_signed_in("/import")
    field = page.get_by_label("Paste it here")
    field.evaluate("(field) => { field.value = 'url\\n' + 'x'.repeat(3_000_000); }")
    page.get_by_role("button", name="Check the list").click()
    expect(page.get_by_role("alert")).to_contain_text("The list has 3,000,004 bytes")
    assert field.evaluate("({ value }) => value.length") == 3_000_004


def test_a_file_that_is_far_too_large_is_answered_without_javascript_too(
    open_signed_in: Callable[..., Page], tmp_path: Path, complaints: list[str]
) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(b"url\n" + b"x" * (20 << 20))
    page = open_signed_in("/import", java_script_enabled=False)
    page.get_by_label("Or choose a file").set_input_files(file)
    page.get_by_role("button", name="Check the list").click()
    expect(page.get_by_role("alert")).to_contain_text("larger than the 2,097,152 bytes")
    complaints.clear()  # the console names the status


def test_somebody_who_was_signed_out_meanwhile_gets_the_list_back(
    open_signed_in: Callable[..., Page], complaints: list[str]
) -> None:
    page = open_signed_in("/import")
    page.get_by_label("Paste it here").fill(LIST.format(name="kept"))
    page.context.clear_cookies()
    page.get_by_role("button", name="Check the list").click()
    expect(page.get_by_role("alert")).to_contain_text("sign in with one in another tab")
    expect(page.get_by_label("Paste it here")).to_have_value(LIST.format(name="kept"))
    assert axe(page) == []
    complaints.clear()  # the console names the status


def test_a_key_is_made_copied_and_revoked(open_signed_in: Callable[..., Page], width: int) -> None:
    page = open_signed_in("/exports", width=width, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Name of a new key").fill(HOSTILE)
    page.get_by_label("It may").select_option("refresh")
    page.get_by_role("button", name="Make a key").click()

    made = page.get_by_label("The new key")
    token = made.input_value()
    page.locator("#keys").get_by_role("button", name="Copy").click()
    expect(page.locator("#keys [data-copied]")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == token
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    row = page.locator("#keys tbody tr").filter(has_text=token[3:19])
    row.locator("summary").press("Enter")
    row.get_by_role("button", name="Revoke").press("Enter")
    expect(row).to_have_count(0)
    expect(page.locator("#keys")).not_to_contain_text(token)
    expect(page.locator("#keys")).to_contain_text("revoked")
