"""The forms of an account's pages: what they do, whom they let, and what comes back when something is wrong."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from falcon.testing import Result
from sqlalchemy import text

from db import annotations, keys
from db.engine import Engine, reading, transaction
from tests import fakes
from tests.serving import InProcess, add_account, in_process, keep, stand

BROWSER = {"Sec_Fetch_Site": "same-origin", "Accept": "text/html"}
UNCHANGED = {"org_name": "Office", "owner_team": "", "is_core_account": "", "is_active": "yes"}
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def api(database_url: str, redis_url: str, engine: Engine) -> Iterator[InProcess]:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency", org_name="Office"), 5)
        add_account(conn, "x/other")
        stand(conn, add_account(conn, "x/resting", is_active=False), next_due_at="infinity")
    with in_process(fakes.settings(database_url, redis_url, SIMULATOR_URL="http://127.0.0.1:9")) as api:
        api.wait_until_it_hears_purges()
        yield api


def signed_in(api: InProcess, engine: Engine, *scopes: keys.Scope) -> dict[str, str]:
    """Return the headers of a browser that is signed in by a new key."""
    with transaction(engine) as conn:
        token = keys.create(conn, name="Ann of Press", scopes=scopes)
    answer = send(api, "/sign-in", {"key": token}, BROWSER)
    return {**BROWSER, "Cookie": answer.headers["set-cookie"].partition(";")[0]}


def send(api: InProcess, path: str, fields: dict[str, str], headers: dict[str, str]) -> Result:
    return api.ask("POST", path, urlencode(fields), Content_Type="application/x-www-form-urlencoded", **headers)


def edit(api: InProcess, headers: dict[str, str], **fields: str) -> Result:
    was = {f"was_{name}": value for name, value in UNCHANGED.items()}
    return send(api, "/edit/x/agency", {"do": "edit", **was, **UNCHANGED, **fields}, headers)


def account(api: InProcess) -> Any:
    return api.get("/api/accounts/x/agency").json


def notes(engine: Engine) -> list[str]:
    with reading(engine) as conn:
        return [one.note for one in annotations.listed(conn)]


def test_asking_for_a_reading_leads_to_a_page_that_tells_of_it(api: InProcess, engine: Engine) -> None:
    mine = signed_in(api, engine, "refresh")
    answer = send(api, "/refresh/x/agency", {}, mine)
    assert answer.status_code == 303
    path = answer.headers["location"]
    assert re.fullmatch(r"/accounts/x/agency\?job=[0-9a-f-]{36}", path)
    page = api.get(path, Accept="text/html")
    assert "Asked for: it waits for its turn." in page.text
    assert page.headers["cache-control"] == "no-store"
    job = path.partition("job=")[2]
    assert send(api, "/refresh/x/agency", {}, mine).headers["location"] == path, "it is on its way already"
    with transaction(engine) as conn:
        assert conn.execute(text("SELECT requested_by FROM scrape_job")).scalars().all() == ["page:Ann of Press"]
        conn.execute(text("UPDATE scrape_job SET state = 'running'"))
    assert "It is being read now." in api.get(path).text
    ended = (
        "UPDATE scrape_job SET state = :state, finished_at = now(), reason = :reason, outcomes = CAST(:said AS jsonb)"
    )
    key = account(api)["account_key"]
    said = f'[{{"account_key": {key}, "result": "gone", "reason": "suspended {HOSTILE}"}}]'.replace('d "', 'd \\"')
    with transaction(engine) as conn:
        conn.execute(text(ended), {"state": "failed", "reason": None, "said": said})
    page = api.get(path)
    assert "couldn&#39;t be read: suspended" in page.text or "couldn't be read: suspended" in page.text
    assert HOSTILE not in page.text
    with transaction(engine) as conn:
        conn.execute(text(ended), {"state": "failed", "reason": "begun 5 times without an end", "said": "[]"})
    assert "begun 5 times without an end" in api.get(path).text
    for other in (f"/accounts/x/other?job={job}", f"/accounts/x/agency?job={'0' * 8}-0000-4000-8000-{'0' * 12}"):
        page = api.get(other)
        assert page.status_code == 200 and "couldn" not in page.text, "nothing is said of what isn't its own"
    assert api.get("/accounts/x/agency?job=1").status_code == 400


def test_what_cannot_be_read_is_said_on_the_page(api: InProcess, engine: Engine) -> None:
    mine = signed_in(api, engine, "refresh")
    answer = send(api, "/refresh/x/resting", {}, mine)
    assert answer.status_code == 422
    assert re.search(r'class="asked error" role="status"[^>]*>.*paused', answer.text)
    assert send(api, "/refresh/x/nobody", {}, mine).status_code == 404
    assert send(api, "/refresh/myspace/agency", {}, mine).status_code == 400


@pytest.mark.parametrize(
    ("path", "page"),
    [("/refresh/x/agency", "%2Faccounts%2Fx%2Fagency"), ("/edit/x/agency", "%2Fedit%2Fx%2Fagency")],
)
def test_who_is_not_signed_in_is_sent_to_and_brought_back(
    api: InProcess, engine: Engine, path: str, page: str
) -> None:
    answer = send(api, path, {"do": "edit"}, BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={page}")
    if path.startswith("/edit"):
        assert api.get(path, **BROWSER).headers["location"] == f"/sign-in?next={page}"
    reader = signed_in(api, engine)
    refused = send(api, path, {"do": "edit"}, reader)
    assert refused.status_code == 403
    assert "This key lacks the scope" in refused.text and "/sign-in" in refused.text
    assert refused.headers["content-type"].startswith("text/html")
    foreign = {**reader, "Sec_Fetch_Site": "cross-site"}
    refused = send(api, path, {"do": "edit"}, foreign)
    assert refused.status_code == 403 and "another site" in refused.text
    assert account(api)["org_name"] == "Office"


def test_what_is_set_is_there_on_the_next_page(api: InProcess, engine: Engine) -> None:
    mine = signed_in(api, engine, "admin")
    api.get("/accounts/x/agency")
    answer = edit(api, mine, org_name="Press & Co", owner_team="Web", is_core_account="yes", is_active="")
    assert (answer.status_code, answer.headers["location"]) == (303, "/accounts/x/agency")
    page = api.get("/accounts/x/agency").text
    assert "Press &amp; Co" in page and "Web" in page and ">core<" in page and ">paused<" in page
    found = account(api)
    assert (found["org_name"], found["is_core_account"], found["is_active"]) == ("Press & Co", True, False)


def test_what_somebody_else_set_meanwhile_stays(api: InProcess, engine: Engine) -> None:
    mine = signed_in(api, engine, "admin")
    assert edit(api, mine, org_name="Press").status_code == 303
    assert edit(api, mine, owner_team="Web").status_code == 303, "from a form of before"
    assert (account(api)["org_name"], account(api)["owner_team"]) == ("Press", "Web")
    assert edit(api, mine, org_name="").status_code == 303
    assert account(api)["org_name"] is None, "left empty, it is nobody's"


def test_a_mistake_is_named_beside_its_field_and_nothing_typed_is_lost(api: InProcess, engine: Engine) -> None:
    mine = signed_in(api, engine, "admin")
    answer = edit(api, mine, org_name="a" * 201, owner_team=HOSTILE, is_active="")
    assert answer.status_code == 400
    assert re.search(r'id="org_name-fault" role="alert">A name is one line of at most 200 characters\.', answer.text)
    assert "a" * 201 in answer.text and HOSTILE not in answer.text and "alert(1)" in answer.text
    assert not re.search(r'id="is_active"[^>]*checked', answer.text)
    assert account(api)["owner_team"] is None, "half a form isn't done"
    assert edit(api, mine, org_name="two\nlines").status_code == 400
    wrong = {"do": "note", "from": "2026-03-09", "to": "2026-03-01", "note": "Campaign"}
    for fields, fault in (
        (wrong, "2026-03-09 is later than 2026-03-01"),
        ({**wrong, "to": "soon"}, "A day is written as 2026-03-01."),
        ({**wrong, "from": ""}, "A day is written as 2026-03-01."),
        ({**wrong, "to": "", "from": "1066-10-14"}, "1066-10-14 does not lie between"),
        ({**wrong, "to": "", "note": "a" * 2_001}, "A note is a text of 1 to 2,000 characters."),
    ):
        answer = send(api, "/edit/x/agency", fields, mine)
        assert answer.status_code == 400
        assert fault in answer.text
        assert not fields["note"] or fields["note"] in answer.text
    assert send(api, "/edit/x/agency", {**wrong, "to": "", "note": ""}, mine).status_code == 400
    assert send(api, "/edit/x/agency", {**wrong, "to": "", "note": "a\0b"}, mine).status_code == 400
    assert send(api, "/edit/x/agency", {"do": "nonsense"}, mine).status_code == 400
    assert send(api, "/edit/x/nobody", {"do": "edit"}, mine).status_code == 404
    assert notes(engine) == []


def test_notes_are_kept_shown_and_taken_back(api: InProcess, engine: Engine) -> None:
    mine = signed_in(api, engine, "admin")
    today = api.get("/api/summary").json["items"][0]["snapshot_date"]
    note = {"do": "note", "from": today, "to": "", "note": f"Campaign\r\nbegan {HOSTILE}"}
    assert "Campaign" not in api.get("/accounts/x/agency").text
    for _ in range(2):
        answer = send(api, "/edit/x/agency", note, mine)
        assert (answer.status_code, answer.headers["location"]) == (303, "/edit/x/agency")
    assert notes(engine) == [f"Campaign\nbegan {HOSTILE}"], "sent twice, it is one"
    page = api.get("/accounts/x/agency").text
    assert "Campaign\nbegan" in page and HOSTILE not in page
    (kept,) = re.findall(r'name="id" value="(\d+)"', api.get("/edit/x/agency", **mine).text)
    assert send(api, "/edit/x/other", {"do": "take back", "id": kept}, mine).status_code == 404, "not its own"
    for worthless in ("", "0", "a", "9" * 30):
        assert send(api, "/edit/x/agency", {"do": "take back", "id": worthless}, mine).status_code == 404
    assert send(api, "/edit/x/agency", {"do": "take back", "id": kept}, mine).status_code == 303
    assert notes(engine) == []
    assert "Campaign" not in api.get("/accounts/x/agency").text


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/nowhere", 404, "There is nothing at this address."),
        ("/accounts/x/nobody", 404, "There is no account of this name"),
        ("/grid?days=9", 400, "<code>days</code>"),
        ("/refresh/x/agency", 405, "does not take this method"),
    ],
)
def test_people_get_a_page_and_programs_a_problem(api: InProcess, path: str, status: int, said: str) -> None:
    for _ in range(2):
        page = api.get(path, Accept="text/html,application/xhtml+xml,*/*;q=0.8")
        assert page.status_code == status
        assert said in page.text
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src" in page.headers["content-security-policy"]
        assert "content-encoding" not in page.headers
        problem = api.get(path, Accept="*/*")
        assert problem.status_code == status and problem.json["status"] == status
    assert api.get("/api/nothing", Accept="text/html").json["status"] == 404
