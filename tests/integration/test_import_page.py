"""A list on the page: checked row by row, written as it was checked or not at all, and given back whatever happens."""

import html
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from falcon.testing import Result
from sqlalchemy import func, select
from urllib3 import encode_multipart_formdata

from api.dashboard.importing import LARGEST_LIST_BYTES, MOST_ROWS
from db import keys
from db.engine import Engine, reading, transaction
from db.models import dim_account
from tests import fakes
from tests.integration.test_sign_in import OWN, cookie, sign_in
from tests.serving import InProcess, add_account, in_process, items, wait_for

LIST = (
    "url,organization,is_core\n"
    "https://x.com/known,Agency,yes\n"
    "https://x.com/fresh,Agency,no\n"
    "https://x.com/FRESH,Agency,no\n"
    "https://x.com/same,,\n"
    "https://x.com/home,Agency,no\n"
)
VERDICTS = {2: "changed", 3: "new", 4: "duplicate", 5: "unchanged", 6: "refused"}


@pytest.fixture
def api(database_url: str, redis_url: str, engine: Engine) -> Iterator[InProcess]:
    with transaction(engine) as conn:
        add_account(conn, "x/known", org_name="Office")
        add_account(conn, "x/same")
    with in_process(fakes.settings(database_url, redis_url)) as api:
        api.wait_until_it_hears_purges()
        yield api


@pytest.fixture
def admin(api: InProcess, engine: Engine) -> str:
    return signed_in(api, engine, ["admin"])


def signed_in(api: InProcess, engine: Engine, scopes: list) -> str:
    """Return the cookie of a browser that is signed in by a new key."""
    with transaction(engine) as conn:
        token = keys.create(conn, name="Ann of Press", scopes=scopes)
    return cookie(sign_in(api, token))


def send(api: InProcess, cookie: str, text: str = "", **more: str | bytes | tuple[str, bytes]) -> Result:
    """Send the page's form as a browser does; `list` is the text, with the line ends of browsers."""
    fields = {"list": text.replace("\r\n", "\n").replace("\n", "\r\n"), "checked": "", "shown": "", **more}
    body, kind = encode_multipart_formdata(fields)
    return api.ask("POST", "/import", body, Content_Type=kind, Cookie=cookie, **OWN)


def text_in(page: Result) -> str:
    """Return the text of the field as a browser reads it."""
    found = re.search(r"<textarea id=\"list\"[^>]*>(.*?)</textarea>", page.text, re.DOTALL)
    assert found
    return html.unescape(found[1].removeprefix("\n"))


def again(api: InProcess, cookie: str, page: Result, **more: str) -> Result:
    """Press the button that imports what a page shows."""
    shown = re.search(r'name="shown" value="(\w{64})"', page.text)
    checked = re.search(r'name="checked" value="(\w*)"', page.text)
    assert shown and checked
    return send(api, cookie, text_in(page), shown=shown[1], checked=checked[1], **more)


def verdicts(page: Result) -> dict[int, str]:
    rows = re.findall(r'data-label="Row">(\d+)</th>.*?<span class="status \w+">(\w+)</span>', page.text)
    return {int(number): verdict for number, verdict in rows}


def handles(engine: Engine) -> dict[str, str | None]:
    with reading(engine) as conn:
        return {row.handle: row.org_name for row in conn.execute(dim_account.select())}


BEFORE = {"known": "Office", "same": None}


def test_a_list_is_checked_first_and_then_written_as_it_was_checked(
    api: InProcess, engine: Engine, admin: str
) -> None:
    assert items(api.get("/api/accounts").json) == ["x/known", "x/same"]  # kept from now on
    checked = send(api, admin, LIST)
    assert (checked.status_code, verdicts(checked)) == (200, VERDICTS)
    assert "organisation: Office → <strong>Agency</strong>" in checked.text
    assert "a page of X itself, not an account" in checked.text
    assert "Import 2 accounts" in checked.text
    assert handles(engine) == BEFORE

    done = again(api, admin, checked)

    assert (done.status_code, verdicts(done)) == (200, {**VERDICTS, 3: "added"})
    assert handles(engine) == {"known": "Agency", "same": None, "fresh": "Agency"}
    after = ["x/known", "x/same", "x/fresh"]
    wait_for(lambda: items(api.get("/api/accounts").json) == after, "the purge of the list")
    assert again(api, admin, checked).status_code == 409, "it was checked for a list without these accounts"


def test_where_the_accounts_changed_meanwhile_nothing_is_written_and_the_page_says_how_it_stands(
    api: InProcess, engine: Engine, admin: str
) -> None:
    checked = send(api, admin, LIST)
    with transaction(engine) as conn:
        add_account(conn, "x/fresh", org_name="Agency")

    otherwise = again(api, admin, checked)

    assert (otherwise.status_code, verdicts(otherwise)) == (409, {**VERDICTS, 3: "unchanged"})
    assert "Nothing was written" in otherwise.text
    assert handles(engine) == {**BEFORE, "fresh": "Agency"}
    assert again(api, admin, otherwise).status_code == 200
    assert handles(engine)["known"] == "Agency"


def test_a_list_that_was_edited_is_not_written_as_the_one_that_was_checked(
    api: InProcess, engine: Engine, admin: str
) -> None:
    checked = send(api, admin, "url,organization\nhttps://x.com/fresh,Agency\n")
    shown = re.search(r'name="shown" value="(\w{64})"', checked.text)
    assert shown
    edited = send(api, admin, "url,organization\nhttps://x.com/fresh,Other\n", shown=shown[1])
    assert (edited.status_code, verdicts(edited)) == (409, {2: "new"})  # the same verdict on another list
    assert handles(engine) == BEFORE


def test_two_who_import_the_same_at_once_do_it_once(api: InProcess, engine: Engine, admin: str) -> None:
    rows = "".join(f"https://x.com/n{number}\n" for number in range(200))
    checked = send(api, admin, f"url\n{rows}")
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: again(api, admin, checked).status_code, range(4)))
    assert sorted(answers) == [200, 409, 409, 409]
    with reading(engine) as conn:
        assert conn.scalar(select(func.count()).select_from(dim_account)) == 202


RETURNING = [
        b"\xef\xbb\xbfurl,org\r\nhttps://x.com/fresh,Agency\r\n",
        b"\n\n\nurl,org\rhttps://x.com/fresh,A\r\rhttps://x.com/fresh2,B",
        b"url,org\nhttps://x.com/fresh,Caf\xe9\nhttps://x.com/ok,B\n",
        b"url,org\nhttps://x.com/fresh,A\0B\nhttps://x.com/o\0k,B\nhttps://x.com/fine,C",
        b"url,org\nhttps://x.com/fresh,\x0b\x0c\x1f\x7f\xc2\x85\nhttps://x.com/fine,\xc2\xa0C\n",
        b"url,org\nhttps://x.com/fresh,</textarea><script>alert(1)</script>\n",
        b"url,org\nhttps://x.com/fresh,&amp;&lt;b&gt;&#10;\n",
        b"url,org\nhttps://x.com/fresh,\"=cmd|' /C calc'!A0\"\nhttps://x.com/fine,+1\n",
        'url,org\nhttps://x.com/fresh,\u202eevil\u2066\nhttps://x.com/fine,\U0001f469\u200d\U0001f680\ufeff\n'.encode(),
        b'[{"url": "https://x.com/fresh", "org": "A\\u0000B"}, {"url": "https://x.com/fine"}, 3]',
        b'{"url": "https://x.com/fresh"}\n{"url": "https://x.com/fine", "org": "\xff"}\n',
        b"url,org\n\"https://x.com/fresh,A\nhttps://x.com/fine,B\n",
    ]  # fmt: skip


def test_what_was_checked_is_what_comes_back_from_the_page(api: InProcess, engine: Engine, admin: str) -> None:
    """A page changes line ends and takes no NUL, and what isn't UTF-8 can't be sent back at all."""
    for number, raw in enumerate(RETURNING):
        checked = send(api, admin, file=("list.csv", raw.replace(b"x.com/f", b"x.com/f%d" % number)))
        assert checked.status_code == 200, raw
        assert "<script>alert" not in checked.text
        done = again(api, admin, checked)
        assert done.status_code == 200, raw
        assert verdicts(done) == {row: {"new": "added"}.get(said, said) for row, said in verdicts(checked).items()}
        assert "added" in verdicts(done).values(), raw
    assert not [name for name in handles(engine).values() if name and re.search(r"[\x00-\x1f\x7f-\x9f\ufffd]", name)]


UNJUDGED = [
    ("", "Paste a list"),
    (" \n\t", "Paste a list"),
    ("handle\nagency\n", "must name the columns"),
    ("[" * 100_000, "not one"),
    ("[" + "1" * 10_000 + "]", "not one"),
    ('{"a": 1}', "no single list"),
    ("url\n" + "https://x.com/a\n" * (MOST_ROWS + 1), "more than 10,000 rows"),
    ("url\n" + "\n" * (MOST_ROWS + 1), "more than 10,000 rows"),
    ("url\n" + "x" * LARGEST_LIST_BYTES, "this page takes 2,097,152"),
]


def test_a_list_that_cannot_be_judged_says_why_and_comes_back(api: InProcess, engine: Engine, admin: str) -> None:
    for text, said in UNJUDGED:
        answer = send(api, admin, text)
        assert answer.status_code == (413 if len(text) > LARGEST_LIST_BYTES else 400)
        fault = re.search(r'role="alert" id="fault">.*?</section>', answer.text, re.DOTALL)
        assert fault and said in fault[0]
        assert text_in(answer).strip() == text.strip()
    assert handles(engine) == BEFORE


def test_the_most_rows_are_taken_and_those_that_need_a_hand_come_first(
    api: InProcess, engine: Engine, admin: str
) -> None:
    rows = "".join(f"https://x.com/n{number}\n" for number in range(MOST_ROWS - 2))
    checked = send(api, admin, f"url\n{rows}https://x.com/home")
    assert checked.status_code == 200
    assert f"{MOST_ROWS - 2:,} new" in checked.text
    assert len(verdicts(checked)) == 500
    assert next(iter(verdicts(checked).items())) == (MOST_ROWS, "refused")
    assert "Shown are 500 of 9,999 rows" in checked.text


def test_what_is_far_too_large_is_refused_before_it_is_read(api: InProcess, admin: str) -> None:
    answer = send(api, admin, "x" * (9 << 20))
    assert answer.status_code == 413
    assert "one step back" in answer.text


def test_one_huge_cell_costs_its_row_alone(api: InProcess, admin: str) -> None:
    answer = send(api, admin, "url,org\nhttps://x.com/fresh," + "b" * 1_000_000 + "\nhttps://x.com/fine,B\n")
    assert verdicts(answer) == {2: "refused", 3: "new"}
    assert "is longer than 100,000 characters" in answer.text
    assert answer.text.count("bbb" * 100) < 5000  # in the field, and not again in the table
    assert "b" * 200 not in re.sub(r"<textarea.*?</textarea>", "", answer.text, flags=re.DOTALL)


def test_a_file_outranks_what_the_page_showed_and_nothing_else(api: InProcess, engine: Engine, admin: str) -> None:
    file = ("list.csv", b"url\nhttps://x.com/filed\n")
    both = send(api, admin, "url\nhttps://x.com/pasted\n", file=file)
    assert both.status_code == 400 and "clear the one that isn&#39;t meant" in both.text
    assert text_in(both) == "url\nhttps://x.com/pasted\n"
    first = send(api, admin, file=("list.csv", b"url\nhttps://x.com/home\n"))
    checked = re.search(r'name="checked" value="(\w*)"', first.text)
    assert checked and verdicts(first) == {2: "refused"}
    mended = send(api, admin, text_in(first), file=file, checked=checked[1])
    assert (verdicts(mended), text_in(mended)) == ({2: "new"}, "url\nhttps://x.com/filed\n")


def test_who_is_not_signed_in_any_more_or_may_not_import_gets_the_list_back(
    api: InProcess, engine: Engine, admin: str
) -> None:
    checked = send(api, admin, LIST)
    api.ask("POST", "/sign-out", Cookie=admin, **OWN)
    for asked, status in ((admin, 401), ("", 401), (signed_in(api, engine, ["refresh"]), 403)):
        answer = again(api, asked, checked)
        assert (answer.status_code, text_in(answer)) == (status, LIST)
        assert "fingerprint" not in answer.text and not verdicts(answer)
    assert handles(engine) == BEFORE


def test_another_site_imports_nothing(api: InProcess, engine: Engine, admin: str) -> None:
    checked = send(api, admin, LIST)
    shown = re.search(r'name="shown" value="(\w{64})"', checked.text)
    assert shown
    body, kind = encode_multipart_formdata({"list": LIST, "shown": shown[1]})
    foreign = (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {},
    )
    for headers in foreign:
        answer = api.ask("POST", "/import", body, Content_Type=kind, Cookie=admin, **headers)
        assert answer.status_code == 403
    assert handles(engine) == BEFORE


FORMS = [
    ("application/x-www-form-urlencoded", b"list=url", 415),
    ("multipart/form-data", b"list=url", 415),
    ("multipart/form-data; boundary=" + "b" * 71, b"", 415),
    ("multipart/form-data; boundary=b", b"", 400),
    ("multipart/form-data; boundary=b", b"garbage \xff\0", 400),
    ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=list\r\n\r\nurl", 400),
    ("multipart/form-data; boundary=b", b"--b\r\n" + b"x" * 100_000, 400),
    (
        "multipart/form-data; boundary=b",
        b"--b\r\nContent-Disposition: form-data; name=list\r\n\r\nurl\r\n" * 2 + b"--b--\r\n",
        400,
    ),
    (
        "multipart/form-data; boundary=b",
        b"".join(b"--b\r\nContent-Disposition: form-data; name=n%d\r\n\r\nv\r\n" % n for n in range(100))
        + b"--b--\r\n",
        400,
    ),
]


def test_a_form_that_no_browser_sends_is_told_so(api: InProcess, admin: str) -> None:
    for kind, body, status in FORMS:
        answer = api.ask("POST", "/import", body, Content_Type=kind, Cookie=admin, **OWN)
        assert answer.status_code == status, body[:200]
        assert 'id="fault"' in answer.text


def test_without_the_database_the_list_comes_back(
    api: InProcess, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.engine.dispose()
    monkeypatch.setattr(api.engine.dialect, "connect", _nobody_there)
    answer = send(api, admin, LIST)
    assert (answer.status_code, text_in(answer)) == (503, LIST)
    assert "database can&#39;t be reached" in answer.text


def _nobody_there(*_: object, **__: object) -> None:
    raise psycopg2.OperationalError("connection refused")
