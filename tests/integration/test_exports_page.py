"""Files, keys and charts for other sites: what the page says of them, and who may do what."""

import html
import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from falcon.testing import Result

from db import bulk, keys
from db.engine import Engine, reading, transaction
from tests import fakes
from tests.history import snapshot
from tests.integration.test_import_page import signed_in
from tests.integration.test_sign_in import FORM, OWN
from tests.serving import InProcess, add_account, add_post, days_ago, in_process, wait_for

HOSTILE = '"><script>alert(1)</script>'
CHART = "s1=x%2Fagency&s2=org%3A" + "%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E"


@pytest.fixture
def api(database_url: str, redis_url: str, engine: Engine) -> Iterator[InProcess]:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", display_name="The Agency", org_name=HOSTILE)
        add_post(conn, key, "p1")
        bulk.upsert_snapshots(conn, [snapshot(key, days_ago(ago), 100 + ago) for ago in range(3)])
    with in_process(fakes.settings(database_url, redis_url)) as api:
        api.wait_until_it_hears_purges()
        yield api


def post(api: InProcess, path: str, cookie: str, fields: dict[str, str] | None = None, **headers: str) -> Result:
    return api.ask("POST", path, urlencode(fields or {}), **{**FORM, **OWN, "Cookie": cookie, **headers})


def all_keys(engine: Engine) -> dict[str, keys.Key]:
    with reading(engine) as conn:
        return {key.name: key for key in keys.list_keys(conn)}


def test_every_file_is_there_with_its_rows_and_columns(api: InProcess) -> None:
    page = api.get("/exports")
    assert page.headers["cache-control"] == "no-store"
    rows = dict(re.findall(r'scope="row">(\w+)<span.*?data-label="Rows now">([\d,]+) ', page.text, re.DOTALL))
    assert rows == {"Summary": "1", "Grid": "3", "Accounts": "1", "Posts": "1"}
    links = re.findall(r'href="(/api/export/[^"]+)"', page.text)
    assert len(links) == 20
    for link in links:
        assert api.ask("HEAD", html.unescape(link)).status_code == 200
    assert "<code>growth_7d_pct</code>" in page.text


def test_the_code_of_a_chart_frames_that_chart_under_the_site_s_own_name(api: InProcess) -> None:
    page = api.get(f"/exports?{CHART}&days=90&scale=indexed")
    code = re.search(r'<textarea id="code"[^>]*>\n(.*?)</textarea>', page.text, re.DOTALL)
    assert code
    written = html.unescape(code[1])
    frame = re.fullmatch(r'<iframe src="([^"]+)" title="([^"]+)" [^<>]*></iframe>', written)
    assert frame, "what it shows can't end the attribute that says so"
    address, title = html.unescape(frame[1]), html.unescape(frame[2])
    assert address == f"http://falconframework.org/embed?{CHART}&scale=indexed&days=90"
    assert title == f"Followers of The Agency and {HOSTILE}, first day = 100"
    assert api.get(address.partition(".org")[2]).status_code == 200
    assert "<script>alert" not in page.text


def test_a_chart_shows_the_same_as_the_comparison_and_nothing_around_it(api: InProcess) -> None:
    page = api.get(f"/embed?{CHART}&days=30")
    sentence = re.search(r'id="\w+-sentence"[^>]*>(.*?)</p>', page.text)
    assert sentence and f"From {days_ago(29):%-d %b %Y} to {days_ago(0):%-d %b %Y} " in sentence[1]
    compared = api.get(f"/compare?{CHART}&from={days_ago(29)}&to={days_ago(0)}")
    assert sentence[1] in compared.text
    assert "<nav" not in page.text and "<form" not in page.text
    assert "<script>alert" not in page.text
    assert "by-day" in api.get(f"/embed?{CHART}&table=true").text
    assert "isn&#39;t in the list" in api.get("/embed?s1=x/nobody&s2=x/agency").text
    assert "names no account" in api.get("/embed").text


@pytest.mark.parametrize(
    ("query", "field"),
    [("days=31", "days"), ("days=30&from=2026-01-01", "days"), ("scale=log", "scale"), ("s9=x/a", "s9")],
)
def test_what_a_chart_cannot_mean_is_refused_by_name(api: InProcess, query: str, field: str) -> None:
    answer = api.get(f"/embed?s1=x/agency&{query}")
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (400, field)


def test_who_may_frame_a_chart_is_a_setting_and_nothing_else_is_ever_framed(
    api: InProcess, database_url: str, redis_url: str
) -> None:
    page = api.get(f"/embed?{CHART}")
    assert page.headers["content-security-policy"].endswith("; frame-ancestors 'self'")
    assert "x-frame-options" not in page.headers
    settings = fakes.settings(
        database_url, redis_url, EMBED_ORIGINS="https://www.example.gov, https://b.example:8443"
    )
    with in_process(settings) as other:
        for _ in range(3):  # from the database, and from the memory in front of everything
            page = other.get(f"/embed?{CHART}")
            policy = page.headers["content-security-policy"]
            assert policy.endswith("frame-ancestors 'self' https://www.example.gov https://b.example:8443")
            assert "x-frame-options" not in page.headers
        for path in ("/", "/exports", "/import", f"/compare?{CHART}", "/docs", "/sign-in"):
            page = other.get(path)
            assert page.headers["x-frame-options"] == "DENY", path
            assert "example.gov" not in page.headers["content-security-policy"]


def test_an_admin_makes_a_key_that_is_shown_once_and_works(api: InProcess, engine: Engine) -> None:
    admin = signed_in(api, engine, ["admin"])
    made = post(api, "/exports/keys", admin, {"name": f" {HOSTILE}", "scope": "refresh"})
    assert (made.status_code, made.headers["cache-control"]) == (200, "no-store")
    token = re.search(r"rc_[0-9a-f]{16}_[0-9a-f]{64}", made.text)
    assert token and "<script>alert" not in made.text
    assert all_keys(engine)[HOSTILE].scopes == {"refresh"}
    again = api.get("/exports", Cookie=admin, **OWN)
    assert HOSTILE in html.unescape(again.text)
    assert token[0] not in again.text and token[0][-64:] not in again.text
    asked = api.ask("POST", "/api/refresh", '{"accounts": ["x/nobody"]}', Authorization=f"Bearer {token[0]}")
    assert asked.status_code not in (401, 403)
    for name in ("", " ", "a\nb", "n" * 101, "\0"):
        refused = post(api, "/exports/keys", admin, {"name": name, "scope": "admin"})
        assert refused.status_code == 400 and "No key was made" in refused.text
    assert post(api, "/exports/keys", admin, {"name": "Bob", "scope": "root"}).status_code == 400
    assert len(all_keys(engine)) == 2


def test_a_revoked_key_is_worthless_at_once_and_stays_in_the_books(api: InProcess, engine: Engine) -> None:
    admin = signed_in(api, engine, ["admin"])
    with transaction(engine) as conn:
        token = keys.create(conn, name="Bob", scopes=["admin"])
    asks = {"Authorization": f"Bearer {token}", "Content_Type": "application/json"}
    patch = '{"is_core_account": true}'
    assert api.ask("PATCH", "/api/accounts/x/agency", patch, **asks).status_code == 200
    revoked = post(api, f"/exports/keys/{all_keys(engine)['Bob'].key_id}/revoke", admin)
    assert (revoked.status_code, revoked.headers["location"]) == (303, "/exports#keys")
    assert api.ask("PATCH", "/api/accounts/x/agency", patch, **asks).status_code == 401
    assert "1 revoked" in api.get("/exports", Cookie=admin, **OWN).text
    for strange in ("0" * 16, "%00", "nobody", all_keys(engine)["Bob"].key_id):
        assert post(api, f"/exports/keys/{strange}/revoke", admin).status_code == 303
    post(api, f"/exports/keys/{all_keys(engine)['Ann of Press'].key_id}/revoke", admin)
    wait_for(lambda: "Sign in</a> with the key" in api.get("/exports", Cookie=admin, **OWN).text, "the sign-out")


def test_keys_are_shown_and_made_by_admins_alone(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keys.create(conn, name="The secret one", scopes=[])
    admin, other = signed_in(api, engine, ["admin"]), signed_in(api, engine, ["refresh"])
    victim = all_keys(engine)["The secret one"].key_id
    assert "The secret one" in api.get("/exports", Cookie=admin, **OWN).text
    assert "The secret one" not in api.get("/exports", Cookie=other, **OWN).text
    assert "The secret one" not in api.get("/exports").text
    assert "The secret one" not in api.get("/exports", Cookie=admin, Sec_Fetch_Site="cross-site").text
    for path, fields in (
        ("/exports/keys", {"name": "Mallory", "scope": "admin"}),
        (f"/exports/keys/{victim}/revoke", {}),
    ):
        assert post(api, path, other, fields).status_code == 403
        assert post(api, path, admin, fields, Sec_Fetch_Site="cross-site").status_code == 403
        assert post(api, path, admin, fields, Sec_Fetch_Site="same-site").status_code == 403
        sent_away = post(api, path, "", fields)
        assert (sent_away.status_code, sent_away.headers["location"]) == (303, "/sign-in?next=%2Fexports")
    assert "Mallory" not in all_keys(engine)
    assert all_keys(engine)["The secret one"].revoked_at is None


def test_where_reading_needs_a_key_the_page_says_what_that_means(
    database_url: str, redis_url: str, api: InProcess, engine: Engine
) -> None:
    with in_process(fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")) as closed:
        assert closed.get("/embed?s1=x/agency").status_code == 303
        assert closed.get("/exports").status_code == 303
        reader = signed_in(closed, engine, [])
        page = closed.get("/exports?s1=x/agency", Cookie=reader, **OWN)
        assert "API_REQUIRE_KEY" in page.text and "Authorization: Bearer rc_" in page.text
