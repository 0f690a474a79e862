"""Pages without the network: what was seen is there and says how old it is; with it, nothing is ever old."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import update

from db.engine import transaction
from db.models import dim_account
from db.tags import EVERYTHING
from pipeline.messages import Purger
from tests import fakes
from tests.browser.chromium import axe
from tests.browser.conftest import Open
from tests.browser.site import Site
from tests.serving import gunicorn, purger, wait_for

# What the pages' cache holds, oldest first.
KEPT = "(async () => (await (await caches.open((await caches.keys()).find((name) => name.includes('pages')) ?? 'none')).keys()).map(({ url }) => new URL(url).pathname + new URL(url).search))()"


@pytest.fixture
def purge(site: Site) -> Purger:
    return purger(fakes.settings(site.database_url, site.redis_url))


def until(page: Page, expression: str, what: str) -> None:
    """Wait for a condition in the page: playwright's own wait compiles it there, which the page's policy forbids."""
    wait_for(lambda: page.evaluate(expression), what)


def settle(page: Page, *paths: str) -> None:
    """Wait until the service worker is in charge and has kept these pages."""
    until(page, "navigator.serviceWorker.controller !== null", "a service worker")
    wait_for(lambda: set(paths) <= set(page.evaluate(KEPT)), f"{paths} kept")


def lose_network(page: Page, complaints: list[str]) -> None:
    page.context.set_offline(True)
    complaints.clear()


def test_pages_seen_before_are_there_offline_and_say_from_when(open_page: Open, complaints: list[str]) -> None:
    page = open_page("/")
    page.locator("canvas").wait_for()
    # The first page, and its chart, were there before the service worker.
    settle(page, "/", page.locator("#platforms").get_attribute("data-chart") or "")
    page.get_by_role("link", name="Accounts", exact=True).click()
    settle(page, "/accounts")
    shown = page.locator("tbody tr").first.inner_text()
    page.context.set_offline(True)
    expect(page.locator("[data-offline]")).to_contain_text("Offline: numbers from")

    page.reload()
    assert page.locator("tbody tr").first.inner_text() == shown
    expect(page.locator("[data-offline]")).to_contain_text(
        re.compile(r"Offline: numbers from \d+ \w+ 20\d\d, \d\d:\d\d\.")
    )
    page.goto("/")
    page.locator("canvas").wait_for()
    expect(page.locator("[data-offline]")).to_be_visible()
    assert axe(page) == []

    complaints.clear()
    page.context.set_offline(False)
    expect(page.locator("[data-offline]")).to_be_hidden()
    complaints.clear()


def test_a_page_never_seen_says_so_and_lists_those_that_were(open_page: Open, complaints: list[str]) -> None:
    page = open_page("/accounts?q=hostile")
    settle(page, "/accounts?q=hostile")
    page.goto("/grid")
    settle(page, "/grid")
    lose_network(page, complaints)

    page.goto("/compare")
    expect(page.get_by_role("heading", level=1)).to_have_text("Offline: this page isn't here")
    assert axe(page) == []
    listed = page.locator(".kept a")
    assert listed.all_inner_texts() == ["Grid", "Accounts"]
    listed.last.click()
    expect(page.get_by_role("rowheader")).to_contain_text("<img src=x onerror=alert(1)>")
    complaints.clear()


def test_online_a_page_always_shows_what_is_so_now(open_page: Open, site: Site, purge: Purger) -> None:
    page = open_page("/accounts?q=photos")
    settle(page, "/accounts?q=photos")
    for name in ("Photo desk I", "Photo desk II"):
        with transaction(site.engine) as conn:
            conn.execute(update(dim_account).where(dim_account.c.handle == "photos").values(display_name=name))
        purge.purge({"summary", "accounts", "names"})
        # Lists may be as old as two seconds: by the server's own answer, which passes no service worker.
        wait_for(lambda name=name: f"{name}</a>" in page.request.get("/accounts?q=photos").text(), name)
        page.reload()
        expect(page.get_by_role("rowheader")).to_contain_text(name)
        expect(page.locator("[data-offline]")).to_be_hidden()


def test_who_signs_out_leaves_nothing_behind(open_page: Open, complaints: list[str]) -> None:
    page = open_page("/accounts")
    settle(page, "/accounts")
    page.evaluate("fetch('/sign-out', { method: 'POST' }).then(() => {})")
    wait_for(lambda: page.evaluate(KEPT) == [], "nothing kept")
    lose_network(page, complaints)

    page.goto("/accounts")
    expect(page.get_by_role("heading", level=1)).to_have_text("Offline: this page isn't here")
    expect(page.locator(".kept li")).to_have_count(0)
    complaints.clear()


def test_only_pages_and_what_they_draw_are_kept_and_not_too_many(open_page: Open, complaints: list[str]) -> None:
    page = open_page("/")
    settle(page, "/")
    page.evaluate("""async () => {
        const get = (path, Accept = "text/html") => fetch(path, { headers: { Accept } }).then((answer) => answer.blob());
        for (let days = 1; days <= 70; days += 1) await get(`/charts/platforms?format=json&from=2026-01-01&to=2026-02-${days % 28 + 1}&scale=${days % 2 ? "indexed" : "absolute"}`, "application/json");
        for (const path of ["/api/summary", "/api/jobs", "/healthz", "/sign-in", "/session", "/grid?format=csv", "/compare"]) await get(path);
    }""")
    settle(page, "/compare")

    kept = page.evaluate(KEPT)
    assert len(kept) <= 60
    assert not [path for path in kept if not re.match(r"/(compare|charts/platforms)?(\?|$)", path)], kept
    complaints.clear()  # of /sign-in and /session, where there are none


def test_a_deploy_takes_the_place_of_the_version_before_and_files_may_come_from_a_cdn(
    browser: Browser, site: Site, purge: Purger, tmp_path: Path
) -> None:
    def caches() -> list[str]:
        return [str(name) for name in page.evaluate("caches.keys()")]

    context = browser.new_context()
    page = context.new_page()
    with gunicorn(site.database_url, site.redis_url, tmp_path, workers=1) as server:
        page.goto(f"http://127.0.0.1:{server.port}/")
        settle(page, "/")
        before = caches()
        assert len(before) == 2
        page.evaluate("caches.open('another-site').then(() => {})")
    # The files' other origin is that of the site.
    with gunicorn(
        site.database_url, site.redis_url, tmp_path, workers=1, port=server.port, STATIC_URL=site.url
    ) as server:
        purge.purge({EVERYTHING})  # pages that name the files at their other address
        page.reload()
        wait_for(lambda: len(caches()) > 1 and not set(before) & set(caches()), "the version before gone")
        assert "another-site" in caches()
        page.reload()
        settle(page, "/")
        page.locator("canvas").wait_for()
        context.set_offline(True)
        page.reload()
        page.locator("canvas").wait_for()
        expect(page.locator("[data-offline]")).to_contain_text("Offline: numbers from")
        assert page.evaluate("document.styleSheets.length") > 0
    context.close()
