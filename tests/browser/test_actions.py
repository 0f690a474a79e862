"""What a signed-in person does in the pages: asks for a reading and watches it arrive, edits an account, writes notes."""

import re
from collections.abc import Callable, Iterator, Mapping

import pytest
from playwright.sync_api import Page, Route, expect

from db import keys
from db.engine import Engine, transaction
from deploy.simulator.server import Simulator
from tests.browser import site as sites
from tests.browser.chromium import LARGEST_SHIFT, accessibility_tree, axe, layout_shift, shifted
from tests.browser.conftest import Open
from tests.browser.site import Fill, Site
from tests.serving import add_account, stand, wait_for
from tests.system import System

ARRIVES_MS = 60_000


@pytest.fixture(scope="module")
def fill() -> Fill:
    """Add accounts that haven't been read: one per test that reads one."""

    def fill(engine: Engine) -> None:
        sites.fill(engine)
        with transaction(engine) as conn:
            for name in ("newsroom", "newsdesk", "unread"):
                stand(conn, add_account(conn, f"x/{name}", org_name="Press"), kind="resolve")
            stand(conn, add_account(conn, "x/resting", is_active=False), next_due_at="infinity")

    return fill


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(port=0) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def environ(simulator: Simulator) -> Mapping[str, str]:
    return {"SIMULATOR_URL": simulator.url}


@pytest.fixture(scope="module")
def worker(site: Site, environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a worker of X, and of nothing else."""
    where = {"DATABASE_URL": site.database_url, "REDIS_URL": site.redis_url}
    running = System({**where, **environ}, tmp_path_factory.mktemp("worker"))
    running.worker("x")
    yield
    running.stop()


@pytest.fixture(scope="module")
def key(site: Site) -> str:
    with transaction(site.engine) as conn:
        return keys.create(conn, name="Ann of Press", scopes=["admin"])


def sign_in(page: Page, key: str) -> None:
    """Sign in on the page that asks for it."""
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def tab_to(page: Page, name: str) -> None:
    """Go by keyboard to what is called so."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText ?? ''").strip() == name:
            return
    raise AssertionError(f"the keyboard doesn't reach {name!r}")


def only(complaints: list[str], expected: str) -> None:
    """Assert that Chromium noted nothing else than answers that refuse, which a test provoked."""
    assert [line for line in complaints if expected not in line] == []
    complaints.clear()


def followers(page: Page) -> str:
    return page.locator(".figure .value").first.inner_text()


def says(page: Page, text: str) -> None:
    expect(page.locator("[data-asked]")).to_contain_text(text, timeout=ARRIVES_MS)


def taken_back(page: Page, reason: str, before: str) -> None:
    """Assert that the page promises nothing any more, and says why."""
    says(page, reason)
    button = page.get_by_role("button", name="Refresh now")
    expect(button).to_have_attribute("aria-disabled", "false")
    expect(page.locator("[data-asked]")).to_have_class(re.compile("error"))
    expect(page.locator("[data-renewed=figures]")).to_have_attribute("aria-busy", "false")
    assert followers(page) == before


def test_by_keyboard_alone_from_the_list_to_a_refreshed_account(
    open_page: Open, worker: None, key: str, width: int
) -> None:
    name = {1280: "newsroom", 390: "newsdesk"}[width]
    page = open_page("/accounts", width=width)
    page.get_by_label("Search").focus()
    page.keyboard.type(name)
    page.keyboard.press("Enter")  # where the script that follows the typing isn't there yet
    expect(page.get_by_role("rowheader")).to_have_count(1)
    tab_to(page, name)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/accounts/x/{name}$"))
    assert followers(page) == "–"

    tab_to(page, "Refresh now")
    page.keyboard.press("Enter")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/accounts/x/{name}#refresh$"))
    expect(page.locator("[data-who]")).to_contain_text("Ann of Press")
    loads = page.evaluate("performance.timeOrigin")

    tab_to(page, "Refresh now")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Read just now.")).to_be_visible(timeout=ARRIVES_MS)
    assert re.fullmatch(r"[\d,]+", followers(page))
    expect(page.locator("[data-renewed=status]")).to_have_text("fresh")
    assert page.evaluate("performance.timeOrigin") == loads, "without a reload"
    expect(page.get_by_role("button", name="Refresh now")).to_be_focused()
    shown = followers(page)
    page.reload()
    assert followers(page) == shown, "and what was read stays"
    assert axe(page) == []


@pytest.fixture
def agency(open_page: Open, key: str) -> Page:
    """Return the page of an account that has numbers, signed in."""
    page = open_page("/sign-in?next=/accounts/x/agency")
    sign_in(page, key)
    expect(page.locator("[data-who]")).to_contain_text("Ann of Press")
    page.locator("#trend canvas").wait_for()
    return page


def answer(status: int, body: object) -> Callable[[Route], None]:
    """Return what stands in for the server's answer."""
    return lambda route: route.fulfill(status=status, json=body)


def test_a_refusal_takes_the_promise_back_with_its_reason(agency: Page, complaints: list[str]) -> None:
    before = followers(agency)
    agency.route("**/api/refresh", answer(422, {"detail": "'x/agency' can't be read: needs X_BEARER_TOKEN"}))
    agency.get_by_role("button", name="Refresh now").click()
    taken_back(agency, "needs X_BEARER_TOKEN", before)
    assert layout_shift(agency) <= LARGEST_SHIFT, shifted(agency)
    assert axe(agency) == []
    only(complaints, "status of 422")


def test_a_job_that_fails_takes_it_back_too(agency: Page) -> None:
    before = followers(agency)
    job = "0198c9a4-7a53-4c1e-9d0b-3f6a2b8e4c11"
    failed = {"state": "failed", "reason": "begun 5 times without an end", "accounts": []}
    agency.route("**/api/refresh", answer(202, {"jobs": [{"account": "x/agency", "job_id": job, "href": ""}]}))
    agency.route(f"**/api/jobs/{job}", answer(200, failed))
    agency.get_by_role("button", name="Refresh now").click()
    taken_back(agency, "It couldn't be read: begun 5 times without an end.", before)


def test_a_page_that_nobody_reads_for_promises_nothing(agency: Page) -> None:
    """No worker of Mastodon runs here. The clock is the page's own, put forward."""
    agency.clock.install()
    agency.goto("/accounts/mastodon/agency@social.example")
    before = followers(agency)
    button = agency.get_by_role("button", name="Refresh now")
    button.click()
    says(agency, "Asked for: it waits for its turn.")
    expect(button).to_have_count(0)
    assert agency.get_by_role("button", name="Reading…").get_attribute("aria-disabled") == "true"
    for _ in range(30):
        agency.clock.run_for(1_000)
    taken_back(agency, "Nothing has begun to read it yet", before)


def test_offline_nothing_is_promised(agency: Page, complaints: list[str]) -> None:
    before = followers(agency)
    agency.context.set_offline(True)
    agency.get_by_role("button", name="Refresh now").click()
    taken_back(agency, "You are offline; nothing was asked for.", before)
    agency.context.set_offline(False)
    only(complaints, "ERR_INTERNET_DISCONNECTED")


def test_without_a_script_the_page_says_how_a_reading_stands(
    open_page: Open, worker: None, key: str, complaints: list[str]
) -> None:
    page = open_page("/accounts/x/unread", java_script_enabled=False)
    page.get_by_role("button", name="Refresh now").click()
    sign_in(page, key)
    expect(page).to_have_url(re.compile("/accounts/x/unread$"))
    page.get_by_role("button", name="Refresh now").click()
    expect(page).to_have_url(re.compile(r"/accounts/x/unread\?job="))
    wait_for(lambda: _looked_again(page), "the reading", ARRIVES_MS / 1000)
    assert re.fullmatch(r"[\d,]+", followers(page))

    page.goto("/accounts/x/resting")
    page.get_by_role("button", name="Refresh now").click()
    expect(page.locator("[data-asked]")).to_contain_text("can't be read")
    only(complaints, "status of 422")

    page.goto("/sign-in")
    expect(page.get_by_text("Signed in as Ann of Press")).to_be_visible()
    page.get_by_role("main").get_by_role("button", name="Sign out").click()
    page.goto("/accounts/x/unread")
    page.get_by_role("link", name="Sign in to edit").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def _looked_again(page: Page) -> bool:
    if page.get_by_text("Read just now.").count():
        return True
    page.get_by_role("link", name="Look again").click()
    return False


def test_an_account_is_edited_and_noted_by_keyboard(open_page: Open, key: str, complaints: list[str]) -> None:
    page = open_page("/accounts/x/gaps")
    page.get_by_role("link", name="Sign in to edit").click()
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Edit Some days missing")).to_be_visible()
    assert axe(page) == []
    page.get_by_label("Organisation").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("Press Office")
    page.keyboard.press("Tab")
    page.keyboard.type("Web")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/accounts/x/gaps$"))
    head = page.locator(".page-head")
    expect(head).to_contain_text("Press Office · Web core")
    expect(head.get_by_role("link", name="Edit", exact=True)).to_be_visible()

    head.get_by_role("link", name="Edit", exact=True).click()
    page.get_by_label("To", exact=True).fill("2020-01-01")
    page.get_by_label("Note", exact=True).fill("Counting\nchanged <b>")
    page.get_by_role("button", name="Add note").click()
    fault = page.get_by_role("alert")
    expect(fault).to_contain_text("is later than 2020-01-01")
    expect(page.get_by_label("From")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Note", exact=True)).to_have_value("Counting\nchanged <b>")
    described = accessibility_tree(page).one("Date", "From").description
    assert "is later than 2020-01-01" in described
    only(complaints, "status of 400")
    assert axe(page) == []
    page.get_by_label("To", exact=True).fill("")
    page.get_by_role("button", name="Add note").click()
    page.goto("/accounts/x/gaps")
    expect(page.get_by_text("changed <b>")).to_be_visible()
    page.get_by_role("link", name="Edit", exact=True).click()
    page.get_by_role("button", name="Take back: Counting").click()
    expect(page.get_by_text("changed <b>")).to_have_count(0)
    expect(page.get_by_text("Campaign began")).to_be_visible()


def test_the_sign_in_page_is_for_everybody(open_page: Open, key: str, width: int, dark: bool) -> None:
    page = open_page("/sign-in?next=/compare", width=width, dark=dark)
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tree = accessibility_tree(page)
    assert [node.name for node in tree.all("heading")] == ["Sign in", "No key yet?"]
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/compare$"))
    expect(page.locator("[data-who]")).to_contain_text("Signed in as Ann of Press")
    assert layout_shift(page) <= LARGEST_SHIFT, shifted(page)
    page.get_by_role("link", name="Ann of Press").click()
    page.get_by_role("main").get_by_role("button", name="Sign out").click()
    expect(page.locator("[data-who]")).to_have_text("Sign in")
