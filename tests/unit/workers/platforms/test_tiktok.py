"""Which of TikTok's two APIs is asked for what. Its answers stand among the recorded ones."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.platforms import Token
from pipeline.records import Account, Missing, Posts, Profile
from tests.unit.workers.platforms.notebook import Notebook
from workers.platforms.tiktok import TikTok

TIKTOK = TikTok()
RIVERS = Account(1, "tiktok", "Rivers", "https://www.tiktok.com/@Rivers")
RESEARCH = {"TIKTOK_CLIENT_KEY": "key", "TIKTOK_CLIENT_SECRET": "secret"}
DISPLAY = {"TIKTOK_ACCESS_TOKEN": "own"}
OWNER = {"data": {"user": {"open_id": "o", "username": "rivers", "follower_count": 12}}}
NO_VIDEOS = {"data": {"videos": [], "cursor": 0, "has_more": False}}


def month_of(body: Any) -> tuple[datetime, datetime]:
    first, last = (datetime.strptime(body[f"{end}_date"], "%Y%m%d").replace(tzinfo=UTC) for end in ("start", "end"))
    return first, last


def test_a_token_is_asked_for_with_key_and_secret() -> None:
    http = Notebook({"access_token": "clt.river", "expires_in": 7200}, **RESEARCH)
    assert TIKTOK.fetch_token(http.post, http) == Token("clt.river", 7200)
    (asked,) = http.asked
    assert asked.path == "/v2/oauth/token/"
    assert asked.form == {"client_key": "key", "client_secret": "secret", "grant_type": "client_credentials"}


@pytest.mark.parametrize(
    ("credentials", "sent"),
    [(RESEARCH, "Bearer token"), (DISPLAY, "Bearer own"), (RESEARCH | DISPLAY, "Bearer token")],
)
def test_the_research_api_is_preferred_as_it_reads_every_account(credentials: dict[str, str], sent: str) -> None:
    assert TIKTOK.headers(Notebook(**credentials)) == {"Authorization": sent}


def test_the_research_api_is_asked_by_name() -> None:
    http = Notebook({}, **RESEARCH)
    TIKTOK.fetch_profiles([RIVERS], http)
    (asked,) = http.asked
    assert (asked.method, asked.path, asked.json) == ("POST", "/v2/research/user/info/", {"username": "Rivers"})


def test_a_first_search_covers_the_thirty_days_until_today() -> None:
    http = Notebook({}, **RESEARCH)
    before = datetime.now(UTC).date()
    TIKTOK.fetch_posts(RIVERS, http, None)
    (asked,) = http.asked
    first, last = month_of(asked.json)
    assert before <= last.date() <= datetime.now(UTC).date()
    assert last - first == timedelta(days=30)
    assert asked.json["query"] == {"and": [{"operation": "EQ", "field_name": "username", "field_values": ["Rivers"]}]}
    assert asked.json["max_count"] == 100
    assert not asked.json.keys() & {"cursor", "search_id"}


def test_a_search_goes_on_in_its_month_by_its_id() -> None:
    http = Notebook({}, **RESEARCH)
    TIKTOK.fetch_posts(RIVERS, http, "20260301 100 7201388525814961198")
    asked = http.asked[0].json
    assert (asked["start_date"], asked["end_date"]) == ("20260130", "20260301")
    assert (asked["cursor"], asked["search_id"]) == (100, "7201388525814961198")


def test_months_follow_each_other_without_gap_or_overlap() -> None:
    http = Notebook(NO_VIDEOS, NO_VIDEOS, **RESEARCH)
    found = TIKTOK.parse_posts(TIKTOK.fetch_posts(RIVERS, http, "20260301"), RIVERS)
    assert isinstance(found, Posts)
    TIKTOK.fetch_posts(RIVERS, http, found.cursor)
    (first, _), (_, earlier) = (month_of(asked.json) for asked in http.asked)
    assert first - earlier == timedelta(days=1)


def test_the_owner_of_a_token_is_read_by_the_display_api() -> None:
    http = Notebook(OWNER, **DISPLAY)
    (found,) = TIKTOK.parse_profiles(TIKTOK.fetch_profiles([RIVERS], http), [RIVERS])
    assert found == Profile(account_key=1, external_id="rivers", handle="Rivers", followers=12)
    (asked,) = http.asked
    assert (asked.method, asked.path) == ("GET", "/v2/user/info/")
    assert {"username", "follower_count", "video_count"} <= set(asked.params["fields"].split(","))


def test_the_owner_s_videos_are_read_page_by_page() -> None:
    listed = {
        "data": {"videos": [{"id": "7", "create_time": 1772400000, "title": "Flow"}], "cursor": 17, "has_more": True}
    }
    http = Notebook(OWNER, listed, **DISPLAY)
    found = TIKTOK.parse_posts(TIKTOK.fetch_posts(RIVERS, http, "1772500000000"), RIVERS)
    assert isinstance(found, Posts)
    assert [post.text for post in found.posts] == ["Flow"]
    assert found.cursor == "17"
    assert (http.asked[1].path, http.asked[1].json) == ("/v2/video/list/", {"max_count": 20, "cursor": 1772500000000})


def test_the_owner_s_last_page_has_no_cursor() -> None:
    http = Notebook(OWNER, NO_VIDEOS, **DISPLAY)
    assert TIKTOK.parse_posts(TIKTOK.fetch_posts(RIVERS, http, None), RIVERS) == Posts(account_key=1, posts=())
    assert http.asked[1].json == {"max_count": 20}


@pytest.mark.parametrize("kind", ["profiles", "posts"])
def test_nobody_gets_the_numbers_of_the_token_s_owner(kind: str) -> None:
    other = Account(1, "tiktok", "lakes", "https://www.tiktok.com/@lakes")
    http = Notebook(OWNER, NO_VIDEOS, **DISPLAY)
    if kind == "posts":
        found: Any = TIKTOK.parse_posts(TIKTOK.fetch_posts(other, http, None), other)
    else:
        (found,) = TIKTOK.parse_profiles(TIKTOK.fetch_profiles([other], http), [other])
    reason = "not the account that gave TIKTOK_ACCESS_TOKEN: the Display API reads that one only"
    assert found == Missing(account_key=1, result="blocked", reason=reason)
