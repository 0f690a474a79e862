"""Numbers that follow by themselves while accounts are read: nothing moves, nothing is lost, and it ends."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select, update

from db.engine import transaction
from db.models import account_latest, dim_account, scrape_state
from pipeline.messages import Purger
from tests import fakes
from tests.browser.chromium import LARGEST_SHIFT, axe, layout_shift, shifted
from tests.browser.conftest import PATIENCE_MS, Open
from tests.browser.site import Site
from tests.serving import purger

DRAWN = "canvas"


@pytest.fixture
def purge(site: Site) -> Purger:
    return purger(fakes.settings(site.database_url, site.redis_url))


@pytest.fixture(autouse=True)
def reading(site: Site) -> Iterator[None]:
    """Have a reading under way for as long as a test runs: one account is due."""
    _due(site, "gaps", datetime.now(UTC) - timedelta(minutes=1))
    yield
    _due(site, "gaps", datetime.now(UTC) + timedelta(days=1))


def _due(site: Site, handle: str, at: datetime) -> None:
    key = select(dim_account.c.account_key).where(dim_account.c.handle == handle).scalar_subquery()
    with transaction(site.engine) as conn:
        conn.execute(update(scrape_state).values(next_due_at=datetime.now(UTC) + timedelta(days=1)))
        conn.execute(update(scrape_state).where(scrape_state.c.account_key == key).values(next_due_at=at))


def _read(site: Site, purge: Purger, handle: str, followers: int) -> int:
    """Have an account read, as a worker does: commit, then purge."""
    with transaction(site.engine) as conn:
        key = conn.scalar(
            select(dim_account.c.account_key).where(dim_account.c.handle == handle, dim_account.c.platform == "x")
        )
        now = datetime.now(UTC)
        said = {"followers": followers, "captured_at": now, "snapshot_date": now.date()}
        conn.execute(update(account_latest).where(account_latest.c.account_key == key).values(**said))
    purge.purge({"summary", "accounts", "grid", "platform:x", f"account:{key}"})
    return int(key or 0)


def test_an_overview_follows_a_commit_and_nothing_moves(
    open_page: Open, site: Site, purge: Purger, width: int
) -> None:
    page = open_page("/", width=width)
    page.locator(DRAWN).wait_for()
    whole = page.locator(".figure .value").first
    before = whole.inner_text()
    corner = page.locator("[data-live-note]")
    expect(corner).to_contain_text("Reading accounts: ")
    expect(page.locator("[data-live-said]")).to_contain_text("follow by themselves")
    banner = page.locator(".fresh-line")
    banner.get_by_text("Why").click()
    link = page.get_by_role("link", name="Agency", exact=True).last
    link.focus()
    top = page.evaluate("scrollY")
    page.evaluate("window.same = document.querySelector('.figure .value')")

    _read(site, purge, "agency", 1_500_000 + width)

    expect(whole).not_to_have_text(before)
    assert page.evaluate("window.same === document.querySelector('.figure .value')")
    expect(link).to_be_focused()
    assert page.evaluate("scrollY") == top
    expect(banner.get_by_role("list")).to_be_visible()
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    assert axe(page) == []


def test_the_pages_of_accounts_follow_too(open_page: Open, site: Site, purge: Purger) -> None:
    accounts = open_page("/accounts?q=agency")
    account = open_page("/accounts/x/agency")
    other = open_page("/accounts/x/office001")
    expect(account.locator("[data-live-note]")).to_be_visible()
    renewed = []
    other.on("request", lambda request: renewed.append(request.url) if request.url.endswith("/office001") else None)

    _read(site, purge, "agency", 1_700_000)

    expect(accounts.get_by_role("row").nth(1)).to_contain_text("1,700,000")
    expect(account.locator(".figures")).to_contain_text("1,700,000")
    assert renewed == [], "a page of another account doesn't ask"


def test_the_end_of_a_reading_is_told_and_the_corner_empties(open_page: Open, site: Site, purge: Purger) -> None:
    page = open_page("/")
    corner = page.locator("[data-live-note]")
    expect(corner).to_contain_text("Reading accounts: ", timeout=PATIENCE_MS)

    _due(site, "gaps", datetime.now(UTC) + timedelta(days=1))

    expect(page.locator("[data-live-said]")).to_have_text("The accounts have been read.", timeout=PATIENCE_MS)
    expect(corner).to_contain_text("readings are done")
    expect(corner).to_be_hidden(timeout=PATIENCE_MS)


def test_a_hidden_page_asks_for_nothing_and_catches_up_when_it_is_seen(
    open_page: Open, site: Site, purge: Purger
) -> None:
    page = open_page("/accounts?q=agency")
    expect(page.locator("[data-live-note]")).to_be_visible()
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    with page.expect_event("requestfailed", lambda request: "/api/live" in request.url):
        _show(page, hidden=True)
    _read(site, purge, "agency", 1_800_000)
    assert asked == []

    page.evaluate("Date.now = ((now) => () => now() + 120_000)(Date.now)")  # two minutes later
    _show(page, hidden=False)
    expect(page.get_by_role("row").nth(1)).to_contain_text("1,800,000")


def _show(page: Page, *, hidden: bool) -> None:
    page.evaluate(
        "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def test_where_no_stream_is_to_be_had_a_plain_line_says_so(
    open_page: Open, site: Site, complaints: list[str]
) -> None:
    page = open_page("/compare")
    page.route("**/api/live?*", lambda route: route.fulfill(status=503, headers={"Retry-After": "30"}))
    page.goto("/")
    expect(page.locator("[data-live-note]")).to_have_text(
        "Live updates are not to be had at the moment: the numbers are looked up once a minute."
    )
    assert [line for line in complaints if "503" not in line] == []
    complaints.clear()
