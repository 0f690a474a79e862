"""The button of /health that asks once more for the accounts that weren't read for one reason: for these, and no others."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import pytest
from falcon.testing import Result
from sqlalchemy import select

from api.dashboard.retry import mark
from db.engine import Engine, reading, transaction
from db.models import scrape_job
from tests import fakes
from tests.browser.site import HOSTILE
from tests.integration.test_page_forms import BROWSER, send, signed_in
from tests.serving import InProcess, add_account, in_process, stand, words

BROKEN = "line one\nline two  "
Keys = Mapping[str, int]


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, X_BEARER_TOKEN="x")) as api:
        yield api


@pytest.fixture
def keys(engine: Engine) -> Keys:
    now = datetime.now(UTC)
    stands = {
        "x/slow": ("failed", "timed out"),
        "x/slower": ("failed", "timed out"),
        "x/odd": ("failed", HOSTILE),
        "x/broken": ("failed", BROKEN),
        "x/lost": ("gone", "timed out"),
        "bluesky/slow.example": ("failed", "timed out"),
        "youtube/locked": ("blocked", "needs YOUTUBE_API_KEY"),
        "x/fine": ("ok", None),
    }
    found = {}
    with transaction(engine) as conn:
        for name, (result, reason) in stands.items():
            found[name] = add_account(conn, name)
            stand(conn, found[name], result=result, reason=reason, last_attempt_at=now, last_success_at=now)
        found["x/resting"] = add_account(conn, "x/resting", is_active=False)
        stand(conn, found["x/resting"], result="failed", reason="timed out", last_attempt_at=now)
    return found


def retry(api: InProcess, headers: dict[str, str], platform: str, status: str, reason: str) -> Result:
    return send(api, "/retry", {"platform": platform, "status": status, "mark": mark(reason)}, headers)


def asked(engine: Engine) -> set[int]:
    """Return the accounts of all jobs; each is a person's."""
    with reading(engine) as conn:
        rows = conn.execute(select(scrape_job.c.accounts, scrape_job.c.lane, scrape_job.c.requested_by)).all()
    assert {(row.lane, row.requested_by) for row in rows} <= {("user_requested", "page:Ann of Press")}
    return {key for row in rows for key in row.accounts}


def test_exactly_the_accounts_of_the_reason_are_asked_for_and_told_of(
    api: InProcess, engine: Engine, keys: Keys
) -> None:
    mine = signed_in(api, engine, "refresh")
    answer = retry(api, mine, "x", "failing", "timed out")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/health?jobs=")
    assert asked(engine) == {keys["x/slow"], keys["x/slower"]}
    page = words(api, answer.headers["location"].partition("#")[0])
    assert "Asked for: 2 accounts in 1 job (1 queued)." in page
    assert retry(api, mine, "x", "failing", "timed out").headers["location"] == answer.headers["location"], (
        "no job twice"
    )


@pytest.mark.parametrize(("name", "reason"), [("x/odd", HOSTILE), ("x/broken", BROKEN)])
def test_a_reason_is_found_whatever_is_in_it(
    api: InProcess, engine: Engine, keys: Keys, name: str, reason: str
) -> None:
    assert retry(api, signed_in(api, engine, "refresh"), "x", "failing", reason).status_code == 303
    assert asked(engine) == {keys[name]}


def test_the_page_offers_it_where_it_can_help(api: InProcess, keys: Keys) -> None:
    body = api.get("/health").text
    for reason in ("timed out", HOSTILE, BROKEN):
        assert f'value="{mark(reason)}"' in body
    assert mark("needs YOUTUBE_API_KEY") not in body
    assert "once it is set" in words(api, "/health")


def test_what_cannot_be_read_or_stands_so_no_more_is_said(api: InProcess, engine: Engine, keys: Keys) -> None:
    mine = signed_in(api, engine, "refresh")
    locked = retry(api, mine, "youtube", "blocked", "needs YOUTUBE_API_KEY")
    assert (locked.status_code, "needs YOUTUBE_API_KEY" in locked.text) == (422, True)
    over = retry(api, mine, "x", "failing", "another reason")
    assert (over.status_code, "stands so any more" in over.text) == (409, True)
    assert asked(engine) == set()


def test_only_who_may_ask_for_readings_does_and_only_from_a_page_of_this_site(
    api: InProcess, engine: Engine, keys: Keys
) -> None:
    nobody = retry(api, BROWSER, "x", "failing", "timed out")
    assert (nobody.status_code, nobody.headers["location"]) == (303, "/sign-in?next=%2Fhealth")
    assert retry(api, signed_in(api, engine), "x", "failing", "timed out").status_code == 403
    mine = signed_in(api, engine, "refresh")
    assert retry(api, {**mine, "Sec_Fetch_Site": "cross-site"}, "x", "failing", "timed out").status_code == 403
    assert asked(engine) == set()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"platform": "x", "status": "fresh", "mark": "0" * 16},
        {"platform": "x", "status": "failing", "mark": "timed out"},
        {"platform": "x", "status": "failing"},
    ],
)
def test_a_form_that_is_none_of_the_page_s_is_refused(api: InProcess, engine: Engine, fields: dict[str, str]) -> None:
    assert send(api, "/retry", fields, signed_in(api, engine, "refresh")).status_code == 400


@pytest.mark.parametrize("jobs", ["x", "1,2", ",".join(["00000000-0000-0000-0000-000000000001"] * 21)])
def test_jobs_that_are_none_are_refused(api: InProcess, jobs: str) -> None:
    assert api.get(f"/health?jobs={jobs}").status_code == 400


def test_jobs_that_are_no_longer_kept_are_told_as_such(api: InProcess, keys: Keys) -> None:
    page = words(api, "/health?jobs=00000000-0000-0000-0000-000000000001")
    assert "These jobs aren't kept any more." in page
