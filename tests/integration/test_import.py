"""An account list comes into a real database: whole, once, and row by row."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from db import accounts as known_accounts
from db.engine import Engine, reading, transaction
from db.models import account_handle, dim_account, scrape_state
from pipeline import accounts
from pipeline.account_file import NotAList
from pipeline.accounts import Change, Report
from tests.fakes import NOON

LATER = NOON + timedelta(hours=1)


def bring_in(engine: Engine, text: str, **options) -> Report:
    return accounts.import_list(engine, text.encode(), now=options.pop("now", NOON), **options)


def verdicts(report: Report) -> list[tuple[int, str]]:
    return [(row.row, row.verdict) for row in report.rows]


def everything(engine: Engine) -> list[list[tuple]]:
    """Return all rows that an import may touch."""
    with reading(engine) as conn:
        return [
            sorted(map(tuple, conn.execute(table.select())), key=str)
            for table in (dim_account, account_handle, scrape_state)
        ]


def accounts_by_handle(engine: Engine) -> dict:
    with reading(engine) as conn:
        return {row.handle: row for row in conn.execute(dim_account.select())}


def states(engine: Engine) -> dict:
    with reading(engine) as conn:
        joined = dim_account.join(scrape_state, scrape_state.c.account_key == dim_account.c.account_key)
        query = joined.select().with_only_columns(dim_account.c.handle, *scrape_state.c)
        return {row.handle: row for row in conn.execute(query)}


def test_every_row_of_the_first_list_gets_its_verdict(engine, project: Path):
    raw = (project / "deploy" / "accounts" / "hhs.csv").read_bytes()
    report = accounts.import_list(engine, raw, now=NOON)
    assert [row.row for row in report.rows] == list(range(2, 101))
    assert report.counts == {"imported": 98, "rejected": 1}
    with reading(engine) as conn:
        assert len(known_accounts.names(conn)) == 98


def test_a_new_account_is_due_at_once_with_its_handle_and_facts(engine):
    report = bring_in(
        engine,
        "url,organization,is_core,owner_team,account_type\nhttps://twitter.com/Goose/,Geese,yes,Pond,agency\n",
    )
    goose = accounts_by_handle(engine)["Goose"]
    state = states(engine)["Goose"]
    assert report.tags == {"accounts", "summary"}
    assert (goose.platform, goose.host, goose.external_id, goose.url) == ("x", "", None, "https://twitter.com/Goose")
    assert (goose.org_name, goose.owner_team, goose.account_type) == ("Geese", "Pond", "agency")
    assert (goose.is_core_account, goose.is_active, goose.added_at) == (True, True, NOON)
    assert (state.subject, state.platform, state.kind, state.is_core) == ("profile", "x", "resolve", True)
    assert (state.next_due_at, state.job_id, state.result, state.reason) == (NOON, None, None, None)
    with reading(engine) as conn:
        assert [tuple(row) for row in conn.execute(account_handle.select())] == [
            (goose.account_key, "Goose", NOON, NOON)
        ]


def test_an_account_without_a_reader_says_so_from_the_start(engine, flickr_unread):
    bring_in(engine, "platform,handle\nflickr,goose\nx,goose2\n")
    found = states(engine)
    assert (found["goose"].reason, found["goose"].result, found["goose"].explained) == ("no reader yet", None, True)
    assert (found["goose2"].reason, found["goose2"].explained) == (None, False)


def test_an_account_whose_address_carries_its_id_is_read_by_id(engine):
    bring_in(
        engine, "url\nhttps://www.youtube.com/channel/UCabcdefghijklmnopqrstuv\nhttps://www.youtube.com/@goose\n"
    )
    found = states(engine)
    assert found["UCabcdefghijklmnopqrstuv"].kind == "profiles"
    assert found["goose"].kind == "resolve"
    assert accounts_by_handle(engine)["UCabcdefghijklmnopqrstuv"].external_id == "UCabcdefghijklmnopqrstuv"


def test_servers_of_one_platform_have_names_of_their_own(engine):
    bring_in(engine, "url\nhttps://pond.example/@goose\nhttps://lake.example/@goose\n")
    with reading(engine) as conn:
        assert set(known_accounts.names(conn)) == {"mastodon/goose@pond.example", "mastodon/goose@lake.example"}


def test_importing_again_changes_nothing(engine, project: Path):
    raw = (project / "deploy" / "accounts" / "hhs.csv").read_bytes()
    accounts.import_list(engine, raw, now=NOON)
    before = everything(engine)
    report = accounts.import_list(engine, raw, now=LATER)
    assert report.counts == {"unchanged": 98, "rejected": 1}
    assert report.tags == frozenset()
    assert everything(engine) == before


def test_another_spelling_of_a_known_account_changes_nothing(engine):
    bring_in(engine, "url\nhttps://x.com/Goose\n")
    before = everything(engine)
    report = bring_in(engine, "platform,handle\nTwitter,@GOOSE\n", now=LATER)
    assert verdicts(report) == [(2, "unchanged")]
    assert report.rows[0].account == "x/Goose"
    assert everything(engine) == before


def test_one_bad_row_never_rejects_the_rest(engine):
    report = bring_in(
        engine,
        "url,is_core\nhttps://x.com/goose,yes\nhttps://x.com/home,no\nnowhere,no\nhttps://x.com/duck,perhaps\n"
        'https://x.com/swan,"no\nhttps://x.com/teal,no,no\nhttps://x.com/loon,no\n',
    )
    assert verdicts(report) == [
        (2, "imported"),
        (3, "rejected"),
        (4, "rejected"),
        (5, "rejected"),
        (6, "rejected"),
        (7, "rejected"),
        (8, "imported"),
    ]
    assert all(row.reason for row in report.rows if row.verdict == "rejected")
    assert set(accounts_by_handle(engine)) == {"goose", "loon"}


def test_a_repeated_account_is_a_duplicate_of_its_first_good_row(engine):
    report = bring_in(
        engine,
        "url,org,is_core\nhttps://x.com/goose,A,perhaps\nhttps://x.com/Goose,B,yes\nhttps://twitter.com/GOOSE/,C,no\n",
    )
    assert verdicts(report) == [(2, "rejected"), (3, "imported"), (4, "duplicate")]
    assert report.rows[2].reason == "the same account as row 3"
    assert accounts_by_handle(engine)["Goose"].org_name == "B"


def test_a_past_and_a_present_name_of_one_account_are_duplicates(engine):
    bring_in(engine, "url\nhttps://x.com/gosling\n")
    key = accounts_by_handle(engine)["gosling"].account_key
    with transaction(engine) as conn:
        conn.execute(dim_account.update().values(handle="goose"))
        conn.execute(account_handle.insert().values(account_key=key, handle="goose", first_seen_at=LATER))
    report = bring_in(engine, "url\nhttps://x.com/goose\nhttps://x.com/gosling\n")
    assert verdicts(report) == [(2, "unchanged"), (3, "duplicate")]


def test_an_account_is_found_by_a_name_it_has_left(engine):
    bring_in(engine, "url\nhttps://x.com/gosling\n")
    with transaction(engine) as conn:
        conn.execute(dim_account.update().values(handle="goose"))
    report = bring_in(engine, "url\nhttps://x.com/gosling\n")
    assert (report.rows[0].verdict, report.rows[0].account) == ("unchanged", "x/goose")
    assert report.rows[0].reason == "x/gosling is called x/goose now"


def test_a_name_belongs_to_who_has_it_today(engine):
    bring_in(engine, "url\nhttps://x.com/goose\nhttps://x.com/duck\n")
    old, new = (accounts_by_handle(engine)[handle].account_key for handle in ("goose", "duck"))
    with transaction(engine) as conn:
        conn.execute(dim_account.update().where(dim_account.c.account_key == old).values(handle="gander"))
        conn.execute(dim_account.update().where(dim_account.c.account_key == new).values(handle="goose"))
        assert known_accounts.find(conn, "x", "GOOSE") == new
        assert known_accounts.find(conn, "x", "gander") == old
        assert known_accounts.find(conn, "x", "duck") == new
        assert known_accounts.find(conn, "x", "swan") is None
        assert known_accounts.find(conn, "bluesky", "goose") is None
        assert known_accounts.find(conn, "x", "goose", "pond.example") is None


def test_a_name_that_nobody_has_belongs_to_who_left_it_last(engine):
    bring_in(engine, "url\nhttps://x.com/goose\nhttps://x.com/duck\n")
    first, last = (accounts_by_handle(engine)[handle].account_key for handle in ("goose", "duck"))
    with transaction(engine) as conn:
        for key, left_at in ((first, NOON), (last, LATER)):
            conn.execute(account_handle.insert().values(account_key=key, handle="egg", last_seen_at=left_at))
        assert known_accounts.find(conn, "x", "egg") == last


def test_an_account_is_found_by_its_id_whatever_it_is_called_now(engine):
    address = "url\nhttps://www.youtube.com/channel/UCabcdefghijklmnopqrstuv\n"
    bring_in(engine, address)
    with transaction(engine) as conn:
        conn.execute(account_handle.delete())
        conn.execute(dim_account.update().values(handle="goose"))
    report = bring_in(engine, address)
    assert (report.rows[0].verdict, report.rows[0].account) == ("unchanged", "youtube/goose")


def test_what_a_row_changes_is_said_and_done(engine):
    bring_in(
        engine, "url,org,owner_team,is_core\nhttps://x.com/goose,Geese,Pond,no\nhttps://x.com/duck,Ducks,Pond,no\n"
    )
    report = bring_in(engine, "url,org,is_core\nhttps://x.com/goose,Wild Geese,yes\nhttps://x.com/duck,Ducks,no\n")
    goose = accounts_by_handle(engine)["goose"]
    assert verdicts(report) == [(2, "updated"), (3, "unchanged")]
    assert report.rows[0].changes == {
        "org_name": Change("Geese", "Wild Geese"),
        "is_core_account": Change(False, True),
    }
    assert (goose.org_name, goose.owner_team, goose.is_core_account) == ("Wild Geese", "Pond", True)
    assert states(engine)["goose"].is_core is True
    assert report.tags == {"accounts", "summary", f"account:{goose.account_key}"}


def test_an_empty_cell_leaves_what_is_known(engine):
    bring_in(engine, "url,org,is_core\nhttps://x.com/goose,Geese,yes\n")
    assert verdicts(bring_in(engine, "url,org,is_core\nhttps://x.com/goose,,\n")) == [(2, "unchanged")]


def test_an_inactive_account_is_never_due_until_it_is_active_again(engine):
    bring_in(engine, "url,is_active\nhttps://x.com/goose,no\nhttps://x.com/duck,yes\n")
    assert known_due(engine, "goose") == "infinity"
    bring_in(engine, "url,is_active\nhttps://x.com/goose,yes\nhttps://x.com/duck,no\n", now=LATER)
    assert known_due(engine, "goose") == str(LATER)
    assert known_due(engine, "duck") == "infinity"


def known_due(engine: Engine, handle: str) -> str:
    """Return next_due_at as text: psycopg2 has no infinite time."""
    with reading(engine) as conn:
        found = conn.exec_driver_sql(
            "SELECT next_due_at::text FROM scrape_state JOIN dim_account USING (account_key) WHERE handle = %s",
            (handle,),
        ).scalar_one()
    return str(found).replace("+00", "+00:00")


def test_changing_the_facts_leaves_the_next_reading_where_it_is(engine):
    bring_in(engine, "url,org\nhttps://x.com/goose,Geese\n")
    bring_in(engine, "url,org\nhttps://x.com/goose,Wild Geese\n", now=LATER)
    assert states(engine)["goose"].next_due_at == NOON


def test_a_dry_run_gives_the_same_verdicts_and_writes_nothing(engine):
    bring_in(engine, "url,org\nhttps://x.com/goose,Geese\nhttps://x.com/duck,Ducks\n")
    before = everything(engine)
    text = "url,org\nhttps://x.com/goose,Wild Geese\nhttps://x.com/duck,Ducks\nhttps://x.com/swan,\nhttps://x.com/SWAN,\n-,\n"
    dry = bring_in(engine, text, dry_run=True)
    assert everything(engine) == before
    assert [(row.row, row.verdict, row.changes) for row in dry.rows] == [
        (row.row, row.verdict, row.changes) for row in bring_in(engine, text).rows
    ]
    assert dry.counts == {"updated": 1, "unchanged": 1, "imported": 1, "duplicate": 1, "rejected": 1}


def test_json_and_csv_bring_in_the_same(engine):
    listed = [
        {"platform": "X", "handle": "@goose", "org": "Geese", "is_core": True},
        {"url": "https://x.com/duck", "is_active": 0},
    ]
    assert verdicts(bring_in(engine, json.dumps(listed))) == [(1, "imported"), (2, "imported")]
    lines = "\n".join(map(json.dumps, listed))
    assert verdicts(bring_in(engine, lines)) == [(1, "unchanged"), (2, "unchanged")]
    table = "platform;handle;url;org;is_core;is_active\r\nX;@goose;;Geese;1;\r\n;;https://x.com/duck;;;no\r\n"
    assert verdicts(bring_in(engine, table)) == [(2, "unchanged"), (3, "unchanged")]


def test_a_file_that_is_no_list_changes_nothing(engine):
    with pytest.raises(NotAList):
        bring_in(engine, "Dear colleague,\nplease find the list attached.\n")
    assert everything(engine) == [[], [], []]


def test_a_name_taken_while_the_import_runs_costs_its_row_only(engine, monkeypatch):
    bring_in(engine, "url\nhttps://x.com/gosling\n")
    find_each = known_accounts.find_each

    def renamed_meanwhile(conn, sought):
        found = find_each(conn, sought)
        with transaction(engine) as worker:
            worker.execute(dim_account.update().values(handle="GOOSE"))
        return found

    monkeypatch.setattr(known_accounts, "find_each", renamed_meanwhile)
    report = bring_in(engine, "url\nhttps://x.com/goose\nhttps://x.com/duck\n")
    assert verdicts(report) == [(2, "rejected"), (3, "imported")]
    assert "import the row again" in report.rows[0].reason
    assert set(accounts_by_handle(engine)) == {"GOOSE", "duck"}


def test_two_imports_at_once_bring_each_account_in_once(engine):
    text = "url\n" + "".join(f"https://x.com/goose{n}\n" for n in range(500))
    reverse = "url\n" + "".join(f"https://x.com/goose{n}\n" for n in reversed(range(500)))
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda listed: bring_in(engine, listed), (text, reverse)))
    assert sum((report.counts for report in reports), Counter()) == {"imported": 500, "unchanged": 500}


def test_a_large_list_costs_statements_by_the_thousand_rows(engine):
    count = 12_000
    text = "url\n" + "".join(f"https://x.com/goose{n}\n" for n in range(count))
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda conn, cursor, statement, *rest: statements.append(statement))
    assert bring_in(engine, text).counts == {"imported": count}
    assert len(statements) < 20
