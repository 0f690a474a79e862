"""`rollcall platforms`: what each platform wants and gives, and what a day of the list in the database takes."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from pipeline import platforms
from pipeline.cli import main

LIST = """url,is_active
https://x.com/goose,yes
https://x.com/gander,yes
https://x.com/gosling,no
https://pond.example/@duck,yes
https://lake.example/@drake,yes
"""


@pytest.fixture
def rollcall(database_url: str, redis_url: str, tmp_path, monkeypatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "SIMULATOR_URL": "", "BROKER_URL": ""}
    credentials = {name: "" for p in platforms.load().values() for name in (*p.needs, *p.instead, *p.uses)}

    def run(*arguments: str, stdin: str | None = None, **more: str) -> Result:
        result = CliRunner(env={**environ, **credentials, **more}).invoke(main, arguments, input=stdin)
        assert isinstance(result.exception, SystemExit | None), result.exception
        return result

    return run


@pytest.fixture
def listed(rollcall) -> None:
    assert rollcall("accounts", "import", "-", stdin=LIST).exit_code == 0


def lines(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_every_platform_is_told_with_its_credentials_by_name_and_never_by_value(rollcall, listed):
    result = rollcall("platforms", X_BEARER_TOKEN="s3cret")
    assert result.exit_code == 0
    said = lines(result)
    assert {line[0] for line in said} >= set(platforms.load())
    assert ["x", "ready", "X_BEARER_TOKEN set"] in said
    assert ["youtube", "needs YOUTUBE_API_KEY", "YOUTUBE_API_KEY missing"] in said
    assert ["bluesky", "ready", "none needed"] in said
    assert ["mastodon", "ready", "MASTODON_ACCESS_TOKEN not set (optional)"] in said
    assert "s3cret" not in result.output


def test_a_number_that_is_not_offered_stands_with_its_reason(rollcall, listed):
    why = platforms.load()["youtube"].not_offered.following
    assert ["youtube", "following", why] in lines(rollcall("platforms"))


def test_limits_are_told_as_they_are_set_and_a_day_for_the_accounts_that_are_not_paused(rollcall, listed):
    said = lines(rollcall("platforms", RATE_LIMIT_X_POSTS="5/m"))
    assert ["x", "resolve", "300 per 15 min", "100", "2", "1", "$0.02"] in said
    assert ["x", "posts", "5 per 1 min", "1", "2", "2", "$1.00"] in said
    assert ["mastodon", "resolve", "60 per 5 min", "1", "2", "2", "$0.00"] in said
    (youtube,) = [line for line in said if line[:2] == ["youtube", "posts"]]
    assert youtube[2].endswith("10,000 a day for all calls")


def test_a_day_of_a_platform_with_intervals_of_its_own_is_told_by_them(rollcall, listed):
    said = lines(rollcall("platforms", READ_INTERVAL_S_X="3600", POSTS_INTERVAL_S_X="43200"))
    assert ["x", "resolve", "300 per 15 min", "100", "2", "24", "$0.48"] in said
    assert ["x", "posts", "10,000 per 15 min", "1", "2", "4", "$2.00"] in said
    assert ["mastodon", "resolve", "60 per 5 min", "1", "2", "2", "$0.00"] in said


def test_in_json_a_platform_is_one_object(rollcall, listed):
    (x,) = [one for one in json.loads(rollcall("platforms", "--json").stdout) if one["platform"] == "x"]
    assert (x["why_not"], x["needs"], x["quota_a_day"]) == ("needs X_BEARER_TOKEN", {"X_BEARER_TOKEN": False}, None)
    assert x["calls"][0] == {
        "kind": "resolve",
        "limit": {"calls": 300, "period_s": 900},
        "batch": 100,
        "accounts": 2,
        "calls_a_day": 1,
        "usd_a_day": 0.02,
    }


def test_a_day_of_the_list_is_estimated_and_of_one_that_has_grown(rollcall, listed):
    assert [line[:2] for line in lines(rollcall("estimate"))] == [["mastodon", "2"], ["x", "2"]]
    grown = rollcall("estimate", "--accounts", "40000")
    assert ["x", "20,000", "20,200", "2.1%", "1", "–", "$200.00", "$10,000.00"] in lines(grown)
    assert "40,000 accounts, 40,700 calls a day." in " ".join(grown.stderr.split())
    assert json.loads(rollcall("estimate", "--json").stdout)["accounts"] == 4


def test_without_accounts_there_is_nothing_to_estimate(rollcall):
    result = rollcall("estimate")
    assert result.exit_code == 2 and "rollcall accounts import" in result.stderr
