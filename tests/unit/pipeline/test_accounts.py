"""Each row of a list is judged by itself: which account it means, what it says of it, or why it is rejected."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import account_file, accounts, platforms
from pipeline.account_file import Row
from pipeline.accounts import Verdict

_ADDRESSES = st.from_regex(
    r"(https?://)?(www\.|m\.)?[a-z]{1,9}\.(com|example)[/?#%@:][\w./?=&%@:#-]{0,30}", fullmatch=True
)


def judged(**values: str):
    return accounts.judge(Row(2, values), platforms.load())


def test_every_row_of_the_first_list_means_an_account_or_says_why_not(project: Path):
    file = account_file.read((project / "deploy" / "accounts" / "hhs.csv").read_bytes())
    found = [accounts.judge(row, platforms.load()) for row in file.rows]
    assert len(found) == 99
    assert file.unknown_columns == ()
    assert Counter(row.named.platform for row in found if not isinstance(row, Verdict)) == {
        "x": 43,
        "facebook": 27,
        "linkedin": 11,
        "youtube": 8,
        "instagram": 7,
        "flickr": 1,
        "truthsocial": 1,
    }
    assert [(v.row, v.verdict, v.reason) for v in found if isinstance(v, Verdict)] == [
        (32, "rejected", "a person's profile: LinkedIn tells the followers of organisations only")
    ]
    assert sum(row.facts["is_core_account"] for row in found if not isinstance(row, Verdict)) == 16


@pytest.mark.parametrize(
    ("row", "name", "external_id"),
    [
        ({"platform": "Facebook Español", "url": "https://www.facebook.com/Ganso/"}, "facebook/Ganso", None),
        ({"platform": "Truth Social", "url": "https://www.truthsocial.com/@goose"}, "truthsocial/goose", None),
        ({"platform": "Truth Social", "handle": "@goose"}, "truthsocial/goose", None),
        ({"platform": "twitter", "handle": "goose"}, "x/goose", None),
        ({"url": "https://mobile.twitter.com/goose?lang=en"}, "x/goose", None),
        (
            {"url": "https://www.facebook.com/profile.php?id=100012345678901"},
            "facebook/100012345678901",
            "100012345678901",
        ),
        ({"url": "https://www.linkedin.com/showcase/12345678/"}, "linkedin/12345678", "12345678"),
        ({"url": "https://www.youtube.com/user/GOOSE"}, "youtube/GOOSE", None),
        ({"url": "https://www.youtube.com/c/Goose"}, "youtube/Goose", None),
        ({"url": "https://www.youtube.com/goose"}, "youtube/goose", None),
        ({"platform": "Mastodon", "handle": "@goose@Pond.example"}, "mastodon/goose@pond.example", None),
        ({"platform": "Bluesky", "handle": "goose.example"}, "bluesky/goose.example", None),
    ],
)
def test_a_row_means_its_account_in_every_way_of_writing_it(row, name, external_id):
    wanted = judged(**row)
    assert (wanted.named.name, wanted.named.external_id) == (name, external_id)


def test_the_url_decides_where_a_row_has_a_handle_too():
    assert judged(platform="x", handle="gander", url="https://x.com/goose").named.name == "x/goose"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "needs a url, or a platform and a handle"),
        ({"org_name": "Geese"}, "needs a url, or a platform and a handle"),
        ({"platform": "x"}, "needs a url, or a platform and a handle"),
        ({"handle": "goose"}, "needs a url, or a platform and a handle"),
        ({"platform": "Facebook", "url": "https://x.com/goose"}, "the URL is one of X: correct one of the two"),
        ({"platform": "Pigeon Post", "handle": "goose"}, "not a platform; known are"),
        ({"platform": "Mastodon", "handle": "goose"}, "write the handle as name@server"),
        ({"platform": "x", "handle": "two words"}, "not a handle that X gives out"),
        ({"url": "https://x.com/home"}, "a page of X itself"),
        ({"url": "https://www.linkedin.com/in/goose/"}, "a person's profile"),
        ({"url": "https://pond.example/about"}, "not the address of an account"),
        ({"url": "https://x.com/goose", "is_core": "maybe"}, "is_core must be yes or no, not 'maybe'"),
        ({"url": "https://x.com/goose", "is_active": "2"}, "is_active must be yes or no, not '2'"),
    ],
)
def test_a_rejected_row_says_how_to_mend_it(row, reason):
    verdict = judged(**row)
    assert (verdict.row, verdict.verdict) == (2, "rejected")
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("said", "meant"),
    [("yes", True), ("TRUE", True), ("1", True), ("x", True), ("No", False), ("false", False), ("0", False)],
)
def test_yes_and_no_are_read_in_every_usual_spelling(said, meant):
    assert judged(url="https://x.com/goose", is_core=said).facts == {"is_core_account": meant}


def test_what_a_row_does_not_say_is_no_fact():
    assert judged(url="https://x.com/goose").facts == {}


@pytest.mark.parametrize("platform", platforms.load().values(), ids=lambda platform: platform.name)
def test_every_platform_s_own_address_of_a_handle_leads_back_to_it(platform):
    handle = "goose.example" if platform.name == "bluesky" else "goose"
    written = f"{handle}@pond.example" if "{host}" in platform.base_url else handle
    assert judged(platform=platform.title, handle=written).named.name == f"{platform.name}/{written}"


@given(st.text() | _ADDRESSES, st.text(), st.text() | st.sampled_from([p.title for p in platforms.load().values()]))
@example("https://x.com/%00", "", "")
@example("https://\u2100.com/goose", "", "")
def test_no_row_whatever_it_holds_stops_an_import(url, handle, platform):
    for values in ({"url": url, "platform": platform}, {"platform": platform, "handle": handle}):
        assert accounts.judge(Row(2, values), platforms.load())


@given(st.binary(), st.sampled_from([b"url,org\n", b'{"url": "a.example/1"}\n', b"[", b""]))
def test_no_file_whatever_it_holds_ends_in_a_traceback(raw, start):
    try:
        file = account_file.read(start + raw)
    except account_file.NotAList:
        return
    assert len({row.number for row in file.rows}) == len(file.rows)
