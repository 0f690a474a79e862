"""TikTok, LinkedIn, Reddit and Flickr as the simulator shows them, and the tokens that apps get and lose."""

import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.simulator.names import numeric_id
from tests.unit.deploy.asker import Asker

USER = "/tiktok/v2/research/user/info/?fields=display_name,follower_count,following_count,likes_count,video_count"
VIDEOS = "/tiktok/v2/research/video/query/?fields=id,create_time,username,view_count,like_count"
VERSION = {"LinkedIn-Version": "202606", "X-Restli-Protocol-Version": "2.0.0", "Authorization": "Bearer any"}
FLICKR = "/flickr/?format=json&nojsoncallback=1&api_key=any&method=flickr."


def tiktok_token(asker: Asker, client: str = "river", status: int = 200) -> Any:
    form = {"client_key": client, "client_secret": "any", "grant_type": "client_credentials"}
    return asker.post("/tiktok/v2/oauth/token/", status, {}, fields=form)


@pytest.fixture
def tiktok(asker: Asker) -> dict[str, str]:
    return {"Authorization": f"Bearer {tiktok_token(asker)['access_token']}"}


def reddit_token(asker: Asker, client: str = "river", grant: str = "client_credentials", status: int = 200) -> Any:
    basic = {"Authorization": f"Basic {b64encode(f'{client}:any'.encode()).decode()}"}
    return asker.post("/reddit/api/v1/access_token", status, basic, fields={"grant_type": grant})


@pytest.fixture
def reddit(asker: Asker) -> dict[str, str]:
    return {"Authorization": f"Bearer {reddit_token(asker)['access_token']}"}


# --- TikTok


def test_tiktok_shows_a_user_in_an_envelope(asker: Asker, tiktok: dict[str, str]) -> None:
    body = asker.post(USER, headers=tiktok, json={"username": "Blue.Office"})
    assert body["error"]["code"] == "ok"
    assert body["data"].keys() == {"display_name", "follower_count", "following_count", "likes_count", "video_count"}
    assert body["data"] == asker.post(USER, headers=tiktok, json={"username": "blue.office"})["data"]


@pytest.mark.parametrize(
    ("name", "status", "code"), [("we_missing", 400, "invalid_params"), ("we_suspended", 404, "not_found")]
)
def test_tiktok_finds_no_user_in_either_of_two_ways(
    asker: Asker, tiktok: dict[str, str], name: str, status: int, code: str
) -> None:
    body = asker.post(USER, status, tiktok, json={"username": name})
    assert (body["error"]["code"], body["data"]) == (code, {})


def _query(name: str, begin: datetime, end: datetime, **more: object) -> dict[str, object]:
    by_name = {"operation": "EQ", "field_name": "username", "field_values": [name]}
    days = {"start_date": f"{begin:%Y%m%d}", "end_date": f"{end:%Y%m%d}"}
    return {"query": {"and": [by_name]}, **days, **more}


def test_tiktok_shows_the_videos_of_at_most_30_days_page_by_page(asker: Asker, tiktok: dict[str, str]) -> None:
    end = datetime.now(UTC)
    begin = end - timedelta(days=30)
    name = _busy_user(asker, tiktok)
    videos: list[dict[str, Any]] = []
    cursor: dict[str, int | str] = {}
    while True:
        data = asker.post(VIDEOS, headers=tiktok, json=_query(name, begin, end, max_count=5, **cursor))["data"]
        videos += data["videos"]
        if not data["has_more"]:
            break
        cursor = {"cursor": data["cursor"], "search_id": data["search_id"]}
    every = asker.post(VIDEOS, headers=tiktok, json=_query(name, begin, end, max_count=100))["data"]["videos"]
    assert [video["id"] for video in videos[:100]] == [video["id"] for video in every]
    assert len({video["id"] for video in videos}) == len(videos) > 5
    assert all(video["id"] > 2**53 for video in videos)
    assert all(video["create_time"] >= begin.replace(hour=0, minute=0).timestamp() - 60 for video in videos)
    assert not asker.post(VIDEOS, headers=tiktok, json=_query("new_zero", begin, end))["data"]["videos"]
    too_long = _query(name, begin - timedelta(days=1), end)
    assert asker.post(VIDEOS, 400, tiktok, json=too_long)["error"]["code"] == "invalid_params"


def _busy_user(asker: Asker, tiktok: dict[str, str]) -> str:
    def count(name: str) -> int:
        return int(asker.post(USER, headers=tiktok, json={"username": name})["data"]["video_count"])

    return max((f"office{number}" for number in range(20)), key=count)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"username":1}',
        b'{"query":{"and":[]},"start_date":"20260101","end_date":"20260102"}',
        b'{"query":{"and":[]},"start_date":"x","end_date":"y"}',
    ],
)
@pytest.mark.parametrize("path", [USER, VIDEOS])
def test_tiktok_refuses_bodies_that_it_cannot_read(
    asker: Asker, tiktok: dict[str, str], path: str, body: bytes
) -> None:
    assert asker.post(path, 400, tiktok, body=body)["error"]["code"] == "invalid_params"


def test_tiktok_refuses_fields_that_it_does_not_know(asker: Asker, tiktok: dict[str, str]) -> None:
    for path in (USER.partition("?")[0], f"{USER},followers"):
        assert asker.post(path, 400, tiktok, json={"username": "office"})["error"]["code"] == "invalid_params"


def test_tiktok_gives_1000_calls_a_day_until_midnight_utc(asker: Asker, tiktok: dict[str, str]) -> None:
    asker.post(USER, headers=tiktok, json={"username": "office"})
    [window] = asker.get("/_simulator/state")["limits"]["tiktok"].values()
    assert (window["limit"], window["remaining"], window["resets_at"][11:]) == (1000, 999, "00:00:00.000Z")
    asker.order("limits", platform="tiktok", limit=1, window_s=600)
    asker.post(USER, headers=tiktok, json={"username": "office"})
    body = asker.post(USER, 429, tiktok, json={"username": "office"})
    assert body["error"]["code"] == "daily_quota_limit_exceeded"


def test_tiktok_gives_tokens_to_clients_and_says_what_is_wrong(asker: Asker) -> None:
    token = tiktok_token(asker)
    assert token["access_token"].startswith("clt.")
    assert (token["expires_in"], token["token_type"]) == (7200, "Bearer")
    assert tiktok_token(asker, "expired", status=401)["error"] == "invalid_client"
    unapproved = {"Authorization": f"Bearer {tiktok_token(asker, 'unapproved')['access_token']}"}
    body = asker.post(USER, 401, unapproved, json={"username": "office"})
    assert body["error"]["code"] == "scope_not_authorized"
    for headers in ({}, {"Authorization": "Bearer clt.made.up.elsewhere"}):
        body = asker.post(USER, 401, headers, json={"username": "office"})
        assert body["error"]["code"] == "access_token_invalid"


# --- Tokens


def test_a_token_ends_when_it_is_told_to_and_the_next_one_works(asker: Asker) -> None:
    def status(token: Any) -> int:
        return asker.ask("/reddit/user/office/about", {"Authorization": f"Bearer {token['access_token']}"}).status

    first = reddit_token(asker)
    assert status(first) == 200
    asker.order("tokens", platform="reddit")
    assert (status(first), status(reddit_token(asker))) == (401, 200)


def test_a_token_lasts_as_long_as_it_says(asker: Asker) -> None:
    asker.order("tokens", platform="reddit", lasts_s=1)
    token = reddit_token(asker)
    ends = time.monotonic() + 1
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert token["expires_in"] == 1
    assert asker.ask("/reddit/user/office/about", headers).status == 200
    while asker.ask("/reddit/user/office/about", headers).status == 200:
        assert time.monotonic() < ends + 5, "it didn't end in time"
        time.sleep(0.01)
    assert time.monotonic() >= ends - 0.5


def test_a_token_of_one_platform_is_none_of_another(asker: Asker, reddit: dict[str, str]) -> None:
    token = reddit["Authorization"].removeprefix("Bearer ")
    asker.post(USER, 401, {"Authorization": f"Bearer clt.{token}"}, json={"username": "office"})


# --- LinkedIn


def _followers(external_id: object) -> str:
    urn = f"urn%3Ali%3Aorganization%3A{external_id}"
    return f"/linkedin/networkSizes/{urn}?edgeType=COMPANY_FOLLOWED_BY_MEMBER"


def _organizations(name: str) -> str:
    return f"/linkedin/organizations?q=vanityName&vanityName={name}"


def test_linkedin_finds_an_organisation_by_name_and_counts_its_followers_by_id(asker: Asker) -> None:
    long_name = "an-office-with-a-name-of-more-than-sixty-letters-as-there-are-some"
    [found] = asker.get(_organizations(long_name.upper()), headers=VERSION)["elements"]
    assert found["vanityName"] == long_name
    assert isinstance(found["id"], int)
    followers = asker.get(_followers(found["id"]), headers=VERSION)
    assert followers.keys() == {"firstDegreeSize"}
    assert followers["firstDegreeSize"] > 0
    results = asker.get(f"/linkedin/organizationsLookup?ids=List({found['id']},1)", headers=VERSION)["results"]
    assert results[str(found["id"])] == found
    assert "vanityName" not in results["1"]


def test_linkedin_counts_zero_for_an_organisation_that_nobody_follows(asker: Asker) -> None:
    assert asker.get(_followers(numeric_id("new-zero")), headers=VERSION) == {"firstDegreeSize": 0}


def test_linkedin_names_a_renamed_organisation_by_its_new_name_when_asked_by_id(asker: Asker) -> None:
    external_id = numeric_id("we-renamed")
    body = asker.get(f"/linkedin/organizationsLookup?ids=List({external_id})", headers=VERSION)
    assert body["results"][external_id]["vanityName"] == "we-moved"


def test_linkedin_has_no_organisation_that_is_gone(asker: Asker) -> None:
    assert asker.get(_organizations("we-missing"), headers=VERSION)["elements"] == []
    gone = numeric_id("we-suspended")
    assert asker.get(_followers(gone), 404, VERSION)["status"] == 404
    body = asker.get(f"/linkedin/organizationsLookup?ids=List({gone})", headers=VERSION)
    assert (body["results"], list(body["errors"])) == ({}, [gone])


def test_linkedin_does_not_tell_everybody_the_followers_of_everyone(asker: Asker) -> None:
    assert asker.get(_followers(numeric_id("we-private")), 403, VERSION)["code"] == "ACCESS_DENIED"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": "Bearer any"}, 400, "VERSION_MISSING"),
        (VERSION | {"LinkedIn-Version": "202301"}, 426, "NONEXISTENT_VERSION"),
        ({"LinkedIn-Version": "202606"}, 401, "INVALID_ACCESS_TOKEN"),
        (VERSION | {"Authorization": "Bearer expired"}, 401, "INVALID_ACCESS_TOKEN"),
        (VERSION | {"Authorization": "Bearer unapproved"}, 403, "ACCESS_DENIED"),
    ],
)
def test_linkedin_wants_a_token_and_a_version_that_is_in_use(
    asker: Asker, headers: dict[str, str], status: int, code: str
) -> None:
    body = asker.get(_organizations("office"), status, headers)
    assert (body["status"], body["code"]) == (status, code)


def test_linkedin_counts_by_the_day_of_utc(asker: Asker) -> None:
    answer = asker.ask(_organizations("office"), VERSION)
    assert not [name for name in answer.headers if "rate" in name.lower()]
    [window] = asker.get("/_simulator/state")["limits"]["linkedin"].values()
    assert window["resets_at"][11:] == "00:00:00.000Z"
    asker.order("limits", platform="linkedin", limit=1, window_s=600)
    asker.get(_organizations("office"), headers=VERSION)
    assert asker.get(_organizations("office"), 429, VERSION)["status"] == 429


# --- Reddit


def test_reddit_gives_a_token_for_a_name_and_a_password(asker: Asker) -> None:
    token = reddit_token(asker)
    assert (token["token_type"], token["expires_in"]) == ("bearer", 86_400)
    assert reddit_token(asker, "expired", status=401)["error"] == 401
    assert reddit_token(asker, grant="password") == {"error": "unsupported_grant_type"}
    form = {"grant_type": "client_credentials"}
    for headers in ({}, {"Authorization": "Basic ~~~"}, {"Authorization": "Bearer any"}):
        asker.post("/reddit/api/v1/access_token", 401, headers, fields=form)


def test_reddit_wants_a_token_that_it_gave(asker: Asker) -> None:
    answer = asker.ask("/reddit/user/office/about", {"Authorization": "Bearer any"})
    assert (answer.status, answer.json()) == (401, {"message": "Unauthorized", "error": 401})
    assert "invalid_token" in answer.headers["WWW-Authenticate"]
    unapproved = {"Authorization": f"Bearer {reddit_token(asker, 'unapproved')['access_token']}"}
    asker.get("/reddit/user/office/about", 403, unapproved)


def test_reddit_counts_followers_of_users_but_not_of_all(asker: Asker, reddit: dict[str, str]) -> None:
    users = [asker.get(f"/reddit/user/Office{number}/about", headers=reddit) for number in range(60)]
    assert {user["kind"] for user in users} == {"t2"}
    assert users[0]["data"]["name"] == "office0"
    assert isinstance(users[0]["data"]["created_utc"], float)
    assert 0 < sum("subscribers" not in user["data"]["subreddit"] for user in users) < 20


def test_reddit_shows_a_suspended_user_without_any_counts(asker: Asker, reddit: dict[str, str]) -> None:
    user = asker.get("/reddit/user/we_suspended/about", headers=reddit)["data"]
    assert user["is_suspended"] is True
    assert "subreddit" not in user
    posts = asker.get("/reddit/user/we_suspended/submitted", headers=reddit)
    assert posts["data"]["children"] == []
    asker.get("/reddit/user/we_missing/about", 404, reddit)


def test_reddit_says_why_a_community_is_closed(asker: Asker, reddit: dict[str, str]) -> None:
    community = asker.get("/reddit/r/Office/about", headers=reddit)
    assert (community["kind"], community["data"]["display_name"]) == ("t5", "office")
    assert asker.get("/reddit/r/we_private/about", 403, reddit)["reason"] == "private"
    assert asker.get("/reddit/r/we_suspended/new", 404, reddit)["reason"] == "banned"


def test_reddit_goes_on_to_search_for_a_community_that_there_is_not(asker: Asker, reddit: dict[str, str]) -> None:
    answer = asker.pool.request("GET", f"{asker.url}/reddit/r/we_missing/about", headers=reddit, redirect=False)
    assert answer.status == 302
    assert answer.headers["Location"] == f"{asker.url}/reddit/subreddits/search?q=we_missing"
    assert asker.get("/reddit/subreddits/search?q=we_missing", headers=reddit)["kind"] == "Listing"


def test_reddit_shows_many_communities_at_once_without_the_closed_ones(asker: Asker, reddit: dict[str, str]) -> None:
    body = asker.get("/reddit/api/info?sr_name=office,we_missing,Press,we_private", headers=reddit)
    names = [child["data"]["display_name"] for child in body["data"]["children"]]
    assert names == ["office", "press"]
    assert asker.get("/_simulator/state")["batches"]["reddit"]["info"]["largest"] == 4


@pytest.mark.parametrize("listing", ["/reddit/user/{}/submitted", "/reddit/r/{}/new"])
def test_reddit_pages_posts_down_to_the_thousandth(asker: Asker, reddit: dict[str, str], listing: str) -> None:
    counts = {_reddit_posts(asker, reddit, listing.format(f"office{number}")) for number in range(12)}
    assert max(counts) == 1000
    assert min(counts) < 1000


def _reddit_posts(asker: Asker, reddit: dict[str, str], path: str) -> int:
    ids: list[str] = []
    after: str | None = ""
    while after is not None:
        data = asker.get(f"{path}?limit=100&after={after}", headers=reddit)["data"]
        ids += [child["data"]["name"] for child in data["children"]]
        after = data["after"]
    assert len(set(ids)) == len(ids)
    return len(ids)


def test_reddit_says_how_many_seconds_the_window_still_has(asker: Asker, reddit: dict[str, str]) -> None:
    headers = asker.ask("/reddit/user/office/about", reddit).headers
    assert (headers["x-ratelimit-used"], headers["x-ratelimit-remaining"]) == ("1", "999.0")
    window_end = time.time() + int(headers["x-ratelimit-reset"])
    assert abs(window_end - 600 * round(window_end / 600)) < 2


def test_reddit_answers_too_many_requests_with_a_page_and_seconds_alone(asker: Asker, reddit: dict[str, str]) -> None:
    asker.order("limits", platform="reddit", limit=1, window_s=30)
    asker.ask("/reddit/user/office/about", reddit)
    refused = asker.ask("/reddit/user/office/about", reddit)
    assert (refused.status, refused.headers["Content-Type"]) == (429, "text/html; charset=utf-8")
    assert 28 <= int(refused.headers["Retry-After"]) <= 30
    assert "x-ratelimit-reset" not in refused.headers


# --- Flickr


def _nsid(asker: Asker, name: str) -> str:
    url = f"https://www.flickr.com/photos/{name}/"
    return str(asker.get(f"{FLICKR}urls.lookupUser&url={url}")["user"]["id"])


def test_flickr_finds_a_person_by_an_address_and_then_by_id(asker: Asker) -> None:
    nsid = _nsid(asker, "Blue-Office")
    person = asker.get(f"{FLICKR}people.getInfo&user_id={nsid}")["person"]
    assert (person["nsid"], person["path_alias"]) == (nsid, "blue-office")
    assert person["photos"]["count"]["_content"].isdigit()
    assert _nsid(asker, nsid) == nsid


def test_flickr_counts_whom_a_person_follows(asker: Asker) -> None:
    nsid = _nsid(asker, "office")
    contacts = asker.get(f"{FLICKR}contacts.getPublicList&user_id={nsid}&per_page=1")["contacts"]
    assert contacts["total"] > 1
    assert (len(contacts["contact"]), contacts["pages"]) == (1, contacts["total"])


def test_flickr_pages_photos_by_number_with_the_extras_that_were_asked_for(asker: Asker) -> None:
    nsid = _nsid(asker, "office")
    path = f"{FLICKR}people.getPublicPhotos&user_id={nsid}&per_page=100&extras=date_upload,views,count_faves"
    photos: list[dict[str, Any]] = []
    page, pages = 0, 1
    while page < pages:
        page += 1
        body = asker.get(f"{path}&page={page}")["photos"]
        photos += body["photo"]
        pages = body["pages"]
    assert pages > 1
    assert len({photo["id"] for photo in photos}) == len(photos) == body["total"]
    uploaded = [int(photo["dateupload"]) for photo in photos]
    assert uploaded == sorted(uploaded, reverse=True)
    assert {"views", "dateupload"} <= photos[0].keys()
    assert "media" not in photos[0]
    assert asker.get(f"{path}&page={pages + 1}")["photos"]["photo"] == []


def test_flickr_leaves_out_the_undocumented_extras_for_a_few(asker: Asker) -> None:
    def has_faves(name: str) -> bool:
        path = f"{FLICKR}people.getPublicPhotos&user_id={numeric_id(name)}@N00&per_page=1&extras=count_faves"
        return "count_faves" in asker.get(path)["photos"]["photo"][0]

    assert {has_faves(f"office{number}") for number in range(60)} == {True, False}


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("urls.lookupUser&url=https://www.flickr.com/photos/we_missing/", 1),
        ("urls.lookupUser&url=nonsense", 1),
        (f"people.getInfo&user_id={numeric_id('we_missing')}@N00", 1),
        (f"people.getInfo&user_id={numeric_id('we_suspended')}@N00", 5),
        (f"people.getPublicPhotos&user_id={numeric_id('we_suspended')}@N00", 5),
        ("contacts.getPublicList&user_id=nobody", 1),
        ("people.nothing", 112),
    ],
)
def test_flickr_fails_with_status_200_and_a_number(asker: Asker, call: str, code: int) -> None:
    body = asker.get(FLICKR + call)
    assert (body["stat"], body["code"]) == ("fail", code)


def test_flickr_names_a_renamed_person_by_the_new_alias_when_asked_by_id(asker: Asker) -> None:
    person = asker.get(f"{FLICKR}people.getInfo&user_id={_nsid(asker, 'we_renamed')}")["person"]
    assert person["path_alias"] == "we_moved"


def test_flickr_wants_a_key_and_a_plain_word_for_json(asker: Asker) -> None:
    call = f"method=flickr.people.getInfo&user_id={numeric_id('office')}@N00"
    for key in ("", "&api_key=expired"):
        assert asker.get(f"/flickr?{call}{key}")["code"] == 100
    assert asker.ask(f"/flickr?{call}&api_key=any&format=json").data.startswith(b"jsonFlickrApi(")


def test_flickr_gives_3600_calls_an_hour_and_says_nothing_of_it(asker: Asker) -> None:
    path = f"{FLICKR}people.getInfo&user_id={numeric_id('office')}@N00"
    assert not [name for name in asker.ask(path).headers if "rate" in name.lower()]
    [window] = asker.get("/_simulator/state")["limits"]["flickr"].values()
    assert (window["limit"], window["remaining"]) == (3600, 3599)
    asker.order("limits", platform="flickr", limit=1, window_s=600)
    assert [asker.ask(path).status for _ in range(2)] == [200, 429]
