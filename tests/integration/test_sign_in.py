"""A browser that is signed in by a key: what it may, whose requests count as its own, and how it ends."""

import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from falcon.testing import Result
from sqlalchemy import text

from api.dashboard.sign_in import local
from db import keys, sign_ins
from db.engine import Engine, reading, transaction
from pipeline.settings import Settings
from tests import fakes
from tests.serving import InProcess, add_account, gunicorn, in_process, keep, purger, wait_for

OWN = {"Sec_Fetch_Site": "same-origin"}
FORM = {"Content_Type": "application/x-www-form-urlencoded"}
REFRESH = '{"accounts": ["x/agency"]}'


@pytest.fixture
def token(engine: Engine) -> str:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
        return keys.create(conn, name="Ann of Press", scopes=["admin"])


@pytest.fixture
def api(database_url: str, redis_url: str, token: str) -> Iterator[InProcess]:
    with in_process(_settings(database_url, redis_url)) as api:
        api.wait_until_it_hears_purges()
        yield api


def _settings(database_url: str, redis_url: str) -> Settings:
    return fakes.settings(database_url, redis_url, TRUSTED_PROXIES="127.0.0.1", SIMULATOR_URL="http://127.0.0.1:9")


@pytest.fixture
def closed(database_url: str, redis_url: str, token: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")) as api:
        api.wait_until_it_hears_purges()
        yield api


def sign_in(api: InProcess, key: str, after: str = "/", **headers: str) -> Result:
    return api.ask("POST", "/sign-in", urlencode({"key": key, "next": after}), **{**FORM, **OWN, **headers})


def cookie(answer: Result) -> str:
    """Return what a browser sends from now on."""
    return answer.headers["set-cookie"].partition(";")[0]


def refreshed(api: InProcess, **headers: str) -> int:
    return int(api.ask("POST", "/api/refresh", REFRESH, Content_Type="application/json", **headers).status_code)


def who(api: InProcess, cookie: str, **headers: str) -> Any:
    return api.get("/session", Cookie=cookie, **{**OWN, **headers}).json["name"]


def test_a_key_signs_in_and_the_browser_may_what_it_may(api: InProcess, token: str) -> None:
    answer = sign_in(api, token, "/accounts/x/agency?days=30")
    assert (answer.status_code, answer.headers["location"]) == (303, "/accounts/x/agency?days=30")
    assert answer.headers["cache-control"] == "no-store"
    given = {part.strip() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} == given
    mine = cookie(answer)
    assert api.get("/session", Cookie=mine, **OWN).json == {"name": "Ann of Press", "scopes": ["admin"]}
    page = api.get("/sign-in", Cookie=mine, **OWN)
    assert "Ann of Press" in page.text and page.headers["cache-control"] == "no-store"
    assert refreshed(api) == 401
    assert refreshed(api, Cookie=mine, **OWN) == 202
    assert refreshed(api, Cookie=mine, Authorization="Bearer rc_nobody", **OWN) == 401, "what is said outranks it"
    for misplaced in ({"Authorization": f"Bearer {mine.partition('=')[2]}"}, {"Cookie": f"rollcall_session={token}"}):
        assert refreshed(api, **misplaced, **OWN) == 401, "a cookie is no key, and a key no cookie"


def test_nobody_is_signed_in_without_a_cookie(api: InProcess) -> None:
    assert api.get("/session").json == {"name": None, "scopes": []}
    for worthless in ("rollcall_session=", "rollcall_session=" + "0" * 64, "rollcall_session=x; rollcall_session=y"):
        assert who(api, worthless) is None
        assert refreshed(api, Cookie=worthless, **OWN) == 401


@pytest.mark.parametrize(("given", "status"), [("", 400), ("hunter2", 400), (f"rc_{'0' * 16}_{'0' * 64}", 403)])
def test_a_wrong_key_signs_nobody_in_and_is_not_shown_again(api: InProcess, given: str, status: int) -> None:
    answer = sign_in(api, given, "/grid")
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.text and 'value="/grid"' in answer.text, "what was said beside it isn't lost"
    assert not given or given not in answer.text


def test_over_https_the_cookie_is_of_https_alone(api: InProcess, token: str) -> None:
    answer = sign_in(api, token, X_Forwarded_Proto="https")
    assert "Secure" in answer.headers["set-cookie"]
    assert cookie(answer).startswith("__Host-")
    assert who(api, cookie(answer), X_Forwarded_Proto="https") == "Ann of Press"
    planted = cookie(answer).removeprefix("__Host-")
    assert who(api, planted, X_Forwarded_Proto="https") is None, "one that a neighbour below the domain could set"


@pytest.mark.parametrize(
    "foreign",
    [
        {},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://falconframework.org"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://falconframework.org.evil.example"},
    ],
)
def test_what_another_site_sends_is_refused(api: InProcess, token: str, foreign: dict[str, str]) -> None:
    mine = cookie(sign_in(api, token))
    for path in ("/sign-in", "/sign-out"):
        body = urlencode({"key": token})
        refused = api.ask("POST", path, body, Cookie=mine, **FORM, **foreign)
        assert refused.status_code == 403, path
        assert "another site" in refused.text
        assert "set-cookie" not in refused.headers
    assert refreshed(api, Cookie=mine, **foreign) == 401
    patched = api.ask("PATCH", "/api/accounts/x/agency", '{"is_active": false}', Cookie=mine, **foreign)
    assert patched.status_code == 401
    assert who(api, mine) == "Ann of Press", "nobody was signed out"


@pytest.mark.parametrize("own", [{"Origin": "http://falconframework.org"}, {"Sec_Fetch_Site": "none"}])
def test_what_its_own_pages_send_is_taken(api: InProcess, token: str, own: dict[str, str]) -> None:
    """Browsers send Sec-Fetch-Site over https and to loopback only: over plain http there is the origin alone."""
    answer = api.ask("POST", "/sign-in", urlencode({"key": token}), **FORM, **own)
    assert answer.status_code == 303
    assert refreshed(api, Cookie=cookie(answer), **own) == 202


def test_signing_out_ends_the_session_in_every_process(
    api: InProcess, token: str, database_url: str, redis_url: str
) -> None:
    mine, other = cookie(sign_in(api, token)), cookie(sign_in(api, token))
    with in_process(_settings(database_url, redis_url)) as second:
        second.wait_until_it_hears_purges()
        assert who(second, mine) == who(api, mine) == "Ann of Press"
        answer = api.ask("POST", "/sign-out?next=/grid", Cookie=mine, **OWN)
        assert (answer.status_code, answer.headers["location"]) == (303, "/grid")
        assert "expires=Thu, 01 Jan 1970" in answer.headers["set-cookie"]
        assert who(api, mine) is None
        wait_for(lambda: who(second, mine) is None, "the other process to hear of it", 4)
        assert who(api, other) == "Ann of Press", "another browser stays signed in"


def test_signing_in_again_leaves_no_session_behind(api: InProcess, token: str, engine: Engine) -> None:
    mine = cookie(sign_in(api, token))
    again = cookie(sign_in(api, token, Cookie=mine))
    assert again != mine
    assert (who(api, mine), who(api, again)) == (None, "Ann of Press")


def test_a_revoked_key_takes_its_browsers_with_it(
    api: InProcess, token: str, engine: Engine, database_url: str, redis_url: str
) -> None:
    mine = cookie(sign_in(api, token))
    assert refreshed(api, Cookie=mine, **OWN) == 202
    key_id = token.split("_")[1]
    with transaction(engine) as conn:
        keys.revoke(conn, key_id)
    purger(_settings(database_url, redis_url)).purge({f"key:{key_id}"})
    wait_for(lambda: refreshed(api, Cookie=mine, **OWN) == 401, "the end of the key", 4)
    assert who(api, mine) is None
    assert sign_in(api, token).status_code == 403


def test_a_session_ends_by_itself_and_is_cleared_away(api: InProcess, token: str, engine: Engine) -> None:
    mine = cookie(sign_in(api, token))
    with transaction(engine) as conn:
        conn.execute(text("UPDATE sign_in SET ends_at = now() + interval '1 second'"))
    assert who(api, mine) in ("Ann of Press", None)
    wait_for(lambda: who(api, mine) is None, "its end", 4)
    sign_in(api, token)
    with reading(engine) as conn:
        assert conn.execute(text("SELECT count(*) FROM sign_in")).scalar_one() == 1


def test_nothing_that_is_kept_is_worth_stealing(api: InProcess, token: str, engine: Engine) -> None:
    value = cookie(sign_in(api, token)).partition("=")[2]
    assert sign_ins.is_token(value)
    with reading(engine) as conn:
        rows = str(conn.execute(text("SELECT CAST(s AS text), encode(token_hash, 'hex') FROM sign_in AS s")).all())
    assert value not in rows
    assert token.rpartition("_")[2] not in rows


@pytest.mark.parametrize(
    "elsewhere",
    [
        *("https://evil.example/", "//evil.example", "/\\evil.example", "/\t/evil.example", "/\n/evil.example", "/ü"),
        *("evil", "", "javascript:alert(1)", "/a\r\nSet-Cookie: a=b", "\\\\evil.example"),
    ],
)
def test_after_signing_in_one_stays_on_this_site(api: InProcess, token: str, elsewhere: str) -> None:
    assert local(elsewhere) == "/"
    assert sign_in(api, token, elsewhere).headers["location"] == "/"
    answer = api.get(f"/sign-in?{urlencode({'next': elsewhere})}")
    assert answer.status_code == 400 or 'name="next" value="/"' in answer.text


def test_where_reading_needs_a_key_pages_lead_to_signing_in_and_back(closed: InProcess, token: str) -> None:
    for path, after in (("/", "%2F"), ("/grid?metric=posts&q=a%26b", "%2Fgrid%3Fmetric%3Dposts%26q%3Da%2526b")):
        answer = closed.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={after}")
        assert answer.headers["cache-control"] == "no-store"
    page = closed.get(closed.get("/accounts/x/agency").headers["location"])
    assert page.status_code == 200 and 'value="/accounts/x/agency"' in page.text
    assert "Newest reading" not in page.text, "nothing of what is closed"
    assert closed.get("/api/summary").status_code == 401, "programs are told, not led"
    assert closed.get("/", Authorization="Bearer rc_nobody").status_code == 401
    mine = cookie(sign_in(closed, token))
    for _ in range(2):
        answer = closed.get("/accounts/x/agency", Cookie=mine, **OWN)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "private, no-cache"
    assert closed.get("/accounts/x/agency").status_code == 303, "what is at hand for one isn't given to another"
    assert closed.get("/api/summary", Cookie=mine, **OWN).status_code == 200
    assert closed.get("/api/summary", Cookie=mine, Sec_Fetch_Site="same-site").status_code == 401
    opened = {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate"}
    assert closed.get("/", Cookie=mine, **opened).status_code == 200, "a neighbour's link"
    batch = '{"requests": [{"path": "/api/summary"}]}'
    answer = closed.ask("POST", "/api/batch", batch, Cookie=mine, **OWN)
    assert answer.json["responses"][0]["status"] == 200, "a part has the browser's rights"
    out = closed.ask("POST", "/sign-out", Cookie=mine, **OWN)
    assert out.headers["clear-site-data"] == '"storage"'


def test_pages_are_the_same_for_everybody(api: InProcess, token: str) -> None:
    mine = cookie(sign_in(api, token))
    for path in ("/", "/accounts", "/accounts/x/agency", "/grid", "/compare", "/docs"):
        signed_in = api.get(path, Cookie=mine, **OWN)
        other = api.get(path)
        assert signed_in.text == other.text, path
        assert signed_in.headers["cache-control"] == other.headers["cache-control"] == "public, no-cache"
        assert "Ann of Press" not in other.text
        assert "set-cookie" not in signed_in.headers
        assert other.headers["x-cache"] == "l1", "and answered from what the other left"


def test_guessing_at_the_sign_in_page_is_counted_by_address(database_url: str, redis_url: str, token: str) -> None:
    settings = fakes.settings(database_url, redis_url, API_RATE_LIMIT="3/1d", API_RATE_LIMIT_KEY="5/1d")
    with in_process(settings) as api:
        guesses = [sign_in(api, f"rc_{'0' * 16}_{number:064x}").status_code for number in range(5)]
        assert guesses == [403, 403, 403, 429, 429]
        assert sign_in(api, token).status_code == 429


def test_a_signed_in_browser_spends_its_keys_allowance(database_url: str, redis_url: str, token: str) -> None:
    settings = fakes.settings(
        database_url, redis_url, API_RATE_LIMIT="4/1d", API_RATE_LIMIT_KEY="7/1d", API_REQUIRE_KEY="true"
    )
    with in_process(settings) as api:
        mine = cookie(sign_in(api, token))
        answers = [api.get("/api/summary", Cookie=mine, **OWN) for _ in range(3)]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["6", "5", "4"]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", "{}", 415),
        ("multipart/form-data; boundary=a", "--a--", 415),
        ("application/x-www-form-urlencoded", "key=a&key=b", 400),
        ("application/x-www-form-urlencoded", "key=%ff", 400),
        ("application/x-www-form-urlencoded", "a&" * 2000, 400),
        ("application/x-www-form-urlencoded", "key=" + "a" * (1 << 20), 413),
    ],
)
def test_a_form_that_no_browser_sends_is_refused(api: InProcess, kind: str, body: str, status: int) -> None:
    assert api.ask("POST", "/sign-in", body, Content_Type=kind, **OWN).status_code == status


def test_a_key_is_in_no_log_and_in_no_page(database_url: str, redis_url: str, token: str, tmp_path: Path) -> None:
    with gunicorn(database_url, redis_url, tmp_path, workers=1, LOG_LEVEL="debug") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
        headers = {"Content-Type": FORM["Content_Type"], "Sec-Fetch-Site": "same-origin"}
        wrong = token[:-1] + ("1" if token.endswith("0") else "0")
        said = ""
        for given in (token, wrong, token + "0", f"x{token}"):
            connection.request("POST", "/sign-in", urlencode({"key": given}), headers)
            answer = connection.getresponse()
            said += answer.read().decode() + str(answer.headers)
        found = re.search("rollcall_session=([0-9a-f]{64})", said)
        assert found
        connection.request("GET", "/sign-in", headers={"Cookie": found[0], "Sec-Fetch-Site": "same-origin"})
        page = connection.getresponse().read().decode()
        connection.close()
    log = (tmp_path / "api.log").read_text()
    assert "signed_in" in log and "/sign-in" in log
    assert token.rpartition("_")[2][:60] not in said + page + log
    assert found[1] not in page + log
