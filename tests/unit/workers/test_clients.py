"""A platform's clients: each speaks of the credentials that it was made with."""

from typing import Any, cast

import pytest
from pytest_httpserver import HTTPServer

from pipeline import platforms
from pipeline.errors import NotAllowed
from pipeline.platforms import Reader
from pipeline.records import Account, Job, Kind
from tests.fakes import settings
from workers.clients import make_clients
from workers.scrape import Answer, read

SECRETS = {
    name + number: f"river{number}" for name in ("X_BEARER_TOKEN", "FACEBOOK_ACCESS_TOKEN") for number in ("", "_2")
}


def asked(platform: str, kind: Kind, label: str, server: HTTPServer, status: int, body: Any) -> Answer:
    """Read an account with one of two sets of credentials from a server that gives this answer."""
    server.expect_request("/", method="GET").respond_with_json(body, status)
    server.expect_request("/2/users").respond_with_json(body, status)
    server.expect_request("/4711/posts").respond_with_json(body, status)
    base_url = {f"{platform.upper()}_BASE_URL": server.url_for("")}
    found = settings("postgresql:///", "unix:///nowhere", **SECRETS, **base_url)
    reader = cast(Reader, platforms.load()[platform])
    account = Account(1, platform, "goose", "https://social.example/goose", "", "4711")
    job = Job(job_id="one", platform=platform, kind=kind, lane="core", accounts=(account,))
    return read(reader, job, make_clients(found, reader)[label](id))


@pytest.mark.parametrize(("label", "key"), [("1", "X_BEARER_TOKEN"), ("2", "X_BEARER_TOKEN_2")])
def test_a_refusal_names_the_key_that_was_refused(httpserver: HTTPServer, label: str, key: str) -> None:
    with pytest.raises(NotAllowed, match=rf"^refused \(401\): check {key}$"):
        asked("x", "profiles", label, httpserver, 401, {})


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, {"code": 190, "error_subcode": 463}, "FACEBOOK_ACCESS_TOKEN_2 has expired"),
        (403, {"code": 9}, "refused (403, error 9): check FACEBOOK_ACCESS_TOKEN_2"),
        (
            400,
            {"code": 100, "message": "API calls require an appsecret_proof argument"},
            "FACEBOOK_APP_SECRET_2 is missing, or not the secret of FACEBOOK_ACCESS_TOKEN_2's app",
        ),
    ],
)
def test_so_does_a_reason_of_the_platforms_own(
    httpserver: HTTPServer, status: int, error: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotAllowed) as caught:
        asked("facebook", "profiles", "2", httpserver, status, {"error": error})

    assert caught.value.reason == reason


def test_so_does_the_reason_of_one_account(httpserver: HTTPServer) -> None:
    answer = asked("facebook", "posts", "2", httpserver, 403, {"error": {"code": 10, "message": "no"}})

    assert (
        answer.missing[1].reason == "the app of FACEBOOK_ACCESS_TOKEN_2 needs the feature Page Public Content Access"
    )
