"""`rollcall probe` against servers that answer as platforms do: what it prints, what it leaves alone, how it exits."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result
from pytest_httpserver import HTTPServer
from redis import Redis
from werkzeug import Request, Response

from db.pauses import Pause
from pipeline import platforms
from pipeline.cli import main
from pipeline.platforms import Client, Token
from pipeline.records import Page
from workers.allowance import SharedAllowance
from workers.platforms.x import X

TOKEN = "river-4711-secret"
RESOLVE = "scrape.x.resolve"
GOOSE = {
    "id": "4711",
    "username": "Goose",
    "name": "The Goose",
    "public_metrics": {"followers_count": 1234, "following_count": None, "tweet_count": 7},
}


@pytest.fixture
def x(httpserver: HTTPServer) -> HTTPServer:
    """Serve X: the user Goose, nobody else."""

    def answer(request: Request) -> Response:
        asked = request.args["usernames"].lower().split(",")
        problem = {"value": asked[0], "title": "Not Found Error", "type": "https://x.example/resource-not-found"}
        body = {"data": [GOOSE]} if asked == ["goose"] else {"errors": [problem]}
        return Response(
            json.dumps(body), headers={"X-Served-To": request.headers["Authorization"], "Set-Cookie": "a=b"}
        )

    httpserver.expect_request("/2/users/by").respond_with_handler(answer)
    return httpserver


@pytest.fixture
def rollcall(httpserver: HTTPServer, redis_url: str, tmp_path, monkeypatch) -> Callable[..., Result]:
    """Return a function that runs a command with nothing set but a key for X, its address, and Redis."""
    monkeypatch.chdir(tmp_path)
    environ = {
        "DATABASE_URL": "",
        "SIMULATOR_URL": "",
        "REDIS_URL": redis_url,
        "X_BEARER_TOKEN": TOKEN,
        "X_BASE_URL": httpserver.url_for(""),
        "YOUTUBE_API_KEY": "",
    }

    def run(*arguments: str, **more: str) -> Result:
        result = CliRunner(env={**environ, **more}).invoke(main, ["probe", *arguments])
        assert isinstance(result.exception, SystemExit | None), result.exception
        return result

    return run


@pytest.fixture
def allowance(redis_url: str) -> Iterator[SharedAllowance]:
    with Redis.from_url(redis_url) as redis:
        yield SharedAllowance(redis)


def lines(result: Result) -> dict[str, str]:
    """Return what is said of the only account, by its name."""
    cells = [line.split("\t") for line in result.stdout.splitlines()]
    return {what: said for _, what, said in cells}


# What it prints


def test_an_account_of_no_list_is_read_without_a_database(rollcall, x):
    result = rollcall("x/goose")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert lines(result) == {
        "result": "ok",
        "source": "live",
        "call": "resolve",
        "external_id": "4711",
        "handle": "Goose",
        "followers": "1234",
        "following": "not told",
        "posts": "7",
        "precision": "exact",
        "display_name": "The Goose",
    }


def test_in_json_everything_has_its_name(rollcall, x):
    (found,) = json.loads(rollcall("https://twitter.com/Goose?lang=en", "--json").stdout)
    assert (found["account"], found["result"], found["source"]) == ("x/Goose", "ok", "live")
    assert found["reading"]["followers"] == 1234
    assert found["reading"]["following"] is None
    assert found["raw"] is None


def test_what_isn_t_offered_says_why(rollcall, httpserver):
    statistics = {"subscriberCount": "1230000", "viewCount": "9", "videoCount": "3"}
    channel = {"id": "UC" + "a" * 22, "snippet": {"title": "Geese", "customUrl": "@geese"}, "statistics": statistics}
    httpserver.expect_request("/channels").respond_with_json({"items": [channel]})
    found = lines(rollcall("youtube/@geese", YOUTUBE_API_KEY="k", YOUTUBE_BASE_URL=httpserver.url_for("")))
    assert found["following"] == f"not offered: {platforms.load()['youtube'].not_offered.following}"
    assert (found["followers"], found["precision"]) == ("1230000", "rounded")


def test_an_account_that_can_t_be_read_fails_with_the_words_that_would_be_kept(rollcall, x):
    result = rollcall("x/goose", "x/gander")
    assert result.exit_code == 1
    said = [line.split("\t") for line in result.stdout.splitlines()]
    assert ["x/goose", "result", "ok"] in said
    assert [line[1:] for line in said if line[0] == "x/gander"][:2] == [["result", "gone"], ["reason", "not found"]]


def test_an_error_of_the_platform_is_told(rollcall, httpserver):
    httpserver.expect_request("/2/users/by").respond_with_json({}, status=503)
    result = rollcall("x/goose")
    assert result.exit_code == 1
    assert (lines(result)["result"], lines(result)["reason"]) == ("failed", "answered 503")


def test_a_platform_that_says_to_come_back_later_says_when(rollcall, httpserver):
    httpserver.expect_request("/2/users/by").respond_with_json({}, status=429, headers={"Retry-After": "90"})
    (found,) = json.loads(rollcall("x/goose", "--json").stdout)
    assert (found["result"], found["reason"]) == ("limited", "too many requests")
    assert datetime.fromisoformat(found["again_at"]) > datetime.now(UTC) + timedelta(seconds=60)


def test_a_batch_of_one_that_is_refused_means_that_one(rollcall, httpserver):
    said = "(#803) Some of the aliases you requested do not exist: goose"
    httpserver.expect_request("/").respond_with_json(
        {"error": {"message": said, "type": "OAuthException", "code": 803}}, status=404
    )
    base = httpserver.url_for("").rstrip("/")
    result = rollcall("facebook/goose", FACEBOOK_ACCESS_TOKEN="t", FACEBOOK_BASE_URL=base)
    assert (result.exit_code, lines(result)["result"]) == (1, "gone")


def test_names_that_mean_no_account_are_wrong_use_and_nothing_is_asked(rollcall, x):
    result = rollcall("x/goose", "gander", "x/home")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'gander' names no platform" in result.stderr
    assert "a page of X itself" in result.stderr
    assert x.log == []


def test_no_account_is_wrong_use(rollcall):
    assert rollcall().exit_code == 2


def test_a_missing_credential_is_named_and_costs_no_call(rollcall, x):
    result = rollcall("x/goose", X_BEARER_TOKEN="")
    assert (result.exit_code, lines(result)["result"]) == (1, "blocked")
    assert lines(result)["reason"] == "needs X_BEARER_TOKEN"
    assert x.log == []


def test_a_server_at_a_private_address_is_refused_unless_that_is_allowed(rollcall, httpserver, monkeypatch):
    look_up = socket.getaddrinfo

    def here(host: str, *args: object, **more: object) -> list:
        return look_up("127.0.0.1" if host == "pond.example" else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    refused = lines(rollcall("mastodon/duck@pond.example", MASTODON_BASE_URL=""))
    assert (refused["result"], "HTTP_ALLOW_PRIVATE_HOSTS" in refused["reason"]) == ("blocked", True)
    allowed = lines(rollcall("mastodon/duck@pond.example", MASTODON_BASE_URL="", HTTP_ALLOW_PRIVATE_HOSTS="true"))
    assert allowed["result"] == "failed"  # nothing there speaks for that name
    assert "HTTP_ALLOW_PRIVATE_HOSTS" not in allowed["reason"]


# The raw answer


def test_the_raw_answer_is_shown_without_secrets(rollcall, x):
    result = rollcall("x/goose", "--raw")
    raw = json.loads(result.stdout[result.stdout.index("[\n") :])
    assert [(one["status"], one["body"]) for one in raw] == [(200, {"data": [GOOSE]})]
    assert raw[0]["headers"]["x-served-to"] == "Bearer ***"
    assert "set-cookie" not in raw[0]["headers"]
    assert TOKEN not in result.output


def test_the_raw_answer_of_an_error_is_shown_too(rollcall, httpserver):
    httpserver.expect_request("/2/users/by").respond_with_json({"detail": f"bad token {TOKEN}"}, status=401)
    (found,) = json.loads(rollcall("x/goose", "--raw", "--json").stdout)
    assert (found["result"], found["raw"][0]["status"]) == ("blocked", 401)
    assert found["raw"][0]["body"] == {"detail": "bad token ***"}


@pytest.mark.parametrize("echo", ["pond-token/1+2=", "pond-token%2F1%2B2%3D", "pond-token/1%2B2%3D"])
def test_a_secret_is_hidden_in_the_spellings_of_an_address_and_within_a_list(rollcall, httpserver, echo):
    secret = "lake.example=lake-token-9, pond.example=pond-token/1+2="
    body = {"error": f"see https://pond.example/?access_token={echo}", "of": ["lake-token-9"]}
    httpserver.expect_request("/api/v1/accounts/lookup").respond_with_json(body, status=503)
    base = httpserver.url_for("").rstrip("/")
    given = {"MASTODON_ACCESS_TOKEN": secret, "MASTODON_BASE_URL": base}
    result = rollcall("mastodon/duck@pond.example", "--raw", "--json", **given)
    (found,) = json.loads(result.stdout)
    assert found["raw"][0]["body"] == {"error": "see https://pond.example/?access_token=***", "of": ["***"]}


def test_a_number_that_is_also_a_credential_leaves_the_raw_answer_whole(rollcall, httpserver):
    httpserver.expect_request("/2/users/by").respond_with_json({"id": 12345678, "of": "12345678"})
    (found,) = json.loads(rollcall("x/goose", "--raw", "--json", X_BEARER_TOKEN="12345678").stdout)
    assert found["raw"][0]["body"] == {"id": 12345678, "of": "***"}


def test_a_token_that_a_credential_gave_is_hidden_too(rollcall, httpserver, monkeypatch):
    def headers(self: object, http: Client) -> dict[str, str]:
        return {"Authorization": f"Bearer {http.token()}"}

    def fetch_token(self: object, post: Callable[..., Page], http: Client) -> Token:
        return Token(post("/token").body["token"], 60)

    monkeypatch.setattr(X, "headers", headers)
    monkeypatch.setattr(X, "fetch_token", fetch_token)
    httpserver.expect_request("/token").respond_with_json({"token": "given-4711"})
    httpserver.expect_request("/2/users/by").respond_with_json({"echo": "Bearer given-4711"})
    (found,) = json.loads(rollcall("x/goose", "--raw", "--json").stdout)
    assert [one["body"] for one in found["raw"]] == [{"echo": "Bearer ***"}]


def test_a_raw_answer_that_is_cut_within_an_emoji_is_shown(rollcall, httpserver):
    httpserver.expect_request("/2/users/by").respond_with_data('{"bio": "half \\ud83d", "id": 123456789012345678901}')
    (found,) = json.loads(rollcall("x/goose", "--raw", "--json").stdout)
    assert found["raw"][0]["body"] == {"bio": "half ?", "id": 123456789012345678901}


# Its share of the limits


def test_a_probe_takes_its_slot_of_the_limit_that_workers_share(rollcall, x, allowance):
    assert rollcall("x/goose", RATE_LIMIT_X_RESOLVE="1/m").exit_code == 0
    slot = allowance.reserve(RESOLVE, platforms.load()["x"], ["1"], space_s=60, requests=1)
    assert slot.credential is None
    assert 50 < slot.wait_s <= 61


def test_a_slot_that_comes_soon_is_waited_for(rollcall, x, allowance):
    allowance.slow(RESOLVE, "1", for_s=0.5)
    began = time.monotonic()
    assert rollcall("x/goose").exit_code == 0
    assert time.monotonic() - began > 0.4


def test_a_slot_that_comes_later_is_told_and_nothing_is_asked(rollcall, x, allowance):
    allowance.slow(RESOLVE, "1", for_s=200)
    result = rollcall("x/goose")
    assert (result.exit_code, lines(result)["result"]) == (1, "limited")
    assert lines(result)["reason"].startswith("the limit gives the next call in 3 min")
    assert x.log == []


@pytest.mark.parametrize("kind", ["limited", "quota"])
def test_a_platform_that_is_paused_is_left_alone_until_then(rollcall, x, allowance, kind):
    until = datetime.now(UTC) + timedelta(minutes=5)
    allowance.pause(Pause("x", "1", until, "too many requests", kind))
    (found,) = json.loads(rollcall("x/goose", "--json").stdout)
    assert (found["result"], found["reason"]) == (kind, "too many requests")
    assert datetime.fromisoformat(found["again_at"]) == until
    assert x.log == []


def test_another_credential_is_taken_where_the_first_is_paused(rollcall, x, allowance):
    until = datetime.now(UTC) + timedelta(minutes=5)
    allowance.pause(Pause("x", "1", until, "too many requests", "limited"))
    assert rollcall("x/goose", X_BEARER_TOKEN_2="other-4711-secret").exit_code == 0
    assert x.log[0][0].headers["Authorization"] == "Bearer other-4711-secret"


@pytest.mark.parametrize("redis_url_given", ["", "unix:///nowhere.sock"])
def test_without_redis_it_asks_and_says_what_that_means(rollcall, x, redis_url_given):
    result = rollcall("x/goose", REDIS_URL=redis_url_given)
    assert result.exit_code == 0
    assert "Redis can't be reached" in result.stderr
