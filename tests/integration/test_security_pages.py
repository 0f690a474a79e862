"""What somebody else wrote stays text on every page and in every file, and nobody does what their key doesn't allow."""

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from falcon.inspect import inspect_routes

from api.cached import HTML
from api.operations import Operation
from db import annotations, keys
from db.annotations import Subject
from db.engine import Engine, transaction
from tests import fakes
from tests.serving import InProcess, add_account, add_job, add_post, days_ago, in_process, keep, stand

SCRIPT = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}</title><svg/onload=alert(1)>\u202e"
WRITE = ("post", "patch", "delete")
# Who may use them is decided in other ways, which their own tests hold.
FOR_EVERYBODY = {("/api/batch", "post"), ("/sign-in", "post"), ("/sign-out", "post"), ("/import", "post")}
OWN = {"Sec_Fetch_Site": "same-origin", "Accept": "text/html"}
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "＋1", "－1", "＠SUM(A1)")


@pytest.fixture
def api(database_url: str, redis_url: str, engine: Engine) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, SIMULATOR_URL="http://127.0.0.1:9")) as api:
        api.wait_until_it_hears_purges()
        yield api


def signed_in(api: InProcess, engine: Engine, name: str, *scopes: keys.Scope) -> tuple[str, dict[str, str]]:
    """Return a new key, and the headers of a browser that is signed in by it."""
    with transaction(engine) as conn:
        token = keys.create(conn, name=name, scopes=scopes)
    answer = api.ask(
        "POST", "/sign-in", urlencode({"key": token}), Content_Type="application/x-www-form-urlencoded", **OWN
    )
    return token, {**OWN, "Cookie": answer.headers["set-cookie"].partition(";")[0]}


def operations(api: InProcess) -> dict[tuple[str, str], Operation]:
    """Return what each address does, by address and method, as the running app has them."""
    found = {}
    for route in inspect_routes(api.app):
        resource = api.app._router.find(re.sub(r"\{[^}]+\}", "1", route.path))[0]
        for method in ("get", *WRITE):
            operation = getattr(getattr(resource, "operations", None), method, None)
            if operation is not None:
                found[route.path, method] = operation
    return found


def address(path: str) -> str:
    named = {"platform": "x", "handle:path": "agency", "version": "v", "path:path": "app.css", "fields": "x"}
    return re.sub(r"\{([^}]+)\}", lambda found: named.get(found[1], "1"), path)


class Tags(HTMLParser):
    """Gathers what a page would run or load, or lead to by something else than the web."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self._is_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._is_script = tag == "script"
        if tag == "script" and not (given.get("src") or "").startswith("/static/"):
            self.faults.append("a script of another place")
        self.faults += [f"{tag} {name}" for name in given if name.startswith("on") or name in ("style", "srcdoc")]
        if tag in ("img", "object", "embed", "base") and not (given.get("src") or "").startswith("/static/"):
            self.faults.append(tag)
        for name in ("href", "src", "action", "formaction", "data"):
            if urlsplit(given.get(name) or "").scheme not in ("", "http", "https"):
                self.faults.append(f"{tag} {name}={given[name]}")

    def handle_data(self, data: str) -> None:
        if self._is_script and data.strip():
            self.faults.append("a script that stands in the page")
        self._is_script = False


def test_what_others_wrote_is_text_on_every_page(api: InProcess, engine: Engine) -> None:
    _, admin = signed_in(api, engine, SCRIPT.removesuffix("\u202e"), "admin")
    said = {"display_name": SCRIPT, "bio": SCRIPT, "org_name": SCRIPT, "owner_team": SCRIPT, "account_type": SCRIPT}
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", **said, avatar_url="javascript:alert(1)")
        conn.exec_driver_sql("UPDATE dim_account SET url = 'javascript:alert(1)'")
        for day in (days_ago(1), days_ago(0)):
            keep(conn, key, 5, day)
        failing = add_account(conn, "x/failing", **said)
        stand(conn, failing, result="failed", reason=SCRIPT, failures=3)
        add_post(conn, key, "1", text=SCRIPT, url="javascript:alert(1)", post_type=SCRIPT)
        add_job(conn, "0b7c2f0e-7d5e-4f6b-9a53-0d3f4f1b2c3d", state="failed", requested_by=SCRIPT)
        annotations.add(
            conn,
            Subject(account_key=key),
            SCRIPT,
            first=days_ago(1),
            last=days_ago(0),
            created_by="a",
            now=fakes.NOON,
        )
    pages = sorted(
        {
            address(path)
            for (path, method), one in operations(api).items()
            if HTML in one.media_types and method == "get"
        }
    )
    queries = [
        urlencode({name: SCRIPT})
        for name in ("q", "org", "next", "account", "accounts", "platform", "sort", "nothing")
    ]
    asked = [(page, headers) for page in pages for headers in (OWN, admin)]
    asked += [(f"{page}?{query}", OWN) for page in pages for query in queries]
    asked += [
        (f"/{SCRIPT}", OWN),
        (f"/accounts/x/{SCRIPT}", OWN),
        ("/compare?a=x/agency&a=x/failing", OWN),
        ("/embed?a=x/agency", OWN),
    ]
    shown = 0
    for page, headers in asked:
        answer = api.get(page, **headers)
        assert answer.status_code < 500, page
        if not answer.headers.get("content-type", "").startswith(HTML.partition(";")[0]):
            assert answer.status_code in (303, 304), page
            continue
        tags = Tags()
        tags.feed(answer.text)
        assert not tags.faults, (page, tags.faults)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';"), page
        assert "unsafe" not in policy, page
        shown += "&lt;script&gt;alert(1)" in answer.text
    assert len(pages) > 12
    assert shown > 12, "the words were on the pages"


def test_each_write_is_for_the_scope_that_it_declares_alone(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    reader, reading_browser = signed_in(api, engine, "Reader")
    asker, asking_browser = signed_in(api, engine, "Asker", "refresh")
    writes = {where: one for where, one in operations(api).items() if where[1] in WRITE}
    assert {where for where, one in writes.items() if one.scope is None} == FOR_EVERYBODY
    for (path, method), one in writes.items():
        if one.scope is None:
            continue
        is_page = HTML in one.media_types
        kind = "application/x-www-form-urlencoded" if is_page else "application/json"
        own = {**(OWN if is_page else {}), "Content_Type": kind}

        def status(headers: dict[str, str], path: str = path, method: str = method, own: Any = own) -> int:
            return int(api.ask(method.upper(), address(path), "", **{**own, **headers}).status_code)

        assert status({}) == (303 if is_page else 401), path
        assert status({"Authorization": f"Bearer {reader}"}) == 403, path
        assert status(reading_browser) == 403, path
        if one.scope == "admin":
            assert status({"Authorization": f"Bearer {asker}"}) == 403, path
            assert status(asking_browser) == 403, path
        if is_page:  # and of its browser, what its own pages send
            for foreign in (
                {"Sec_Fetch_Site": "cross-site"},
                {"Sec_Fetch_Site": "same-site"},
                {"Sec_Fetch_Site": ""},
            ):
                assert status({**asking_browser, **foreign}) == 403, path


def test_a_session_is_made_anew_and_its_cookie_is_the_servers_alone(api: InProcess, engine: Engine) -> None:
    fixed = "0" * 64
    with transaction(engine) as conn:
        token = keys.create(conn, name="Ann", scopes=["admin"])
    answer = api.ask(
        "POST",
        "/sign-in",
        urlencode({"key": token}),
        Content_Type="application/x-www-form-urlencoded",
        Cookie=f"rollcall_session={fixed}",
        **OWN,
    )
    cookie = answer.headers["set-cookie"]
    assert fixed not in cookie
    assert token not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "domain" not in cookie.lower()
    assert api.get("/session", Cookie=f"rollcall_session={fixed}", **OWN).json == {"name": None, "scopes": []}


@pytest.mark.parametrize("formula", FORMULAS, ids=range(len(FORMULAS)))
def test_no_cell_of_a_file_is_a_formula_whoever_wrote_it(api: InProcess, engine: Engine, formula: str) -> None:
    with transaction(engine) as conn:
        said = dict.fromkeys(("display_name", "bio", "org_name", "owner_team", "account_type", "avatar_url"), formula)
        key = add_account(conn, "x/agency", **said)
        keep(conn, key, 5)
        stand(conn, key, result="failed", reason=formula, failures=1)
        add_post(conn, key, "1", text=formula, url=formula, post_type=formula)
    files = [f"/api/export/{kind}?format=csv" for kind in ("summary", "grid", "accounts", "posts")]
    files += [f"/api/{name}?format=csv" for name in ("summary", "accounts", "grid", "posts/x/agency")]
    files += ["/charts/account/x/agency?format=csv", "/charts/compare?a=x/agency&format=csv"]
    found = 0
    for path in files:
        answer = api.get(path)
        if answer.status_code == 400:
            continue
        assert answer.headers["content-type"].startswith("text/csv"), (path, answer.text)
        cells = [cell for row in csv.reader(io.StringIO(answer.text, newline="")) for cell in row]
        assert not [
            cell for cell in cells if cell.startswith(FORMULAS) or cell[:1] in ("=", "@", "\t", "\r", "\n")
        ], path
        found += any(formula in cell for cell in cells)
    assert found >= 5
    for kind in ("summary", "accounts", "posts"):
        book = zipfile.ZipFile(io.BytesIO(api.get(f"/api/export/{kind}?format=xlsx").content))
        assert b"<f>" not in book.read("xl/worksheets/sheet1.xml"), kind
        assert not [name for name in book.namelist() if "externalLink" in name or name.endswith(".bin")]
