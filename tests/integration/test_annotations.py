"""Notes on days: kept, listed and removed, and shown in the histories that they are about."""

import json
from datetime import timedelta
from typing import Any

import pytest

from db import annotations
from db.annotations import Annotation, BadNote, Subject
from db.engine import Engine, transaction
from tests import fakes
from tests.fakes import NOON
from tests.jobs import listed
from tests.serving import in_process, wait_for

DAY = timedelta(days=1)
TODAY = NOON.date()


def test_notes_are_listed_newest_days_first_with_whom_they_are_about(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a", platform="mastodon", host="social.example")[0]
        wanted = [(Subject(), 9), (Subject(org_name="Org"), 1), (Subject(account_key=key), 5)]
        ids = [
            annotations.add(conn, subject, f"{ago} ", first=TODAY - ago * DAY, last=TODAY, created_by="ann", now=NOON)
            for subject, ago in wanted
        ]
        found = annotations.listed(conn)
    assert [(one.about, one.note) for one in found] == [("Org", "1"), ("mastodon/a@social.example", "5"), (None, "9")]
    assert found[1] == Annotation(
        annotation_id=ids[2],
        account_key=key,
        about="mastodon/a@social.example",
        from_date=TODAY - 5 * DAY,
        to_date=TODAY,
        note="5",
        created_by="ann",
        created_at=NOON,
    )


def test_a_removed_note_says_whom_it_was_about_and_is_gone(engine: Engine) -> None:
    with transaction(engine) as conn:
        about = Subject(org_name="Org")
        note = annotations.add(conn, about, "Words", first=TODAY, last=TODAY, created_by="ann", now=NOON)
        assert annotations.remove(conn, note) == about
        assert annotations.remove(conn, note) is None
        assert annotations.listed(conn) == []


@pytest.mark.parametrize("words", ["", " \n", "x" * 2_001, "a\0b"])
def test_a_note_without_words_or_with_too_many_is_refused(engine: Engine, words: str) -> None:
    with transaction(engine) as conn, pytest.raises(BadNote, match="1 to 2,000"):
        annotations.add(conn, Subject(), words, first=TODAY, last=TODAY, created_by="ann", now=NOON)


def test_days_the_wrong_way_round_are_refused(engine: Engine) -> None:
    with transaction(engine) as conn, pytest.raises(BadNote, match="2026-03-02 is later than 2026-03-01"):
        annotations.add(conn, Subject(), "Words", first=TODAY, last=TODAY - DAY, created_by="ann", now=NOON)


def test_the_command_notes_lists_and_removes(rollcall: Any, listed: None) -> None:
    said = rollcall("annotations", "list", "--json").stdout
    assert json.loads(said) == []
    first = rollcall("annotations", "add", "Campaign", "--from", "2026-03-01", "--to", "2026-03-07", "--all")
    assert (first.exit_code, first.stdout) == (0, "1\n")
    about = rollcall("annotations", "add", "Moved", "--from", "2026-03-09", "--account", "X/Goose", "--by", "ann")
    assert (about.exit_code, about.stdout) == (0, "2\n"), about.output
    table = rollcall("annotations", "list").stdout.splitlines()
    assert table[0] == "2\t2026-03-09\tx/goose\tMoved\tann"
    assert table[1].startswith("1\t2026-03-01 to 2026-03-07\tall\tCampaign\t")
    assert rollcall("annotations", "remove", "1").exit_code == 0
    assert [one["note"] for one in json.loads(rollcall("annotations", "list", "--json").stdout)] == ["Moved"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("add", "Words", "--from", "2026-03-01"), "--account, --org or --all"),
        (("add", "Words", "--from", "2026-03-01", "--all", "--org", "Org"), "--account, --org or --all"),
        (("add", "Words", "--from", "yesterday", "--all"), "--from"),
        (("add", "Words", "--from", "2026-03-02", "--to", "2026-03-01", "--all"), "2026-03-02 is later"),
        (("add", " ", "--from", "2026-03-02", "--all"), "1 to 2,000 characters"),
        (("add", "Words", "--from", "2026-03-02", "--account", "x/nobody"), "x/nobody is not in the account list"),
        (("add", "Words", "--from", "2026-03-02", "--org", "Nobody"), "'Nobody'"),
        (("remove", "9"), "no note 9"),
        (("remove", "9" * 30), "range"),
    ],
)
def test_what_can_t_be_meant_is_named(rollcall: Any, listed: None, arguments: tuple[str, ...], named: str) -> None:
    refused = rollcall("annotations", *arguments)
    assert refused.exit_code == 2
    assert named in refused.stderr


def test_a_history_shows_the_notes_as_soon_as_they_are_made(
    rollcall: Any, listed: None, database_url: str, redis_url: str
) -> None:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        api.wait_until_it_hears_purges()

        def shown() -> list[str]:
            answer = api.get("/api/history/x/goose?from=2026-03-01&to=2026-03-09").json
            return [note["note"] for note in answer["annotations"]]

        expected: list[str] = []
        assert shown() == expected
        for about in (("--all",), ("--org", "Geese"), ("--account", "x/goose")):
            words = f"About {about[-1]}"
            assert rollcall("annotations", "add", words, "--from", "2026-03-05", *about).exit_code == 0
            expected.append(words)
            wait_for(lambda: shown() == expected, words)
        rollcall("annotations", "add", "another's", "--from", "2026-03-05", "--account", "x/gander")
        rollcall("annotations", "remove", "1")
        wait_for(lambda: shown() == expected[1:], "the history without the note")
