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
from pipeline.account_file import NotAList, TooLong
from pipeline.accounts import Change, Otherwise, Report
from tests.fakes import NOON
from tests.serving import add_account

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
    assert report.tags == {"accounts", "grid", "names", "summary"}
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
    assert report.tags == {"accounts", "grid", "summary", f"account:{goose.account_key}"}


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


def test_an_account_s_own_interval_is_read_as_people_write_it_and_taken_back(engine):
    rows = {"goose": "6h", "duck": "7D", "swan": "30m", "crane": ""}
    bring_in(engine, "url,Read interval\n" + "\n".join(f"https://x.com/{who},{said}" for who, said in rows.items()))
    found = accounts_by_handle(engine)
    assert {who: found[who].read_interval_s for who in rows} == {
        "goose": 21_600,
        "duck": 604_800,
        "swan": 1_800,
        "crane": None,
    }
    report = bring_in(engine, "url,read_interval\nhttps://x.com/goose,default\nhttps://x.com/duck,\n")
    assert verdicts(report) == [(2, "updated"), (3, "unchanged")]
    assert report.rows[0].changes == {"read_interval_s": Change(21_600, None)}
    assert accounts_by_handle(engine)["goose"].read_interval_s is None


@pytest.mark.parametrize("said", ["daily", "0h", "6", "-1d", "1.5d", "6 hours", "367d", "999999d", "10s", "6h; 1d"])
def test_an_interval_that_is_none_costs_its_row_and_says_how_to_write_it(engine, said):
    report = bring_in(engine, f"url,read_interval\nhttps://x.com/goose,{said}\nhttps://x.com/duck,1d\n")
    assert verdicts(report) == [(2, "rejected"), (3, "imported")]
    assert report.rows[0].reason == (
        f"read_interval: {said!r} is no interval: write it as 30m, 6h or 7d, up to a year, or default"
    )


def test_a_shorter_interval_counts_from_the_last_reading_and_a_longer_one_from_the_next(engine):
    bring_in(engine, "url\nhttps://x.com/goose\nhttps://x.com/duck\nhttps://x.com/swan\n")
    tomorrow = NOON + timedelta(days=1)
    with transaction(engine) as conn:
        conn.execute(scrape_state.update().values(result="ok", last_success_at=NOON, next_due_at=tomorrow))
        swan = dim_account.select().with_only_columns(dim_account.c.account_key).where(dim_account.c.handle == "swan")
        conn.execute(scrape_state.update().where(scrape_state.c.account_key.in_(swan)).values(result="gone"))
    bring_in(
        engine, "url,read_interval\nhttps://x.com/goose,1h\nhttps://x.com/duck,7d\nhttps://x.com/swan,1h\n", now=LATER
    )
    due = {who: state.next_due_at for who, state in states(engine).items()}
    assert due == {"goose": NOON + timedelta(hours=1), "duck": tomorrow, "swan": tomorrow}


def test_accounts_are_seated_by_platform_and_server_in_the_order_of_the_list_and_of_the_lists(engine):
    addresses = ["x.com/a", "pond.example/@a", "x.com/b", "lake.example/@a", "pond.example/@b", "x.com/c"]
    bring_in(engine, "url\n" + "\n".join(f"https://{address}" for address in addresses))
    bring_in(engine, "url\nhttps://x.com/b\nhttps://x.com/d\nhttps://pond.example/@c\n")
    with reading(engine) as conn:
        seats = {(row.platform, row.host, row.handle): row.seat for row in conn.execute(dim_account.select())}
    assert [seats["x", "", handle] for handle in "abcd"] == [0, 1, 2, 3]
    assert [seats["mastodon", "pond.example", handle] for handle in "abc"] == [0, 1, 2]
    assert seats["mastodon", "lake.example", "a"] == 0


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


def test_what_was_shown_is_written_or_nothing_is(engine):
    shown = bring_in(engine, "url,org\nhttps://x.com/goose,A\nhttps://x.com/duck,A\n", dry_run=True).fingerprint
    for text in ("url,org\nhttps://x.com/goose,B\nhttps://x.com/duck,A\n", "url,org\nhttps://x.com/goose,A\n"):
        with pytest.raises(Otherwise) as raised:
            bring_in(engine, text, shown=shown)
        assert raised.value.report.dry_run
        assert set(raised.value.report.counts) == {"imported"}
    assert accounts_by_handle(engine) == {}
    bring_in(engine, "url\nhttps://x.com/duck\n")
    with pytest.raises(Otherwise):
        bring_in(engine, "url,org\nhttps://x.com/goose,A\nhttps://x.com/duck,A\n", shown=shown)
    assert set(accounts_by_handle(engine)) == {"duck"}


def test_a_name_that_is_taken_at_the_last_moment_keeps_all_out_that_were_shown(engine, monkeypatch):
    """It comes out only when the accounts are added: the others are taken back with it."""
    text = "url\nhttps://x.com/goose\nhttps://x.com/duck\n"
    shown = bring_in(engine, text, dry_run=True).fingerprint
    add = known_accounts.add

    def taken_meanwhile(conn, new, **options):
        bring_in_elsewhere(engine)
        return add(conn, new, **options)

    monkeypatch.setattr(known_accounts, "add", taken_meanwhile)
    with pytest.raises(Otherwise) as raised:
        bring_in(engine, text, shown=shown)
    assert verdicts(raised.value.report) == [(2, "rejected"), (3, "imported")]
    assert set(accounts_by_handle(engine)) == {"goose"}


def bring_in_elsewhere(engine: Engine) -> None:
    with transaction(engine) as worker:
        add_account(worker, "x/goose")


def test_a_list_of_more_rows_than_may_be_is_refused_whole(engine):
    with pytest.raises(TooLong, match="more than 2 rows"):
        bring_in(engine, "url\nhttps://x.com/a\n\nhttps://x.com/b\n", most_rows=2)
    assert bring_in(engine, "url\nhttps://x.com/a\nhttps://x.com/b", most_rows=2).counts == {"imported": 2}


def test_a_large_list_costs_statements_by_the_thousand_rows(engine):
    count = 12_000
    text = "url\n" + "".join(f"https://x.com/goose{n}\n" for n in range(count))
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda conn, cursor, statement, *rest: statements.append(statement))
    assert bring_in(engine, text).counts == {"imported": count}
    assert len(statements) < 20
