"""The terms of a platform: what a person needs to know before a key is asked for or an account list grows."""

from typing import ClassVar

import pytest

from db.health import Alike
from pipeline.limits import Rate
from pipeline.platforms import Call, NotOffered, Quota
from pipeline.records import Kind
from pipeline.settings import Settings
from pipeline.terms import CallTerms, terms
from tests.fakes import settings as given
from workers.platforms.base import Base


class Harbour(Base):
    name = "harbour"
    title = "Harbour"
    base_url = "https://harbour.example"
    handle_pattern = r"\w+"
    urls = ()
    not_offered = NotOffered(following="the API doesn't tell it", engagement="only to the owner")
    calls: ClassVar = {
        "resolve": Call(limit="2/s", price_usd=0.01),
        "profiles": Call(limit="300/15m", batch=100, price_usd=0.01),
        "posts": Call(limit="1000/d", price_usd=0.50),
    }

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://harbour.example/{handle}"


class Closed(Harbour):
    needs = ("X_BEARER_TOKEN", "YOUTUBE_API_KEY")
    uses = ("MASTODON_ACCESS_TOKEN",)
    quota = Quota(per_day=1000, zone="UTC")


class Unread(Harbour):
    calls: ClassVar = {}


def settings(**environ: str) -> Settings:
    return given("postgresql://localhost/x", "redis://localhost/0", **environ)


@pytest.fixture(autouse=True)
def limits_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings know registered platforms only."""
    monkeypatch.setattr(Settings, "rate", lambda self, platform, kind: Rate.parse(platform.calls[kind].limit))


def ships(count: int, kind: Kind = "profiles", every_s: int | None = None) -> list[Alike]:
    return [Alike("harbour", kind, "", every_s, count)]


def calls(*args: object, **environ: str) -> dict[str, CallTerms]:
    return {call.kind: call for call in terms(Harbour(), *args, settings(**environ)).calls}  # type: ignore[arg-type]


def test_credentials_are_told_by_name_with_whether_they_are_set_and_never_by_value() -> None:
    found = terms(Closed(), [], settings(X_BEARER_TOKEN="s3cret", MASTODON_ACCESS_TOKEN="s3cret"))
    assert found.needs == {"X_BEARER_TOKEN": True, "YOUTUBE_API_KEY": False}
    assert found.uses == {"MASTODON_ACCESS_TOKEN": True}
    assert found.why_not == "needs YOUTUBE_API_KEY"
    assert "s3cret" not in repr(found)


def test_a_platform_with_all_it_needs_or_without_needs_is_ready() -> None:
    assert terms(Harbour(), [], settings()).why_not is None
    assert terms(Closed(), [], settings(X_BEARER_TOKEN="a", YOUTUBE_API_KEY="b")).why_not is None


def test_what_is_not_offered_stands_with_its_reason_and_nothing_else() -> None:
    assert terms(Harbour(), [], settings()).not_offered == {
        "following": "the API doesn't tell it",
        "engagement": "only to the owner",
    }


def test_a_day_of_the_list_takes_full_batches_of_profiles_and_a_call_for_each_accounts_posts() -> None:
    found = calls(ships(101))
    assert found["profiles"] == CallTerms(
        kind="profiles", limit=Rate(300, 900), batch=100, accounts=101, calls_a_day=2, usd_a_day=1.01
    )
    assert (found["posts"].calls_a_day, found["posts"].usd_a_day) == (101, 50.5)
    assert (found["resolve"].accounts, found["resolve"].calls_a_day, found["resolve"].usd_a_day) == (0, 0, 0.0)


def test_accounts_whose_id_is_not_known_yet_are_told_as_they_will_be_read() -> None:
    found = calls([*ships(3), *ships(2, "resolve")])
    assert (found["resolve"].calls_a_day, found["profiles"].calls_a_day, found["posts"].calls_a_day) == (2, 1, 5)


def test_the_intervals_and_pages_that_are_set_multiply_a_day() -> None:
    found = calls(ships(10), READ_INTERVAL_S="21600", POSTS_INTERVAL_S="172800", POSTS_PAGES="3")
    assert (found["profiles"].calls_a_day, found["profiles"].usd_a_day) == (4, 0.4)
    assert (found["posts"].calls_a_day, found["posts"].usd_a_day) == (15, 7.5)


def test_accounts_with_an_interval_of_their_own_are_reckoned_by_it() -> None:
    found = calls([*ships(10), *ships(5, every_s=43_200), *ships(7, every_s=7 * 86_400)])
    assert (found["profiles"].accounts, found["profiles"].calls_a_day) == (22, 1 + 2 + 1)
    assert found["profiles"].usd_a_day == pytest.approx(0.10 + 2 * 0.05 + 0.01)
    assert found["posts"].calls_a_day == 22


def test_money_is_told_before_the_key_is_there() -> None:
    found = {call.kind: call for call in terms(Closed(), ships(100), settings()).calls}
    assert found["profiles"].usd_a_day == 1.0


def test_a_platform_without_a_reader_takes_nothing() -> None:
    found = terms(Unread(), ships(3), settings())
    assert (found.why_not, found.calls) == ("no reader yet", [])
