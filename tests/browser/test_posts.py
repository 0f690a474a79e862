"""An account's posts on its page, as people see them."""

from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from db import accounts
from db.engine import Engine, transaction
from tests.browser import site
from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open
from tests.browser.site import HOSTILE, Fill
from tests.serving import add_post

AGENCY = "/accounts/mastodon/agency@social.example"
POSTS = 23


@pytest.fixture(scope="module")
def fill() -> Fill:
    def fill(engine: Engine) -> None:
        site.fill(engine)
        with transaction(engine) as conn:
            key = accounts.find(conn, "mastodon", "agency", "social.example")
            assert key is not None
            for number in range(POSTS):
                at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)
                add_post(conn, key, f"p{number}", published_at=at, text=f"Post {number}", likes=number, comments=0)
            newest = datetime(2026, 2, 1, tzinfo=UTC)
            add_post(conn, key, "evil", published_at=newest, url="javascript:alert(1)", text=HOSTILE * 40)

    return fill


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_nothing_breaks_the_accessibility_rules_and_nothing_moves(open_page: Open, width: int, dark: bool) -> None:
    page = open_page(AGENCY, width=width, dark=dark)
    page.locator("#trend canvas").wait_for()

    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The seven figures leave no hole: each row of them ends where the page does.
    ends = page.locator(".figures > *").evaluate_all(
        "(all) => Object.values(all.reduce((rows, one) => {"
        " const {top, right} = one.getBoundingClientRect();"
        " return {...rows, [top]: Math.max(rows[top] ?? 0, Math.round(right))}; }, {}))"
    )
    assert len(set(ends)) == 1


def test_a_post_is_told_with_its_numbers_and_runs_nothing(open_page: Open) -> None:
    page = open_page(AGENCY)

    table = accessibility_tree(page).one("table", "Posts")

    assert [head.name for head in table.all("columnheader")] == [
        *("Published", "Post", "Likes", "Comments", "Shares", "Views")
    ]
    rows = page.locator("#posts tbody tr")
    expect(rows.nth(0)).to_contain_text("<script>alert(2)</script>")
    assert rows.nth(0).get_by_role("link").count() == 0
    assert rows.nth(1).get_by_role("cell").all_inner_texts() == ["Post 22", "22", "0", "–", "n/a"]
    assert rows.nth(1).get_by_role("link").get_attribute("href") == "https://x.example/p22"


def test_older_posts_follow_without_a_script(open_page: Open) -> None:
    page = open_page(f"{AGENCY}?days=30", java_script_enabled=False)
    seen: list[str] = []

    while True:
        seen += page.locator("#posts .text").all_inner_texts()
        older = page.get_by_role("link", name="Older")
        if not older.count():
            break
        older.click()
    assert seen[1:] == [f"Post {number}" for number in reversed(range(POSTS))]
    expect(page.get_by_role("link", name="30 days")).to_have_attribute("aria-current", "true")
    page.get_by_role("link", name="← Newest").click()
    expect(page.locator("#posts .text").nth(1)).to_have_text("Post 22")
