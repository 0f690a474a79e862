"""The simulator over a real socket: documented shapes, limits, outcomes by name, and misbehaviour on request."""

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from urllib3.exceptions import ProtocolError

from deploy.simulator.names import DOTTED, WORDS, channel_id, did
from deploy.simulator.server import Simulator
from deploy.simulator.simulation import Simulation
from tests.unit.deploy.asker import CREDENTIALS, Asker

SOCIAL = "/mastodon/social.example/api/v1"
TRUTH = "/truthsocial/api/v1"


# --- X


def test_x_leaves_unknown_and_suspended_names_to_errors_of_the_same_type(asker: Asker) -> None:
    body = asker.get("/x/2/users/by?usernames=Newsroom,foo_missing,bar_suspended")
    assert [user["username"] for user in body["data"]] == ["newsroom"]
    errors = {error["value"]: error for error in body["errors"]}
    assert errors["foo_missing"]["title"] == "Not Found Error"
    assert errors["bar_suspended"]["title"] == "Forbidden"
    assert errors["bar_suspended"]["detail"] == "User has been suspended: [bar_suspended]."
    assert {error["type"].rpartition("/")[2] for error in body["errors"]} == {"resource-not-found"}


def test_x_answers_without_data_when_no_name_is_known(asker: Asker) -> None:
    assert asker.get("/x/2/users/by?usernames=foo_missing").keys() == {"errors"}


def test_x_shows_only_the_fields_that_were_asked_for(asker: Asker) -> None:
    [bare] = asker.get("/x/2/users/by?usernames=newsroom")["data"]
    assert bare.keys() == {"id", "name", "username"}
    [full] = asker.get("/x/2/users/by?usernames=newsroom&user.fields=public_metrics,protected")["data"]
    assert full.keys() == {"id", "name", "username", "public_metrics", "protected"}


def test_x_finds_the_same_user_by_name_and_by_id(asker: Asker) -> None:
    by_name = asker.get("/x/2/users/by?usernames=NewsRoom_of_all&user.fields=public_metrics")["data"]
    by_id = asker.get(f"/x/2/users?ids={by_name[0]['id']}&user.fields=public_metrics")["data"]
    assert by_id == by_name


def test_x_does_not_keep_the_order_of_the_request(asker: Asker) -> None:
    names = [f"office_{number}" for number in range(20)]
    users = asker.get(f"/x/2/users/by?usernames={','.join(names)}")["data"]
    assert sorted(user["username"] for user in users) == sorted(names)
    assert [user["username"] for user in users] != names


@pytest.mark.parametrize("names", ["", "not-legal", "sixteen_letters_", ",".join(f"a{n}" for n in range(101))])
def test_x_refuses_a_whole_call_for_one_impossible_name_or_too_many(asker: Asker, names: str) -> None:
    body = asker.get(f"/x/2/users/by?usernames={names}", status=400)
    assert body["title"] == "Invalid Request"
    assert "usernames" in body["errors"][0]["parameters"]


def test_x_names_a_renamed_account_by_its_new_handle_when_asked_by_id(asker: Asker) -> None:
    [old] = asker.get("/x/2/users/by?usernames=we_renamed")["data"]
    [new] = asker.get(f"/x/2/users?ids={old['id']}")["data"]
    assert (old["username"], new["username"]) == ("we_renamed", "we_moved")
    assert asker.get("/x/2/users/by?usernames=we_moved")["data"] == [new]


def test_x_counts_posts_under_the_new_name_for_new_requests_and_marked_accounts(asker: Asker) -> None:
    fields = "user.fields=public_metrics"
    for query in (f"usernames=newsroom&{fields}&post.fields=created_at", f"usernames=us_newnames&{fields}"):
        [user] = asker.get(f"/x/2/users/by?{query}")["data"]
        assert "post_count" in user["public_metrics"]
        assert "tweet_count" not in user["public_metrics"]


def test_x_shows_a_protected_user_with_counts_but_without_posts(asker: Asker) -> None:
    [user] = asker.get("/x/2/users/by?usernames=my_private&user.fields=protected,public_metrics")["data"]
    assert user["protected"] is True
    assert user["public_metrics"]["followers_count"] > 0
    body = asker.get(f"/x/2/users/{user['id']}/tweets")
    assert [error["title"] for error in body["errors"]] == ["Authorization Error"]
    assert "data" not in body


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer expired"}, {"Authorization": "Basic abc"}])
def test_x_wants_a_bearer_token(asker: Asker, headers: dict[str, str]) -> None:
    answer = asker.ask("/x/2/users/by?usernames=newsroom", headers)
    assert (answer.status, answer.json()["title"]) == (401, "Unauthorized")


def test_x_refuses_an_app_that_is_not_enrolled(asker: Asker) -> None:
    body = asker.get("/x/2/users/by?usernames=newsroom", 403, {"Authorization": "Bearer unapproved"})
    assert body["type"].endswith("/client-forbidden")


def test_x_pages_through_the_newest_3200_posts_and_no_further(asker: Asker) -> None:
    user_id, count = _busy_user(asker)
    path = f"/x/2/users/{user_id}/tweets?max_results=100"
    ids: list[int] = []
    token = ""
    while True:
        body = asker.get(path + token)
        ids += [int(post["id"]) for post in body["data"]]
        if "next_token" not in body["meta"]:
            break
        token = f"&pagination_token={body['meta']['next_token']}"
    assert count > 3200
    assert len(ids) == 3200
    assert ids == sorted(set(ids), reverse=True)


def _busy_user(asker: Asker) -> tuple[str, int]:
    """Return id and number of posts of some user who has posted more than X hands out."""
    names = ",".join(f"busy{n}" for n in range(100))
    users = asker.get(f"/x/2/users/by?usernames={names}&user.fields=public_metrics")["data"]
    busiest = max(users, key=lambda user: user["public_metrics"]["tweet_count"])
    return busiest["id"], busiest["public_metrics"]["tweet_count"]


def test_x_posts_carry_what_was_asked_for_and_say_what_they_refer_to(asker: Asker) -> None:
    path = f"/x/2/users/{WORDS.number('newsroom')}/tweets?max_results=100"
    bare = asker.get(path)["data"]
    assert bare[0].keys() == {"id", "text", "edit_history_tweet_ids"}
    full = asker.get(f"{path}&tweet.fields=public_metrics,created_at,referenced_tweets")["data"]
    kinds = {post["referenced_tweets"][0]["type"] for post in full if "referenced_tweets" in post}
    assert kinds == {"replied_to", "retweeted", "quoted"}
    own = asker.get(f"{path}&tweet.fields=referenced_tweets&exclude=replies,retweets")["data"]
    assert {post["referenced_tweets"][0]["type"] for post in own if "referenced_tweets" in post} == {"quoted"}
    renamed = asker.get(f"{path}&post.fields=public_metrics,referenced_posts")["data"]
    assert "repost_count" in renamed[0]["public_metrics"]
    assert any("referenced_posts" in post for post in renamed)


def test_x_answers_an_empty_listing_with_meta_alone(asker: Asker) -> None:
    assert asker.get(f"/x/2/users/{WORDS.number('new_zero')}/tweets") == {"meta": {"result_count": 0}}


@pytest.mark.parametrize("query", ["max_results=4", "max_results=101", "pagination_token=nonsense"])
def test_x_refuses_bad_paging(asker: Asker, query: str) -> None:
    assert asker.get(f"/x/2/users/12/tweets?{query}", status=400)["title"] == "Invalid Request"


def test_x_gives_each_endpoint_its_window_of_15_minutes(asker: Asker) -> None:
    began = time.time()
    by_name = asker.ask("/x/2/users/by?usernames=newsroom")
    assert by_name.headers["x-rate-limit-limit"] == "300"
    assert by_name.headers["x-rate-limit-remaining"] == "299"
    assert began + 899 <= int(by_name.headers["x-rate-limit-reset"]) <= time.time() + 901
    assert asker.ask("/x/2/users?ids=12").headers["x-rate-limit-remaining"] == "299"
    posts = asker.ask("/x/2/users/12/tweets")
    assert (posts.headers["x-rate-limit-limit"], posts.headers["x-rate-limit-remaining"]) == ("10000", "9999")


def test_a_spent_limit_is_refused_counted_and_given_back_at_the_reset(asker: Asker) -> None:
    asker.order("limits", platform="x", limit=2, window_s=1)
    path = "/x/2/users/by?usernames=newsroom"
    assert [asker.ask(path).status for _ in range(4)] == [200, 200, 429, 429]
    refused = asker.ask(path)
    assert refused.json()["title"] == "Too Many Requests"
    assert refused.headers["x-rate-limit-remaining"] == "0"
    assert asker.get("/_simulator/state")["violations"]["x"] == 3
    reset = int(refused.headers["x-rate-limit-reset"])
    while time.time() < reset:
        time.sleep(0.01)
    assert asker.ask(path).status == 200


# --- YouTube


def _channel(asker: Asker, query: str) -> dict[str, Any]:
    [item] = asker.get(f"/youtube/channels?part=snippet,statistics,contentDetails&{query}")["items"]
    return item


def test_youtube_finds_a_channel_by_handle_by_user_name_and_by_id(asker: Asker) -> None:
    channel = _channel(asker, "forHandle=@HealthNews")
    assert re.fullmatch(r"UC[\w-]{22}", channel["id"])
    assert channel["snippet"]["customUrl"] == "@healthnews"
    assert _channel(asker, "forUsername=healthnews") == channel
    assert _channel(asker, f"id={channel['id']}") == channel


def test_youtube_finds_a_channel_again_whose_name_is_too_long_for_its_id(asker: Asker) -> None:
    channel = _channel(asker, "forHandle=@AnOfficeWithAVeryLongNameIndeed")
    assert "customUrl" not in channel["snippet"]
    assert _channel(asker, f"id={channel['id']}") == channel


def test_youtube_counts_are_strings_and_subscribers_are_rounded_down(asker: Asker) -> None:
    for number in range(40):
        statistics = _channel(asker, f"forHandle=@office{number}")["statistics"]
        assert all(isinstance(statistics[name], str) for name in ("subscriberCount", "viewCount", "videoCount"))
        assert re.fullmatch(r"\d{1,3}|\d{3}0+", statistics["subscriberCount"])


def test_youtube_hides_the_subscribers_of_a_hidden_channel(asker: Asker) -> None:
    assert _channel(asker, "forHandle=@we-hidden")["statistics"]["hiddenSubscriberCount"] is True
    assert _channel(asker, "forHandle=@we")["statistics"]["hiddenSubscriberCount"] is False


@pytest.mark.parametrize("query", ["forHandle=@we_missing", "forHandle=@we_suspended", "id=UCshort"])
def test_youtube_answers_a_channel_that_is_gone_without_items(asker: Asker, query: str) -> None:
    body = asker.get(f"/youtube/channels?part=snippet&{query}")
    assert "items" not in body
    assert body["pageInfo"]["totalResults"] == 0


def test_youtube_takes_50_ids_and_leaves_out_those_that_are_gone(asker: Asker) -> None:
    ids = [channel_id(f"office{number}") for number in range(49)] + [channel_id("office_missing")]
    body = asker.get(f"/youtube/channels?part=id&id={','.join(ids)}")
    assert [item["id"] for item in body["items"]] == ids[:49]
    asker.get(f"/youtube/channels?part=id&id={','.join([*ids, channel_id('one')])}", status=400)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("part=snippet", "missingRequiredParameter"),
        ("forHandle=@we", "missingRequiredParameter"),
        ("part=snippet&id=UCx&forHandle=@we", "incompatibleParameters"),
    ],
)
def test_youtube_wants_parts_and_exactly_one_filter(asker: Asker, query: str, reason: str) -> None:
    assert asker.get(f"/youtube/channels?{query}", status=400)["error"]["errors"][0]["reason"] == reason


def test_youtube_lists_uploads_page_by_page_and_then_their_videos(asker: Asker) -> None:
    channel = _channel(asker, "forHandle=@HealthNews")
    uploads = channel["contentDetails"]["relatedPlaylists"]["uploads"]
    path = f"/youtube/playlistItems?part=snippet,contentDetails&maxResults=50&playlistId={uploads}"
    ids: list[str] = []
    token = ""
    while True:
        body = asker.get(path + token)
        page = [item["contentDetails"]["videoId"] for item in body["items"]]
        videos = asker.get(f"/youtube/videos?part=snippet,statistics,contentDetails&id={','.join(page)}")["items"]
        assert [video["id"] for video in videos] == page
        assert {video["snippet"]["channelId"] for video in videos} == {channel["id"]}
        ids += page
        if "nextPageToken" not in body:
            break
        token = f"&pageToken={body['nextPageToken']}"
    assert len(ids) == len(set(ids)) == int(channel["statistics"]["videoCount"])


def test_youtube_leaves_out_hidden_likes_and_closed_comments(asker: Asker) -> None:
    uploads = "UU" + channel_id("healthnews")[2:]
    body = asker.get(f"/youtube/playlistItems?part=contentDetails&maxResults=50&playlistId={uploads}")
    ids = ",".join(item["contentDetails"]["videoId"] for item in body["items"])
    statistics = [video["statistics"] for video in asker.get(f"/youtube/videos?part=statistics&id={ids}")["items"]]
    assert {"likeCount" in one for one in statistics} == {True, False}
    assert {"commentCount" in one for one in statistics} == {True, False}


@pytest.mark.parametrize("name", ["new_zero", "we_missing"])
def test_youtube_has_no_playlist_for_a_channel_without_uploads(asker: Asker, name: str) -> None:
    uploads = "UU" + channel_id(name)[2:]
    body = asker.get(f"/youtube/playlistItems?part=snippet&playlistId={uploads}", status=404)
    assert body["error"]["errors"][0]["reason"] == "playlistNotFound"


def test_youtube_refuses_a_page_token_that_it_did_not_give(asker: Asker) -> None:
    uploads = "UU" + channel_id("we")[2:]
    for token in ("nonsense", "%FF", "UFQ6MA"):
        path = f"/youtube/playlistItems?part=snippet&playlistId={uploads}&pageToken={token}"
        assert asker.get(path, status=400)["error"]["errors"][0]["reason"] == "invalidPageToken"


def test_youtube_wants_a_key_in_header_or_query(asker: Asker) -> None:
    path = "/youtube/channels?part=id&forHandle=@we"
    assert asker.ask(path, {"X-Goog-Api-Key": "any"}).status == 200
    assert asker.ask(f"{path}&key=any", {}).status == 200
    assert asker.ask(path, {}).status == 403
    expired = asker.ask(path, {"X-Goog-Api-Key": "expired"})
    assert (expired.status, expired.json()["error"]["errors"][0]["reason"]) == (400, "keyInvalid")
    unapproved = asker.get(path, 403, {"X-Goog-Api-Key": "unapproved"})
    assert unapproved["error"]["errors"][0]["reason"] == "accessNotConfigured"


def test_youtube_gives_10000_units_until_midnight_in_california(asker: Asker) -> None:
    path = "/youtube/channels?part=id&forHandle=@we"
    assert not [name for name in asker.ask(path).headers if "rate" in name.lower()]
    [units] = asker.get("/_simulator/state")["limits"]["youtube"].values()
    assert (units["limit"], units["remaining"]) == (10_000, 9_999)
    resets_at = datetime.fromisoformat(units["resets_at"])
    assert resets_at.astimezone(ZoneInfo("America/Los_Angeles")).strftime("%H:%M") == "00:00"
    assert timedelta(0) < resets_at - datetime.now(UTC) <= timedelta(hours=25)


def test_youtube_says_that_the_quota_is_spent(asker: Asker) -> None:
    asker.order("limits", platform="youtube", limit=1, window_s=600)
    path = "/youtube/channels?part=id&forHandle=@we"
    asker.get(path)
    [error] = asker.get(path, status=403)["error"]["errors"]
    assert (error["domain"], error["reason"]) == ("youtube.quota", "quotaExceeded")


# --- Bluesky


def test_bluesky_leaves_out_whom_it_cannot_show_and_keeps_the_order(asker: Asker) -> None:
    handles = [
        "z.example.org",
        "a-missing.bsky.social",
        "b-suspended.bsky.social",
        "c-deactivated.bsky.social",
        "a.gov",
    ]
    query = "&".join(f"actors={handle}" for handle in handles)
    profiles = asker.get(f"/bluesky/app.bsky.actor.getProfiles?{query}")["profiles"]
    assert [profile["handle"] for profile in profiles] == ["z.example.org", "a.gov"]


def test_bluesky_takes_25_actors_and_not_26(asker: Asker) -> None:
    actors = [f"actors=a{number}.bsky.social" for number in range(26)]
    assert len(asker.get(f"/bluesky/app.bsky.actor.getProfiles?{'&'.join(actors[:25])}")["profiles"]) == 25
    body = asker.get(f"/bluesky/app.bsky.actor.getProfiles?{'&'.join(actors)}", status=400)
    assert body["error"] == "InvalidRequest"


@pytest.mark.parametrize(
    ("actor", "error", "message"),
    [
        ("a-missing.bsky.social", "InvalidRequest", "Profile not found"),
        ("a-suspended.bsky.social", "AccountTakedown", "Account has been suspended"),
        ("a-deactivated.bsky.social", "AccountDeactivated", "Account is deactivated"),
        ("not_a_handle", "InvalidRequest", "Error: actor must be a valid did or a handle"),
    ],
)
@pytest.mark.parametrize("endpoint", ["actor.getProfile", "feed.getAuthorFeed"])
def test_bluesky_says_why_an_account_cannot_be_shown(
    asker: Asker, endpoint: str, actor: str, error: str, message: str
) -> None:
    body = asker.get(f"/bluesky/app.bsky.{endpoint}?actor={actor}", status=400)
    assert body == {"error": error, "message": message}


def test_bluesky_finds_the_same_account_by_did_with_todays_handle(asker: Asker) -> None:
    path = "/bluesky/app.bsky.actor.getProfile?actor="
    plain = asker.get(f"{path}news.example.org")
    assert asker.get(path + plain["did"]) == plain
    renamed = asker.get(f"{path}we-renamed.example.org")
    assert asker.get(path + renamed["did"])["handle"] == "we-moved.example.org"


def test_bluesky_leaves_out_the_count_of_posts_for_a_few(asker: Asker) -> None:
    actors = [f"actors=a{number}.bsky.social" for number in range(100)]
    profiles = [
        profile
        for begin in range(0, 100, 25)
        for profile in asker.get(f"/bluesky/app.bsky.actor.getProfiles?{'&'.join(actors[begin : begin + 25])}")[
            "profiles"
        ]
    ]
    assert 0 < sum("postsCount" not in profile for profile in profiles) < 25


def test_bluesky_pages_a_feed_with_reposts_of_others(asker: Asker) -> None:
    profile = asker.get("/bluesky/app.bsky.actor.getProfile?actor=news.example.org")
    path = "/bluesky/app.bsky.feed.getAuthorFeed?actor=news.example.org&limit=100"
    feed: list[dict[str, Any]] = []
    cursor = ""
    while True:
        body = asker.get(path + cursor)
        feed += body["feed"]
        if "cursor" not in body:
            break
        cursor = f"&cursor={body['cursor']}"
    assert len({item["post"]["uri"] for item in feed}) == len(feed) == profile["postsCount"]
    reposts = [item for item in feed if "reason" in item]
    assert reposts
    assert {item["reason"]["$type"] for item in reposts} == {"app.bsky.feed.defs#reasonRepost"}
    assert profile["did"] not in {item["post"]["author"]["did"] for item in reposts}
    assert {item["post"]["author"]["did"] for item in feed if "reason" not in item} == {profile["did"]}
    embeds = {item["post"]["record"]["embed"]["$type"] for item in feed if "embed" in item["post"]["record"]}
    assert embeds == {"app.bsky.embed.images", "app.bsky.embed.record"}


def test_bluesky_leaves_out_replies_when_asked(asker: Asker) -> None:
    path = f"/bluesky/app.bsky.feed.getAuthorFeed?actor={did('news.example.org')}&limit=100"
    assert any("reply" in item["post"]["record"] for item in asker.get(path)["feed"])
    own = asker.get(f"{path}&filter=posts_no_replies")["feed"]
    assert not any("reply" in item["post"]["record"] for item in own)


def test_bluesky_publishes_its_window_and_says_how_long_to_wait(asker: Asker) -> None:
    path = "/bluesky/app.bsky.actor.getProfile?actor=news.example.org"
    headers = asker.ask(path).headers
    assert headers["RateLimit-Policy"] == "3000;w=300"
    assert headers["RateLimit-Remaining"] == "2999"
    assert 298 <= int(headers["RateLimit-Reset"]) - time.time() <= 301
    assert "Retry-After" not in headers
    asker.order("limits", platform="bluesky", limit=1, window_s=30)
    asker.ask(path)
    refused = asker.ask(path)
    assert refused.status == 429
    assert 28 <= int(refused.headers["Retry-After"]) <= 30


# --- Mastodon and Truth Social


@pytest.mark.parametrize("base", [SOCIAL, TRUTH])
def test_mastodon_finds_the_same_account_by_name_and_by_id(asker: Asker, base: str) -> None:
    account = asker.get(f"{base}/accounts/lookup?acct=News.Room")
    assert account["acct"] == "news.room"
    assert asker.get(f"{base}/accounts/{account['id']}") == account


def test_mastodon_takes_an_address_of_its_own_host_only(asker: Asker) -> None:
    assert asker.get(f"{SOCIAL}/accounts/lookup?acct=newsroom@social.example")["acct"] == "newsroom"
    assert asker.get(f"{SOCIAL}/accounts/lookup?acct=newsroom@other.example", 404) == {"error": "Record not found"}


def test_mastodon_servers_have_accounts_and_limits_of_their_own(asker: Asker) -> None:
    here = asker.ask(f"{SOCIAL}/accounts/lookup?acct=newsroom")
    there = asker.ask("/mastodon/other.example/api/v1/accounts/lookup?acct=newsroom")
    assert here.json()["followers_count"] != there.json()["followers_count"]
    assert here.headers["X-RateLimit-Remaining"] == there.headers["X-RateLimit-Remaining"] == "299"


def test_mastodon_gives_several_accounts_at_once_without_the_missing_ones(asker: Asker) -> None:
    ids = [DOTTED.number(name) for name in ("we_missing", "newsroom", "we_loginwall", "press")]
    body = asker.get(f"{SOCIAL}/accounts?id[]=0&" + "&".join(f"id%5B%5D={one}" for one in ids))
    assert [account["acct"] for account in body] == ["newsroom", "press"]


def test_truth_social_has_fields_of_its_own_and_no_batch(asker: Asker) -> None:
    account = asker.get(f"{TRUTH}/accounts/lookup?acct=newsroom")
    assert isinstance(account["verified"], bool)
    assert account["unauth_visibility"] is True
    assert account["url"] == "https://truthsocial.com/@newsroom"
    asker.get(f"{TRUTH}/accounts?id[]={account['id']}", status=404)


@pytest.mark.parametrize("base", [SOCIAL, TRUTH])
def test_mastodon_outcomes_by_name(asker: Asker, base: str) -> None:
    path = f"{base}/accounts/lookup?acct="
    assert asker.get(f"{path}we_missing", 404) == {"error": "Record not found"}
    assert asker.get(f"{path}we_loginwall", 401) == {"error": "This API requires an authenticated user"}
    suspended = asker.get(f"{path}we_suspended")
    assert (suspended["suspended"], suspended["followers_count"]) == (True, 0)
    assert asker.get(f"{base}/accounts/{suspended['id']}/statuses") == []
    assert asker.get(f"{path}we_zero")["followers_count"] == 0
    renamed = asker.get(f"{path}we_renamed")
    assert asker.get(f"{base}/accounts/{renamed['id']}")["acct"] == "we_moved"
    bot_page = asker.ask(f"{path}we_botpage")
    assert bot_page.status == 403
    assert bot_page.headers["Content-Type"].startswith("text/html")
    assert b"Just a moment..." in bot_page.data


def test_mastodon_refuses_a_token_that_is_no_longer_valid_but_needs_none(asker: Asker) -> None:
    path = f"{SOCIAL}/accounts/lookup?acct=newsroom"
    assert asker.ask(path, {}).status == 200
    expired = asker.ask(path, {"Authorization": "Bearer expired"})
    assert (expired.status, expired.json()) == (401, {"error": "The access token is invalid"})


@pytest.mark.parametrize(("base", "most"), [(SOCIAL, 40), (TRUTH, 20)])
def test_mastodon_leads_from_page_to_page_by_the_link_header(asker: Asker, base: str, most: int) -> None:
    account = asker.get(f"{base}/accounts/lookup?acct=newsroom")
    url: str | None = f"{asker.url}{base}/accounts/{account['id']}/statuses?exclude_nothing=1"
    statuses: list[dict[str, Any]] = []
    sizes = set()
    while url:
        answer = asker.pool.request("GET", f"{url}&limit=80")
        statuses += answer.json()
        sizes.add(len(answer.json()))
        link = re.search(r'<([^>]+)>; rel="next"', answer.headers.get("Link", ""))
        url = link[1] if link else None
    assert max(sizes) == most
    assert len({status["id"] for status in statuses}) == len(statuses) == account["statuses_count"]
    boosts = [status for status in statuses if status["reblog"]]
    assert boosts
    assert {status["reblog"]["account"]["acct"] for status in boosts}.isdisjoint({"newsroom"})


def test_mastodon_leaves_out_replies_and_boosts_when_asked(asker: Asker) -> None:
    account = asker.get(f"{SOCIAL}/accounts/lookup?acct=newsroom")
    path = f"{SOCIAL}/accounts/{account['id']}/statuses?limit=40"
    every = asker.get(path)
    assert any(status["reblog"] for status in every)
    assert any(status["in_reply_to_id"] for status in every)
    own = asker.get(f"{path}&exclude_replies=true&exclude_reblogs=true")
    assert len(own) == 40
    assert not any(status["reblog"] or status["in_reply_to_id"] for status in own)


def test_mastodon_windows_end_on_the_clock_in_iso_time(asker: Asker) -> None:
    headers = asker.ask(f"{SOCIAL}/accounts/lookup?acct=newsroom").headers
    assert headers["X-RateLimit-Limit"] == "300"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d[05]:00\.000000Z", headers["X-RateLimit-Reset"])
    asker.order("limits", platform="mastodon", limit=1, window_s=600)
    asker.get(f"{SOCIAL}/accounts/lookup?acct=newsroom")
    assert asker.get(f"{SOCIAL}/accounts/lookup?acct=newsroom", 429) == {"error": "Too many requests"}


# --- Control


def test_the_clock_moves_growth_but_not_limits(asker: Asker) -> None:
    path = "/x/2/users/by?usernames=newsroom&user.fields=public_metrics"
    before = asker.ask(path)
    asker.order("clock", offset_s=30 * 86_400)
    after = asker.ask(path)
    counts = [answer.json()["data"][0]["public_metrics"] for answer in (before, after)]
    assert counts[1]["followers_count"] != counts[0]["followers_count"]
    assert counts[1]["tweet_count"] > counts[0]["tweet_count"]
    assert after.headers["x-rate-limit-reset"] == before.headers["x-rate-limit-reset"]


def test_requests_are_counted_by_platform_and_endpoint(asker: Asker) -> None:
    asker.get("/x/2/users/by?usernames=newsroom")
    asker.get("/x/2/users/by?usernames=newsroom")
    asker.get("/bluesky/app.bsky.actor.getProfile?actor=news.example.org")
    asker.get("/bluesky/nonsense", status=404)
    requests = asker.get("/_simulator/state")["requests"]
    assert requests["x"] == {"users/by": 2}
    assert requests["bluesky"] == {"getProfile": 1, "unknown": 1}
    assert requests["youtube"] == {}


def test_batches_are_measured_by_what_a_request_carries(asker: Asker) -> None:
    asker.get("/x/2/users/by?usernames=office,press,news")
    asker.get("/x/2/users/by?usernames=office")
    asker.get("/bluesky/app.bsky.actor.getProfiles?actors=a.gov&actors=b.gov")
    asker.get(f"{SOCIAL}/accounts?id[]=1&id%5B%5D=2&id[]=3")
    asker.get(f"{SOCIAL}/accounts/lookup?acct=office")
    batches = asker.get("/_simulator/state")["batches"]
    assert batches["x"] == {"users/by": {"mean": 2.0, "largest": 3}}
    assert batches["bluesky"] == {"getProfiles": {"mean": 2.0, "largest": 2}}
    assert batches["mastodon"] == {
        "accounts": {"mean": 3.0, "largest": 3},
        "accounts/lookup": {"mean": 1.0, "largest": 1},
    }


def test_every_credential_has_an_allowance_of_its_own(asker: Asker) -> None:
    asker.order("limits", platform="x", limit=1, window_s=600)
    asked = [asker.ask(NEWSROOM, {"Authorization": f"Bearer {token}"}).status for token in ("one", "two", "one")]
    assert asked == [200, 200, 429]
    limits = asker.get("/_simulator/state")["limits"]["x"]
    assert len(limits) == 2
    assert not [bucket for bucket in limits if "one" in bucket or "two" in bucket]


def test_a_page_lists_what_was_seen(asker: Asker) -> None:
    asker.order("limits", platform="x", limit=1, window_s=600)
    asker.get("/x/2/users/by?usernames=office,press,news")
    asker.get("/x/2/users/by?usernames=office", status=429)
    asker.get("/mastodon/social.example/api/v1/accounts/lookup?acct=office")
    answer = asker.ask("/_simulator/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    rows = [re.findall("<td>(.*?)</td>", row) for row in answer.data.decode().splitlines()]
    assert ["x", "users/by", "2", "2.0", "3"] in rows
    assert ["x", "1"] in rows
    assert ["facebook", "0"] in rows
    assert ["300", "299"] in [row[2:4] for row in rows if row[1:] and row[1].startswith("social.example")]


def test_memory_does_not_grow_with_the_accounts_that_were_asked_for() -> None:
    simulation = Simulation(seed=1)
    headers = {"authorization": "Bearer any", "linkedin-version": "202606"}

    def ask(names: range) -> int:
        for name in names:
            for path in (
                f"/facebook/office{name}?fields=followers_count",
                f"/instagram/1?fields=business_discovery.username(office{name}){{followers_count}}",
                f"/linkedin/organizations?q=vanityName&vanityName=office{name}",
                f"/bluesky/app.bsky.actor.getProfile?actor=office{name}.example.org",
                f"/mastodon/social.example/api/v1/accounts/lookup?acct=office{name}",
            ):
                simulation.answer("GET", path, headers, b"")
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        # What is counted by the moment (rolling windows) takes a few bytes a request, up to its limit.
        warm = ask(range(400))
        assert ask(range(400, 2400)) - warm < 2000 * 100
    finally:
        tracemalloc.stop()


def test_reset_forgets_counts_limits_faults_and_the_clock(asker: Asker) -> None:
    path = "/x/2/users/by?usernames=newsroom&user.fields=public_metrics"
    fresh = asker.get("/_simulator/state")
    posts = asker.get(path)["data"][0]["public_metrics"]["tweet_count"]
    asker.order("clock", offset_s=10**8)
    asker.order("limits", platform="x", limit=1, window_s=600)
    asker.order("faults", platform="x", kind="status", count=5)
    asker.ask(path)
    asker.order("reset")
    assert asker.get("/_simulator/state") == fresh
    assert asker.get(path)["data"][0]["public_metrics"]["tweet_count"] == posts


@pytest.mark.parametrize(
    ("control", "body"),
    [
        ("faults", {"platform": "nowhere", "kind": "empty"}),
        ("faults", {"platform": "x", "kind": "boredom"}),
        ("faults", {"platform": "x", "kind": "empty", "count": 0}),
        ("clock", {}),
        ("clock", {"offset_s": 1e300}),
        ("tokens", {"platform": "nowhere"}),
        ("tokens", {"platform": "reddit", "lasts_s": 0}),
        ("limits", {"platform": "x", "limit": 0, "window_s": 1}),
        ("limits", {"platform": "x", "limit": 1, "window_s": 1, "extra": 1}),
    ],
)
def test_a_wrong_order_is_refused_with_its_reason(asker: Asker, control: str, body: dict[str, object]) -> None:
    assert asker.order(control, status=400, **body)["error"]


# --- Misbehaviour


NEWSROOM = "/x/2/users/by?usernames=newsroom"


def test_faults_hit_the_next_requests_of_their_platform_only(asker: Asker) -> None:
    asker.order("faults", platform="x", kind="status", count=2)
    asker.order("faults", platform="x", kind="status", value=502)
    asker.get(f"{SOCIAL}/accounts/lookup?acct=newsroom")
    assert [asker.ask(NEWSROOM).status for _ in range(4)] == [503, 503, 502, 200]


def test_a_header_asks_for_a_fault_of_its_own_request_only(asker: Asker) -> None:
    asker.order("faults", platform="x", kind="html")
    spoilt = asker.ask(NEWSROOM, CREDENTIALS | {"X-Simulator-Fault": "status=502"})
    assert spoilt.status == 502
    assert b"<html>" in asker.ask(NEWSROOM).data
    asker.get(NEWSROOM)
    with pytest.raises(ProtocolError, match="closed connection without response"):
        asker.ask(NEWSROOM, CREDENTIALS | {"X-Simulator-Fault": "dropped"})


@pytest.mark.parametrize("fault", ["", "boredom", "status=", "status=-1", "latency=1000", "latency=1e300"])
def test_a_header_that_names_no_fault_is_refused_with_those_there_are(asker: Asker, fault: str) -> None:
    body = asker.get(NEWSROOM, 400, CREDENTIALS | {"X-Simulator-Fault": fault})
    assert "dropped" in body["error"]


def test_too_many_requests_can_come_with_seconds_or_with_a_date(asker: Asker) -> None:
    asker.order("faults", platform="x", kind="retry_after", value=30)
    asker.order("faults", platform="x", kind="retry_date", value=30)
    seconds, date = asker.ask(NEWSROOM), asker.ask(NEWSROOM)
    assert (seconds.status, date.status) == (429, 429)
    assert seconds.headers["Retry-After"] == "30"
    wait = parsedate_to_datetime(date.headers["Retry-After"]) - datetime.now(UTC)
    assert timedelta(seconds=28) <= wait <= timedelta(seconds=31)


def test_an_answer_can_be_a_page_of_html(asker: Asker) -> None:
    asker.order("faults", platform="x", kind="html")
    answer = asker.ask(NEWSROOM)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"<html>" in answer.data


def test_an_answer_can_be_empty(asker: Asker) -> None:
    asker.order("faults", platform="x", kind="empty")
    answer = asker.ask(NEWSROOM)
    assert (answer.status, answer.data) == (200, b"")


def test_an_answer_can_break_off_in_the_middle(asker: Asker) -> None:
    asker.order("faults", platform="x", kind="truncated")
    with pytest.raises(ProtocolError, match="IncompleteRead"):
        asker.ask(NEWSROOM)
    asker.get(NEWSROOM)


def test_a_connection_can_be_dropped_without_a_word(asker: Asker) -> None:
    asker.order("faults", platform="x", kind="dropped")
    with pytest.raises(ProtocolError, match="closed connection without response"):
        asker.ask(NEWSROOM)
    asker.get(NEWSROOM)


def test_an_answer_can_be_late(asker: Asker) -> None:
    asker.order("faults", platform="x", kind="latency", value=0.3)
    began = time.monotonic()
    assert asker.ask(NEWSROOM).status == 200
    assert time.monotonic() - began >= 0.3


def test_stopping_waits_neither_for_late_answers_nor_for_idle_clients() -> None:
    with Simulator(port=0) as simulator:
        asker = Asker(simulator.url)
        asker.order("faults", platform="x", kind="latency", value=60)
        with _connected(simulator) as late:
            late.sendall(f"GET {NEWSROOM} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer any\r\n\r\n".encode())
            _until(lambda: asker.get("/_simulator/state")["requests"]["x"])
            began = time.monotonic()
            simulator.stop()
            assert time.monotonic() - began < 5
        asker.pool.clear()


# --- Garbage


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/x",
        "/nowhere/at/all",
        "/_simulator/nothing",
        "/x/2/users/by/username/newsroom",
        "/mastodon/api/v1/accounts/lookup?acct=newsroom",
        "/mastodon/%00/api/v1/accounts/1",
        "/truthsocial/api/v1/accounts/" + "9" * 5000,
        "/tiktok/v2/research/user/info/",
        "/linkedin/organizations?q=search",
    ],
)
def test_unknown_paths_are_404_in_json(asker: Asker, path: str) -> None:
    asker.get(path, status=404)


@pytest.mark.parametrize(
    "path",
    [
        "/x/2/users?ids=" + "9" * 5000,
        "/x/2/users/by?usernames=%FF%00",
        "/x/2/users/12/tweets?max_results=" + "9" * 5000,
        "/x/2/users/12/tweets?pagination_token=7140dibdnow9ffffffffffffffff0",
        "/bluesky/app.bsky.feed.getAuthorFeed?actor=a.gov&cursor=0001-01-01T00:00:00",
        "/bluesky/app.bsky.feed.getAuthorFeed?actor=a.gov&cursor=9999-12-31T23:59:59Z",
        "/bluesky/app.bsky.actor.getProfile?actor=did:plc:a",
        "/bluesky/app.bsky.actor.getProfile?actor=" + "a" * 50_000,
        f"{SOCIAL}/accounts?id[]={'9' * 5000}&id[]=-1",
        f"{SOCIAL}/accounts/1/statuses?max_id=99999999999999999999&limit=-3",
        f"{SOCIAL}/accounts/1/statuses?max_id=9999999999999999999",
        f"{SOCIAL}/accounts/lookup?acct=@@@",
        "/youtube/channels?part=snippet&forHandle=%E2%98%83",
        "/youtube/playlistItems?part=snippet&playlistId=UU______________________&pageToken=%C3%A9",
        "/youtube/videos?part=snippet&id=%00",
        "/youtube/channels?part=snippet&id=UC" + "%C3%A9" * 22,
        "/youtube/playlistItems?part=snippet&playlistId=UU" + "%C3%A9" * 22,
        "/threads/nothing",
        "/facebook/?ids=" + "9" * 5000,
        "/facebook/?ids=%E2%98%83,%C2%B2,%D9%A3",
        "/facebook/" + "9" * 90,
        "/facebook/office/posts?limit=-1&after=%00",
        "/instagram/%E2%98%83?fields=business_discovery.username(%E2%98%83){id}",
        "/threads/profile_lookup?username=%E2%84%AA&fields=a{",
        "/flickr?method=flickr.people.getInfo&api_key=any&user_id=" + "9" * 5000 + "@N00",
        "/flickr?method=flickr.urls.lookupUser&api_key=any&url=https://flickr.com/photos/%E2%84%AA%C5%BF/",
    ],
)
def test_garbage_gets_an_answer_and_never_a_traceback(
    asker: Asker, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = asker.ask(path)
    assert answer.status in (200, 400, 404)
    assert answer.json() is not None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"DELETE /x HTTP/1.1\r\n\r\n", 501),
        (b"POST /_simulator/reset HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /_simulator/reset HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"POST /_simulator/reset HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /_simulator/faults HTTP/1.1\r\nContent-Length: 3\r\n\r\n\xff{]", 400),
        (b"POST /nowhere/2/users/by HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 404),
    ],
)
def test_broken_requests_are_answered_in_json(
    simulator: Simulator, sent: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with _connected(simulator) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["error"]
    assert capfd.readouterr().err == ""


def test_a_client_that_hangs_up_leaves_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    with Simulator(port=0) as simulator:
        asker = Asker(simulator.url)
        asker.order("faults", platform="x", kind="latency", value=0.2)
        with _connected(simulator) as rude:
            # Closing with a linger of zero resets the connection: the late answer has nowhere to go.
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            rude.sendall(f"GET {NEWSROOM} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer any\r\n\r\n".encode())
            _until(lambda: asker.get("/_simulator/state")["requests"]["x"])
        asker.pool.clear()
    # Leaving the block has waited for the thread of that connection.
    assert capfd.readouterr().err == ""


# --- The command


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_where_it_listens_and_ends_at_once(end: signal.Signals) -> None:
    command = [sys.executable, "-m", "deploy.simulator"]
    environ = {**os.environ, "SIMULATOR_PORT": "0"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("simulator: listening on ").strip()
        asker = Asker(url)
        asker.get(NEWSROOM)
        process.send_signal(end)
        out, err = process.communicate(timeout=5)
        asker.pool.clear()
    assert (process.returncode, out, err) == (0, "", "")


def test_the_command_says_in_one_line_that_its_port_is_taken(simulator: Simulator) -> None:
    port = simulator.url.rpartition(":")[2]
    command = [sys.executable, "-m", "deploy.simulator", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith(f"simulator: cannot listen on 127.0.0.1:{port}: ")
    assert done.stderr.count("\n") == 1


def _connected(simulator: Simulator) -> socket.socket:
    host, port = simulator.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def _until(happened: Any, deadline_s: float = 10) -> None:
    limit = time.monotonic() + deadline_s
    while not happened():
        assert time.monotonic() < limit, "it didn't happen in time"
        time.sleep(0.01)
