"""What an account list takes, and what it would take if it grew."""

import pytest

from db.health import Alike
from pipeline import platforms, scaling
from pipeline.records import Kind
from pipeline.scaling import Demand, Scale
from tests.fakes import settings


def listed(platform: str, count: int, *, host: str = "", kind: Kind = "profiles") -> Alike:
    return Alike(platform, kind, host, None, count)


def scale(*accounts: Alike, **environ: str) -> Scale:
    given = settings("postgresql://localhost/x", "redis://localhost/0", **environ)
    return scaling.scale(accounts, given, platforms.load())


def demand(*accounts: Alike, **environ: str) -> Demand:
    (one,) = scale(*accounts, **environ).demands
    return one


def test_a_day_is_full_batches_of_profiles_and_a_call_for_each_accounts_posts() -> None:
    assert demand(listed("x", 1_000)).calls == 10 + 1_000
    assert demand(listed("mastodon", 41, host="a"), listed("mastodon", 1, host="b")).calls == 3 + 42


def test_the_kind_of_call_that_uses_most_of_its_limit_says_how_many_credentials_it_takes() -> None:
    # A call each half second is 172,800 a day: profiles take 6,912 of them, posts twice as many as there are.
    found = demand(listed("facebook", 345_600))
    assert (found.limit_used, found.credentials) == (2.0, 2)
    assert demand(listed("facebook", 345_601)).credentials == 3


def test_a_quota_by_the_day_counts_the_requests_of_all_calls() -> None:
    # 100 calls for profiles and 5,000 of two requests for posts, of 10,000 units.
    found = demand(listed("youtube", 5_000))
    assert (found.limit_used, found.credentials) == (1.01, 2)


def test_limits_and_intervals_that_are_set_count() -> None:
    assert demand(listed("facebook", 345_600), RATE_LIMIT_FACEBOOK_POSTS="4/s").limit_used == 1.0
    assert demand(listed("youtube", 7_000), POSTS_INTERVAL_S="604800").credentials == 1


def test_a_new_list_takes_as_long_as_looking_every_account_up_by_name() -> None:
    assert demand(listed("youtube", 20_001)).first_days == 2.0
    assert demand(listed("youtube", 20_001, kind="resolve")) == demand(listed("youtube", 20_001))


def test_money_is_told_for_profiles_and_posts_apart() -> None:
    found = scale(listed("x", 1_000), listed("youtube", 10))
    assert (found.profiles_usd, found.posts_usd) == pytest.approx((10.0, 500.0))


def test_processors_and_disk_follow_from_calls_and_accounts() -> None:
    ten, hundred = scale(listed("bluesky", 10_000)), scale(listed("bluesky", 100_000))
    for name in ("worker_cores", "postgres_cores", "other_cores", "disk_gb", "disk_gb_a_year", "memory_gb"):
        assert getattr(hundred, name) == pytest.approx(10 * getattr(ten, name)), name
    calls, carried = 400 + 10_000, 10_000 + 10_000
    assert ten.worker_cores == pytest.approx((calls * 0.0122 + carried * 0.00009) / 86_400)


def test_a_list_grows_in_its_proportions_and_to_the_last_account() -> None:
    grown = scaling.grown([listed("x", 43), listed("youtube", 8), listed("flickr", 1)], 1_000)
    assert [(one.platform, one.accounts) for one in grown] == [("x", 826), ("youtube", 154), ("flickr", 20)]
    assert scaling.grown([listed("x", 1), listed("youtube", 1)], 1) == [listed("youtube", 1)]
