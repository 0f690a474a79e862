"""Data health, performance and method, as people see them: pictures with sentences and tables, and "try these again"."""

import re
from collections.abc import Mapping

import pytest
from playwright.sync_api import expect

from db import keys
from db.engine import Engine, transaction
from tests.browser import site as sites
from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open
from tests.browser.site import HOSTILE, Fill, Site
from tests.serving import days_ago

PICTURES = {
    "Requests": "783 requests in the last hour",
    "Time to an answer": "Of all answers half took at most",
    "Where answers came from": "cacheable answers came from a cache",
    "Accounts read or tried": "accounts were read or tried in the last hour",
}


@pytest.fixture(scope="module")
def fill() -> Fill:
    def fill(engine: Engine) -> None:
        sites.fill(engine)
        sites.trouble(engine)
        sites.measured(engine)

    return fill


@pytest.fixture(scope="module")
def environ() -> Mapping[str, str]:
    return {"X_BEARER_TOKEN": "s3cret", "YOUTUBE_API_KEY": "s3cret"}


@pytest.mark.parametrize("path", ["/", "/health", "/performance", "/method"])
def test_nothing_breaks_the_accessibility_rules_and_nothing_moves(
    open_page: Open, path: str, width: int, dark: bool
) -> None:
    page = open_page(path, width=width, dark=dark)
    for shut in page.get_by_text("Show as table").all():
        shut.click()

    assert axe(page) == []
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_screen_reader_is_told_of_the_days_and_what_stands_in_the_way(open_page: Open) -> None:
    tree = accessibility_tree(open_page("/health"))

    assert [node.name for node in tree.all("heading")] == ["Data health", "Accounts read, day by day"]
    figure = tree.one("figure", "Accounts read, day by day")
    assert re.search(r"every account that was due was read on \d+ of 31 days; fewest on ", figure.text)
    calendar = figure.one("table", "Part of the accounts due on each day that were read")
    assert [head.name for head in calendar.all("columnheader")][:2] == ["Week of", "Mon"]
    yesterday = days_ago(1)
    (cell,) = (one for one in calendar.all("cell") if one.name.startswith(f"{yesterday.day} {yesterday:%B}:"))
    assert re.fullmatch(r"\d+ \w+: ?95\s% ?125 of 131", cell.name)
    reasons = tree.one("table", "What stands in the way")
    assert {head.name for head in reasons.all("rowheader")} >= {"timed out", HOSTILE, "not found"}
    assert any(one.name.startswith("Try these again: 2 of X, timed out") for one in reasons.all("button"))
    alerts = tree.one("table", "Open alerts")
    assert [head.name.split(" ")[0] for head in alerts.all("rowheader")] == [
        "THREADS_ACCESS_TOKEN",
        "Bluesky:",
        "x/agency",
    ]
    assert HOSTILE in alerts.text and "1,202 more" in alerts.text
    waiting = tree.one("table", "Credentials that wait")
    assert "X_BEARER_TOKEN" in waiting.text and "429" in waiting.text


def test_the_first_page_leads_from_an_alert_to_data_health(open_page: Open) -> None:
    page = open_page("/")
    shown = page.get_by_role("region", name="Open alerts")
    expect(shown.get_by_role("listitem")).to_have_count(3)
    expect(shown).to_contain_text("x/agency lost 250,000 followers in a day")
    shown.get_by_role("link", name="Alerts in data health").press("Enter")
    expect(page.get_by_role("table", name="Open alerts")).to_be_in_viewport()


def test_a_screen_reader_is_told_of_each_picture(open_page: Open) -> None:
    page = open_page("/performance")
    page.get_by_text("Show as table").first.click()
    tree = accessibility_tree(page)

    assert [node.name for node in tree.all("heading")] == ["Performance", *PICTURES, "Statements"]
    for title, said in PICTURES.items():
        figure = tree.one("figure", title)
        assert said in figure.text
        (drawing,) = (node for node in figure.all("image") if node.name == title)
        assert said in drawing.description
    table = tree.one("table", "Requests, minute by minute")
    assert len(table.all("rowheader")) == 60
    assert tree.one("table", "Endpoints").all("rowheader")[0].name == "/api/summary"
    assert "DB_PROFILE=true" in tree.text


def test_a_screen_reader_is_told_what_each_count_means(open_page: Open) -> None:
    tree = accessibility_tree(open_page("/method"))

    assert tree.all("heading")[0].name == "Method"
    counts = tree.one("table", "What each count means")
    names = ["Platform", "Followers", "Following", "Posts", "Engagement"]
    assert [head.name for head in counts.all("columnheader")] == names
    assert len(counts.all("cell")) == 4 * len(counts.all("rowheader"))
    assert {head.name for head in tree.one("table", "How exact").all("rowheader")} == {
        *("exact", "rounded", "hidden", "held")
    }


def test_what_failed_is_asked_for_again_by_keyboard_once_one_is_signed_in(open_page: Open, site: Site) -> None:
    with transaction(site.engine) as conn:
        key = keys.create(conn, name="Ann of Press", scopes=["refresh"])
    page = open_page("/health", java_script_enabled=False)
    page.get_by_role("button", name="Try these again: 2 of X, timed out").press("Enter")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile(r"/health$"))
    page.get_by_role("button", name="Try these again: 2 of X, timed out").press("Enter")

    expect(page.get_by_role("status").filter(has_text="Asked for")).to_contain_text("2 accounts in 1 job (1 queued)")
    expect(page.get_by_role("region", name="Queues")).to_contain_text("x.user_requested")


def test_what_a_platform_or_a_person_wrote_stays_text(open_page: Open) -> None:
    page = open_page("/health")

    assert page.get_by_text(HOSTILE).count() >= 3
    assert page.locator("img").count() == 0


def test_another_span_is_chosen_and_stands_in_the_address(open_page: Open) -> None:
    page = open_page("/performance")
    page.get_by_role("link", name="The last 24 hours").click()

    expect(page).to_have_url(re.compile(r"span=day"))
    expect(page.locator("#requests .sentence")).to_contain_text("2,381 requests in the last 24 hours")


def test_a_platform_is_chosen_and_stands_in_the_address(open_page: Open) -> None:
    page = open_page("/health")
    page.get_by_role("link", name="YouTube", exact=True).click()

    expect(page).to_have_url(re.compile(r"platform=youtube"))
    expect(page.get_by_role("heading", name="Accounts read, day by day: YouTube")).to_be_visible()
