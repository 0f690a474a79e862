"""Facebook, Instagram and Threads as the simulator shows them: fields within fields, batches, errors of the Graph."""

import json
from typing import Any

import pytest

from deploy.simulator.names import numeric_id
from tests.unit.deploy.asker import Asker

COUNTS = "fields=id,name,username,fan_count,followers_count,picture{url},verification_status"
POST_FIELDS = (
    "id,message,created_time,permalink_url,status_type,attachments{type},shares,"
    "reactions.summary(total_count).limit(0),comments.summary(total_count).limit(0)"
)


def discovery(name: str, fields: str) -> str:
    return f"/instagram/17841?fields=business_discovery.username({name}){{{fields}}}"


# --- Facebook


def test_facebook_finds_the_same_page_by_name_by_id_and_in_a_batch(asker: Asker) -> None:
    page = asker.get(f"/facebook/Medicare.Office?{COUNTS}")
    assert page["username"] == "medicare.office"
    assert page["followers_count"] > page["fan_count"] > 0
    assert page["picture"]["data"]["url"].startswith("https://")
    assert asker.get(f"/facebook/{page['id']}?{COUNTS}") == page
    batch = asker.get(f"/facebook/?ids=Medicare.Office,{page['id']}&{COUNTS}")
    assert batch == {"Medicare.Office": page, page["id"]: page}


def test_facebook_shows_only_the_fields_that_were_asked_for_and_the_id(asker: Asker) -> None:
    assert asker.get("/facebook/office").keys() == {"id", "name"}
    assert asker.get("/facebook/office?fields=followers_count").keys() == {"id", "followers_count"}
    refused = asker.get("/facebook/office?fields=followers", status=400)["error"]
    assert (refused["code"], "(followers)" in refused["message"]) == (100, True)


def test_facebook_shows_a_page_by_an_id_that_has_no_name(asker: Asker) -> None:
    page = asker.get(f"/facebook/100066204115008?{COUNTS}")
    assert page["id"] == "100066204115008"
    assert "username" not in page


def test_facebook_fails_a_whole_batch_for_one_bad_name_and_says_which(asker: Asker) -> None:
    error = asker.get("/facebook/?ids=office,a.missing,b.suspended&fields=id", status=404)["error"]
    assert (error["code"], error["type"]) == (803, "OAuthException")
    assert error["message"].endswith(": a.missing,b.suspended")


def test_facebook_fails_a_whole_batch_for_one_bad_id(asker: Asker) -> None:
    bad = numeric_id("a.missing")
    error = asker.get(f"/facebook?ids={numeric_id('office')},{bad}&fields=id", status=400)["error"]
    assert (error["code"], error["error_subcode"]) == (100, 33)
    assert f"'{bad}'" in error["message"]


@pytest.mark.parametrize("name", ["we.missing", "we.suspended", "we.private"])
def test_facebook_does_not_tell_apart_what_is_gone_and_what_is_closed(asker: Asker, name: str) -> None:
    for path in (f"/facebook/{name}", f"/facebook/{name}/posts"):
        error = asker.get(path, status=400)["error"]
        assert (error["code"], error["error_subcode"]) == (100, 33)


def test_facebook_takes_50_ids_and_not_51(asker: Asker) -> None:
    names = [f"office{number}" for number in range(51)]
    assert len(asker.get(f"/facebook/?ids={','.join(names[:50])}")) == 50
    assert asker.get(f"/facebook/?ids={','.join(names)}", status=400)["error"]["code"] == 100
    asker.get("/facebook/", status=400)


def test_facebook_names_a_renamed_page_by_its_new_name_when_asked_by_id(asker: Asker) -> None:
    old = asker.get("/facebook/we.renamed?fields=username")
    assert old["username"] == "we.renamed"
    assert asker.get(f"/facebook/{old['id']}?fields=username")["username"] == "we.moved"


def test_facebook_leads_from_page_to_page_of_posts_by_an_address(asker: Asker) -> None:
    url: str | None = f"{asker.url}/facebook/office1/posts?limit=100&fields={POST_FIELDS}"
    posts: list[dict[str, Any]] = []
    while url:
        answer = asker.pool.request("GET", url, headers={"Authorization": "Bearer any"})
        posts += answer.json()["data"]
        url = answer.json().get("paging", {}).get("next")
    page_id = numeric_id("office1")
    assert len(posts) > 100
    assert len({post["id"] for post in posts}) == len(posts)
    assert all(post["id"].startswith(f"{page_id}_") for post in posts)
    assert [post["created_time"] for post in posts] == sorted((post["created_time"] for post in posts), reverse=True)
    assert posts[0]["created_time"].endswith("+0000")
    assert all("total_count" in post["reactions"]["summary"] for post in posts)
    assert {"message" in post for post in posts} == {True, False}


def test_facebook_hands_the_token_on_in_the_address_of_the_next_page(asker: Asker) -> None:
    body = asker.get("/facebook/office/posts?limit=1&access_token=river", headers={})
    assert "access_token=river" in body["paging"]["next"]


def test_facebook_says_in_percent_how_much_is_used_but_not_at_first(asker: Asker) -> None:
    path = "/facebook/office"
    assert "X-App-Usage" not in asker.ask(path).headers
    asker.order("limits", platform="facebook", limit=4, window_s=600)
    used = [json.loads(asker.ask(path).headers["X-App-Usage"])["call_count"] for _ in range(4)]
    assert used == [25, 50, 75, 100]
    error = asker.get(path, status=403)["error"]
    assert (error["code"], error["is_transient"]) == (4, True)
    assert asker.get("/_simulator/state")["violations"]["facebook"] == 1


# --- Instagram


def test_instagram_answers_for_the_account_that_is_asked_about_within_ones_own(asker: Asker) -> None:
    body = asker.get(discovery("Blue.Office", "username,followers_count,follows_count,media_count"))
    assert body["id"] == "17841"
    found = body["business_discovery"]
    assert found.keys() == {"id", "username", "followers_count", "follows_count", "media_count"}
    assert found["username"] == "blue.office"


def test_instagram_shows_one_whole_list_of_media_through_the_cursor_in_the_field(asker: Asker) -> None:
    fields = "id,timestamp,like_count,view_count,media_type"
    media: list[dict[str, Any]] = []
    after = ""
    while True:
        asked = f"media_count,media{after}.limit(50){{{fields}}}"
        found = asker.get(discovery("office", asked))["business_discovery"]
        media += found["media"]["data"]
        cursors = found["media"]["paging"]["cursors"]
        if "after" not in cursors:
            break
        after = f".after({cursors['after']})"
    assert len({medium["id"] for medium in media}) == len(media) == found["media_count"]
    assert {"like_count" in medium for medium in media} == {True, False}
    assert {medium["media_type"] for medium in media if "view_count" in medium} == {"VIDEO"}
    assert {medium["media_type"] for medium in media} == {"IMAGE", "VIDEO", "CAROUSEL_ALBUM"}


def test_instagram_shows_no_likes_of_an_account_that_hides_them(asker: Asker) -> None:
    found = asker.get(discovery("we_hidden", "media.limit(20){like_count,comments_count}"))["business_discovery"]
    assert len(found["media"]["data"]) == 20
    assert {medium.keys() == {"id", "comments_count"} for medium in found["media"]["data"]} == {True}


def test_instagram_has_an_empty_list_of_media_for_an_account_without_any(asker: Asker) -> None:
    found = asker.get(discovery("new_zero", "followers_count,media{id}"))["business_discovery"]
    assert (found["followers_count"], found["media"]) == (0, {"data": []})


@pytest.mark.parametrize("name", ["we_missing", "we_suspended", "we_private", "we_renamed", "not-a-name"])
def test_instagram_tells_no_reason_why_it_finds_nobody(asker: Asker, name: str) -> None:
    error = asker.get(discovery(name, "id"), status=400)["error"]
    assert (error["code"], error["error_subcode"]) == (110, 2207013)


@pytest.mark.parametrize(
    "fields",
    [
        "business_discovery{id}",
        "business_discovery.username(office){followers}",
        "business_discovery.username(office){media.limit(0){id}}",
        "business_discovery.username(office){media.after(nonsense){id}}",
        "business_discovery.username(office){id",
        "business_discovery.username(office",
        "a{" * 500,
        ",",
    ],
)
def test_instagram_refuses_fields_that_it_cannot_read(asker: Asker, fields: str) -> None:
    assert asker.get(f"/instagram/17841?fields={fields}", status=400)["error"]["code"] in (100, 2500)


def test_instagram_says_in_minutes_when_calls_are_answered_again(asker: Asker) -> None:
    path = discovery("office", "id")
    asker.order("limits", platform="instagram", limit=2, window_s=600)

    def usage() -> tuple[int, int]:
        [[found]] = json.loads(asker.ask(path).headers["X-Business-Use-Case-Usage"]).values()
        return found["call_count"], found["estimated_time_to_regain_access"]

    assert [usage() for _ in range(3)] == [(50, 0), (100, 0), (100, 10)]
    assert asker.get(path, status=400)["error"]["code"] == 80002


# --- Threads


def test_threads_looks_a_profile_up_by_its_name_and_tells_no_id(asker: Asker) -> None:
    fields = "username,name,is_verified,follower_count,likes_count,views_count"
    profile = asker.get(f"/threads/profile_lookup?username=Blue.Office&fields={fields}")
    assert profile.keys() == set(fields.split(","))
    assert profile["username"] == "blue.office"
    assert profile["follower_count"] > 0


@pytest.mark.parametrize("endpoint", ["profile_lookup", "profile_posts"])
@pytest.mark.parametrize("name", ["we_missing", "we_suspended", "we_private", "we_renamed", "no-name"])
def test_threads_tells_no_reason_why_it_finds_nobody(asker: Asker, endpoint: str, name: str) -> None:
    error = asker.get(f"/threads/{endpoint}?username={name}&fields=username", status=400)["error"]
    assert (error["type"], error["code"], error["error_subcode"]) == ("THApiException", 100, 33)


def test_threads_pages_posts_without_telling_what_they_gathered(asker: Asker) -> None:
    path = (
        "/threads/profile_posts?username=office&limit=40&fields=id,text,timestamp,permalink,media_type,is_quote_post"
    )
    posts: list[dict[str, Any]] = []
    after = ""
    while True:
        body = asker.get(path + after)
        posts += body["data"]
        if "after" not in body["paging"]["cursors"]:
            break
        after = f"&after={body['paging']['cursors']['after']}"
    assert len({post["id"] for post in posts}) == len(posts) > 40
    assert {post["media_type"] for post in posts} == {"TEXT_POST", "IMAGE", "REPOST_FACADE"}
    assert {post["is_quote_post"] for post in posts} == {True, False}
    assert asker.get(f"{path},like_count", status=400)["error"]["code"] == 100
    assert asker.get("/threads/profile_posts?username=new_zero&fields=id") == {"data": []}


def test_threads_gives_1000_lookups_a_day_and_more_calls_for_posts(asker: Asker) -> None:
    asker.get("/threads/profile_lookup?username=office")
    asker.get("/threads/profile_posts?username=office")
    limits = asker.get("/_simulator/state")["limits"]["threads"]
    assert sorted(window["limit"] for window in limits.values()) == [1000, 48_000]
    asker.order("limits", platform="threads", limit=1, window_s=600)
    asker.get("/threads/profile_lookup?username=office")
    assert asker.get("/threads/profile_lookup?username=office", status=400)["error"]["code"] == 4


# --- Their tokens


@pytest.mark.parametrize(
    "path", ["/facebook/office", "/instagram/17841?fields=id", "/threads/profile_lookup?username=office"]
)
def test_meta_refuses_tokens_that_are_missing_expired_or_not_approved(asker: Asker, path: str) -> None:
    def code(token: str | None) -> tuple[int, int | None]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        error = asker.get(path, status=400, headers=headers)["error"]
        return error["code"], error.get("error_subcode")

    assert [code(None), code("expired"), code("unapproved")] == [(104, None), (190, 463), (10, None)]
    asker.get(path, headers={"Authorization": "Bearer any"})
