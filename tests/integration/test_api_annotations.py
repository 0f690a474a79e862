"""/api/annotations and PATCH /api/accounts: who may, what is refused, and that everyone sees the change at once."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from db import keys
from db.engine import Engine, reading, transaction
from db.models import annotation, scrape_state
from deploy.embedded import start_redis
from tests import fakes
from tests.serving import InProcess, add_account, days_ago, in_process, keep, stand, wait_for

TODAY = days_ago(0).isoformat()


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


@pytest.fixture
def token(engine: Engine) -> str:
    with transaction(engine) as conn:
        return keys.create(conn, name="newsroom", scopes=["admin"])


def ask(api: InProcess, token: str | None, method: str, path: str, body: Any = b"", **headers: str) -> Any:
    given = {"Authorization": f"Bearer {token}"} if token else {}
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return api.ask(method, path, body=sent, **given, **headers)


def note(api: InProcess, token: str | None, **said: Any) -> Any:
    return ask(api, token, "POST", "/api/annotations", {"from": TODAY, "note": "Campaign", "all": True} | said)


def notes(engine: Engine) -> list[Any]:
    with reading(engine) as conn:
        return list(conn.execute(select(annotation)))


def test_a_note_is_kept_shown_listed_and_taken_back(api: InProcess, engine: Engine, token: str) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency", org_name="Rivers"), 5)
        keep(conn, add_account(conn, "x/other"), 5)
    api.wait_until_it_hears_purges()
    history = "/api/history/x/agency?fields=annotations"
    assert api.get(history).json == {"annotations": []}
    made = note(api, token, account="x/AGENCY", all=None, to=TODAY)
    assert made.status_code == 201
    assert made.headers["location"] == f"/api/annotations/{made.json['annotation_id']}"
    said = {"from": TODAY, "to": TODAY, "note": "Campaign"}
    assert {name: made.json[name] for name in ("about", *said)} == {"about": "x/agency", **said}
    assert api.get(history).json == {"annotations": [said]}, "at once, where it was said"
    assert api.get("/api/history/x/other?fields=annotations").json == {"annotations": []}
    assert api.get(made.headers["location"]).json == made.json
    note(api, token, org="Rivers", all=None, note="Flood")
    note(api, token, note="Outage", **{"from": days_ago(9).isoformat()})
    listed = api.get("/api/annotations?per_page=2").json
    assert [one["about"] for one in listed["items"]] == ["Rivers", "x/agency"]
    assert (listed["total"], listed["next"]) == (3, "/api/annotations?per_page=2&page=2")
    assert [one["note"] for one in api.get(listed["next"]).json["items"]] == ["Outage"]
    assert api.get("/api/annotations?fields=to,from").json["items"][0] == {"to": TODAY, "from": TODAY}
    assert "newsroom" not in api.get("/api/annotations").text, "who noted is nobody else's business"
    assert len(api.get(history).json["annotations"]) == 3
    assert ask(api, token, "DELETE", made.headers["location"]).status_code == 204
    assert len(api.get(history).json["annotations"]) == 2
    assert ask(api, token, "DELETE", made.headers["location"]).status_code == 404
    assert {row.created_by for row in notes(engine)} == {"api:newsroom"}


def test_the_same_note_sent_again_is_one_note(api: InProcess, engine: Engine, token: str) -> None:
    first, again = note(api, token), note(api, token)
    assert (first.status_code, again.status_code) == (201, 201), "as after an answer that was lost"
    assert first.json == again.json
    assert note(api, token, note="Another").status_code == 201
    assert note(api, token, note="Campaign", to=days_ago(-1).isoformat()).status_code == 201
    assert len(notes(engine)) == 3


def test_writing_needs_a_key_of_an_admin(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/agency")
        weak = [keys.create(conn, name="weak", scopes=scopes) for scopes in ([], ["refresh"])]
    writes = [
        ("POST", "/api/annotations", {"from": TODAY, "note": "x", "all": True}),
        ("DELETE", "/api/annotations/1", b""),
        ("PATCH", "/api/accounts/x/agency", {"is_active": False}),
    ]
    for method, path, body in writes:
        assert ask(api, None, method, path, body).status_code == 401
        assert {ask(api, token, method, path, body).status_code for token in weak} == {403}
        override = api.ask("GET", path, X_HTTP_Method_Override=method, X_Method_Override=method)
        assert override.status_code in (200, 404), "no header makes a GET something else"
    assert notes(engine) == []


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"", 400, "$"),
        (b"[]", 400, "$"),
        (b"{", 400, "$"),
        (b'{"from": "2026-01-01", "note": "\xff", "all": true}', 400, "$"),
        ({}, 400, "$"),
        ({"note": "x", "all": True}, 400, "$"),
        ({"from": TODAY, "note": "x"}, 400, "account"),
        ({"from": TODAY, "note": "x", "all": True, "org": "Rivers"}, 400, "account"),
        ({"from": TODAY, "note": "x", "all": False}, 400, "all"),
        ({"from": TODAY, "note": "x", "all": True, "force": 1}, 400, "$"),
        ({"from": "yesterday", "note": "x", "all": True}, 400, "from"),
        ({"from": 20260101, "note": "x", "all": True}, 400, "from"),
        ({"from": "0001-01-01", "note": "x", "all": True}, 400, "from"),
        ({"from": TODAY, "to": "9999-12-31", "note": "x", "all": True}, 400, "to"),
        ({"from": TODAY, "to": days_ago(1).isoformat(), "note": "x", "all": True}, 400, "from"),
        ({"from": TODAY, "note": "", "all": True}, 400, "note"),
        ({"from": TODAY, "note": " \n", "all": True}, 400, "note"),
        ({"from": TODAY, "note": "a\0b", "all": True}, 400, "note"),
        ({"from": TODAY, "note": "x" * 2001, "all": True}, 400, "note"),
        ({"from": TODAY, "note": ["x"], "all": True}, 400, "note"),
        ({"from": TODAY, "note": "x", "account": "agency"}, 400, "account"),
        ({"from": TODAY, "note": "x", "account": "orkut/agency"}, 400, "account"),
        ({"from": TODAY, "note": "x", "account": "x/a\0b"}, 404, "account"),
        ({"from": TODAY, "note": "x", "account": "x/nobody"}, 404, "account"),
        ({"from": TODAY, "note": "x", "org": "Nowhere"}, 404, "org"),
        ({"from": TODAY, "note": "x", "org": "A\r\nSet-Cookie: a=b"}, 400, "org"),
        (b'{"from": "2026-01-01", "note": "x", "note": "y", "all": true}', 400, "note"),
        (b'{"from": "2026-01-01", "note": "x", "all": ' + b"[" * 100_000, 400, "all"),
        (b'{"from": "2026-01-01", "note": "x", "org": ' + b"9" * 10_000 + b"}", 400, "org"),
    ],
)
def test_a_note_that_is_not_as_documented_is_refused(
    api: InProcess, engine: Engine, token: str, body: Any, status: int, named: str
) -> None:
    answer = ask(api, token, "POST", "/api/annotations", body)
    assert answer.status_code == status, answer.text
    assert [error["field"] for error in answer.json["errors"]] == [named]
    assert notes(engine) == []


def test_a_text_that_looks_like_headers_stays_a_text(api: InProcess, engine: Engine, token: str) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    text = "a\r\nSet-Cookie: a=b\r\n\r\n<script>alert(1)</script>"
    made = note(api, token, note=text)
    assert made.json["note"] == text
    shown = api.get("/api/history/x/agency")
    assert shown.json["annotations"][0]["note"] == text
    assert "set-cookie" not in {**made.headers, **shown.headers}


@pytest.mark.parametrize(
    "id_", ["0", "-1", "01", "1e3", "999999999999999999", "9" * 400, "%00", "x", "1/2", "%EF%BC%91"]
)
def test_a_note_that_does_not_exist_is_a_404(api: InProcess, token: str, id_: str) -> None:
    assert api.get(f"/api/annotations/{id_}").status_code == 404
    assert ask(api, token, "DELETE", f"/api/annotations/{id_}").status_code == 404


def test_only_json_is_taken(api: InProcess, engine: Engine, token: str) -> None:
    body = {"from": TODAY, "note": "x", "all": True}
    taken = [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/merge-patch+json",
    ]
    refused = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "multipart/form-data",
    ]
    for kind in taken:
        assert ask(api, token, "POST", "/api/annotations", body, Content_Type=kind).status_code == 201, kind
    for kind in refused:
        assert ask(api, token, "POST", "/api/annotations", body, Content_Type=kind).status_code == 415, kind
    packed = ask(api, token, "POST", "/api/annotations", body, Content_Encoding="gzip")
    assert packed.status_code == 415


def patch(api: InProcess, token: str | None, said: Any, path: str = "x/agency") -> Any:
    return ask(api, token, "PATCH", f"/api/accounts/{path}", said)


def due(engine: Engine, key: int) -> Any:
    with reading(engine) as conn:
        return conn.execute(select(scrape_state.c.next_due_at).where(scrape_state.c.account_key == key)).scalar_one()


def test_what_is_set_of_an_account_shows_at_once_everywhere(
    api: InProcess, database_url: str, redis_url: str, engine: Engine, token: str
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", org_name="Rivers", owner_team="Press")
        keep(conn, key, 5)
    paths = (
        "/api/accounts/x/agency",
        "/api/summary?fields=org_name",
        "/api/accounts?fields=org_name",
        "/api/history/x/agency",
    )
    with in_process(fakes.settings(database_url, redis_url)) as other:
        for one in (api, other):
            one.wait_until_it_hears_purges()
        for path in paths:
            assert "Rivers" in api.get(path).text and "Rivers" in other.get(path).text
        with capture_logs() as logged:
            answer = patch(api, token, {"org_name": "Lakes", "is_core_account": True})
        assert (answer.status_code, answer.json["org_name"], answer.json["is_core_account"]) == (200, "Lakes", True)
        assert answer.json["owner_team"] == "Press", "what isn't said stays"
        for path in paths:
            if not path.startswith(("/api/summary", "/api/accounts?")):  # lists may be stale for two seconds
                assert "Lakes" in api.get(path).text, path
            wait_for(lambda path=path: "Lakes" in api.get(path).text, f"the change of {path}", within_s=5)
            wait_for(lambda path=path: "Lakes" in other.get(path).text, f"the change of {path}", within_s=5)
    (line,) = [line for line in logged if line["event"] == "account_changed"]
    assert (line["account"], line["by"]) == ("x/agency", "newsroom")
    assert line["changes"]["org_name"] == {"before": "Rivers", "after": "Lakes"}


def test_a_paused_account_leaves_the_plan_and_is_due_when_it_comes_back(
    api: InProcess, engine: Engine, token: str
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        stand(conn, key, next_due_at=datetime.now(UTC) + timedelta(hours=3))
    assert patch(api, token, {"is_active": False}).json["status"] == "paused"
    assert due(engine, key).year == 9999, "never"
    assert patch(api, token, {"is_active": True}).json["is_active"] is True
    assert due(engine, key) <= datetime.now(UTC)


def test_setting_what_is_so_changes_nothing_and_purges_nothing(api: InProcess, engine: Engine, token: str) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/agency", org_name="Rivers")
    api.wait_until_it_hears_purges()
    api.get("/api/summary")
    for said in ({}, {"org_name": "Rivers", "is_active": True}, {"owner_team": None}):
        with capture_logs() as logged:
            assert patch(api, token, said).status_code == 200
        assert "account_changed" not in {line["event"] for line in logged}
    assert api.get("/api/summary").headers["x-cache"] == "l1"
    assert patch(api, token, {"org_name": None}).json["org_name"] is None, "null takes it away"


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"handle": "other"}, "$"),
        ({"is_active": None}, "is_active"),
        ({"is_active": "false"}, "is_active"),
        ({"is_core_account": 1}, "is_core_account"),
        ({"org_name": ""}, "org_name"),
        ({"org_name": " Rivers"}, "org_name"),
        ({"org_name": "a\nb"}, "org_name"),
        ({"org_name": "a\0b"}, "org_name"),
        ({"org_name": "a" * 201}, "org_name"),
        ({"owner_team": ["a"]}, "owner_team"),
        ([], "$"),
        (b'{"is_active": true, "is_active": false}', "is_active"),
    ],
)
def test_what_cannot_be_set_is_named_and_changes_nothing(
    api: InProcess, engine: Engine, token: str, said: Any, named: str
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/agency", org_name="Rivers")
    answer = patch(api, token, said)
    assert answer.status_code == 400, answer.text
    assert [error["field"] for error in answer.json["errors"]] == [named]
    account = api.get("/api/accounts/x/agency").json
    assert (account["org_name"], account["is_active"]) == ("Rivers", True)


def test_an_unknown_account_cannot_be_changed(api: InProcess, token: str) -> None:
    assert patch(api, token, {"is_active": False}).status_code == 404
    assert patch(api, token, {"is_active": False}, "orkut/agency").status_code == 400
    assert patch(api, token, {"is_active": False}, "x/%00").status_code == 404


def test_a_change_without_redis_is_kept_and_shown_by_who_made_it(
    database_url: str, engine: Engine, token: str, tmp_path: Path
) -> None:
    server = start_redis(tmp_path / "redis")
    with transaction(engine) as conn:
        add_account(conn, "x/agency", org_name="Rivers")
    with in_process(fakes.settings(database_url, server.url)) as api:
        api.wait_until_it_hears_purges()
        assert api.get("/api/accounts/x/agency").json["org_name"] == "Rivers"
        server.stop()
        assert patch(api, token, {"org_name": "Lakes"}).status_code == 200
        assert note(api, token).status_code == 201
        assert api.get("/api/accounts/x/agency").json["org_name"] == "Lakes"


def test_changes_of_different_facts_at_the_same_time_all_count(api: InProcess, engine: Engine, token: str) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/agency")
    said = [{"org_name": "Rivers"}, {"owner_team": "Press"}, {"is_core_account": True}, {"is_active": False}]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda one: patch(api, token, one).status_code, said * 3))
    assert set(answers) == {200}
    account = api.get("/api/accounts/x/agency").json
    assert {name: account[name] for one in said for name in one} == {k: v for one in said for k, v in one.items()}


def test_the_same_note_sent_many_times_at_once_is_one_note(api: InProcess, engine: Engine, token: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: note(api, token), range(16)))
    (kept,) = notes(engine)
    assert {(answer.status_code, answer.json["annotation_id"]) for answer in answers} == {(201, kept.annotation_id)}


def test_who_changed_something_sees_it_before_the_message_of_it_comes_back(
    database_url: str, redis_url: str, engine: Engine, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear_nothing(url: str, on_connect: Callable[[], None], stop: threading.Event, **_: Any) -> None:
        on_connect()
        stop.wait()

    monkeypatch.setattr("api.cache.listener.listen_purges", hear_nothing)
    with transaction(engine) as conn:
        add_account(conn, "x/agency", org_name="Rivers")
    path = "/api/accounts/x/agency?fields=org_name"
    with in_process(fakes.settings(database_url, redis_url)) as api:
        assert api.get(path).json == {"org_name": "Rivers"}
        assert api.get(path).headers["x-cache"] == "l1"
        patch(api, token, {"org_name": "Lakes"})
        assert api.get(path).json == {"org_name": "Lakes"}
