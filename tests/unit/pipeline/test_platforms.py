"""The registry, and how addresses and handles name accounts."""

import re
from datetime import UTC, datetime

import pytest

from pipeline import platforms
from pipeline.limits import Rate
from pipeline.platforms import Platform, UrlRule, first_kind, midnight_after

TWELVE = {
    "bluesky",
    "facebook",
    "flickr",
    "instagram",
    "linkedin",
    "mastodon",
    "reddit",
    "threads",
    "tiktok",
    "truthsocial",
    "x",
    "youtube",
}
UC = "UC" + "aB3_-x" * 3 + "wxyz"

# An address as the importer cleans it, and what it names: platform, handle, id, host.
NAMED = [
    ("x.com/RiverOffice", "x", "RiverOffice", None, None),
    ("twitter.com/@river_1", "x", "river_1", None, None),
    (f"youtube.com/channel/{UC}", "youtube", UC, UC, None),
    (f"youtube.com/channel/{UC}/videos", "youtube", UC, UC, None),
    ("youtube.com/@locks.and-dams", "youtube", "locks.and-dams", None, None),
    ("youtube.com/@río·grande/about", "youtube", "río·grande", None, None),
    ("youtube.com/user/RIVEROFFICE", "youtube", "RIVEROFFICE", None, None),
    ("youtube.com/c/TheRiverOffice", "youtube", "TheRiverOffice", None, None),
    ("youtube.com/rivers", "youtube", "rivers", None, None),
    ("facebook.com/Rivers.Office", "facebook", "Rivers.Office", None, None),
    ("fb.com/RIV", "facebook", "RIV", None, None),
    ("es-la.facebook.com/rivers", "facebook", "rivers", None, None),
    ("facebook.com/profile.php?id=100066000000001", "facebook", "100066000000001", "100066000000001", None),
    ("facebook.com/p/River-Office-100066000000001", "facebook", "100066000000001", "100066000000001", None),
    ("facebook.com/pages/River-Office/100066000000001", "facebook", "100066000000001", "100066000000001", None),
    (
        "facebook.com/pages/category/Office/River-100066000000001",
        "facebook",
        "100066000000001",
        "100066000000001",
        None,
    ),
    ("facebook.com/people/River Office/100066000000001", "facebook", "100066000000001", "100066000000001", None),
    ("facebook.com/River-Office-100066000000001", "facebook", "100066000000001", "100066000000001", None),
    ("instagram.com/river.office_", "instagram", "river.office_", None, None),
    ("threads.net/@river.office", "threads", "river.office", None, None),
    ("threads.com/@river.office", "threads", "river.office", None, None),
    ("tiktok.com/@river.office", "tiktok", "river.office", None, None),
    ("linkedin.com/company/river-office", "linkedin", "river-office", None, None),
    ("linkedin.com/showcase/10000001", "linkedin", "10000001", "10000001", None),
    ("linkedin.com/company/3m", "linkedin", "3m", None, None),
    ("uk.linkedin.com/school/river-school", "linkedin", "river-school", None, None),
    ("reddit.com/r/rivers", "reddit", "r/rivers", None, None),
    ("old.reddit.com/u/river-office", "reddit", "river-office", None, None),
    ("reddit.com/user/river_office", "reddit", "river_office", None, None),
    ("flickr.com/photos/riveroffice", "flickr", "riveroffice", None, None),
    ("flickr.com/people/12345678@N07", "flickr", "12345678@N07", "12345678@N07", None),
    ("bsky.app/profile/rivers.example", "bluesky", "rivers.example", None, None),
    ("bsky.app/profile/did:plc:abc", "bluesky", "did:plc:abc", "did:plc:abc", None),
    ("social.example/@rivers", "mastodon", "rivers", None, "social.example"),
    ("m.social.example/@river.s", "mastodon", "river.s", None, "m.social.example"),
    ("near.example/@rivers@far.example", "mastodon", "rivers", None, "far.example"),
    ("truthsocial.com/@rivers", "truthsocial", "rivers", None, None),
]

REFUSED = [
    ("x.com/i/lists/1", "x"),
    ("x.com/home", "x"),
    ("youtube.com/watch", "youtube"),
    ("youtu.be/abc", "youtube"),
    ("youtube.com/playlist", "youtube"),
    ("facebook.com/groups/rivers", "facebook"),
    ("instagram.com/p/abc", "instagram"),
    ("linkedin.com/in/river-person", "linkedin"),
]

NOBODY = [
    "x.com",
    "x.com/a_name_of_sixteen",
    "x.com/river/status/1",
    "notx.com/river",
    "youtube.com",
    "youtube.com/channel/short",
    "youtube.com/@a",
    "tiktok.com/@river/video/1",
    "tiktok.com/@r",
    "m.tiktok.com/@r",
    "bsky.app/profile/river",
    "truthsocial.com/@a name",
    "linkedin.com/company",
    "social.example/rivers",
    "127.0.0.1/@rivers",
    "localhost/@rivers",
    "social.example:8443/@rivers",
]


def rules_for(address: str) -> list[tuple[str, UrlRule, re.Match[str]]]:
    return [
        (name, rule, match)
        for name, platform in platforms.load().items()
        for rule in platform.urls
        if (match := rule.match(address))
    ]


@pytest.mark.parametrize(("address", "platform", "handle", "external_id", "host"), NAMED)
def test_an_address_names_one_account_of_one_platform(
    address: str, platform: str, handle: str, external_id: str | None, host: str | None
) -> None:
    found = [(name, rule.refuse, match.groupdict()) for name, rule, match in rules_for(address)]
    assert {name for name, _, _ in found} == {platform}
    _, refuse, groups = found[0]
    assert refuse is None
    assert (groups["handle"], groups.get("id"), groups.get("host")) == (handle, external_id, host)
    assert re.fullmatch(platforms.load()[platform].handle_pattern, handle, re.IGNORECASE)


@pytest.mark.parametrize(("address", "platform"), REFUSED)
def test_an_address_that_is_no_account_is_refused_with_a_reason(address: str, platform: str) -> None:
    name, rule, _ = rules_for(address)[0]
    assert name == platform
    assert rule.refuse


@pytest.mark.parametrize("address", NOBODY)
def test_an_address_that_names_nobody_is_no_account_of_any_platform(address: str) -> None:
    assert rules_for(address) == []


@pytest.mark.parametrize("name", sorted(TWELVE))
def test_the_address_of_an_account_leads_back_to_it(name: str) -> None:
    platform = platforms.load()[name]
    handle = "rivers.example" if name == "bluesky" else "rivers"
    host = "social.example" if name == "mastodon" else ""
    address = platform.profile_url(handle, host).removeprefix("https://").removeprefix("www.").rstrip("/")
    groups = {found: match.groupdict() for found, _, match in rules_for(address)}
    assert groups[name]["handle"] == handle
    assert groups[name].get("host") in (None, host)


@pytest.mark.parametrize(
    ("platform", "handle"),
    [("x", "a_name_of_sixteen"), ("x", "río"), ("bluesky", "rivers"), ("bluesky", "-a.example"), ("mastodon", "a b")],
)
def test_a_handle_that_a_platform_never_gives_out_doesn_t_match(platform: str, handle: str) -> None:
    assert not re.fullmatch(platforms.load()[platform].handle_pattern, handle, re.IGNORECASE)


def test_the_registry_knows_the_twelve_platforms_by_name() -> None:
    known = platforms.load()
    assert set(known) == TWELVE
    assert [platform.name for platform in known.values()] == list(known)


@pytest.mark.parametrize("name", sorted(TWELVE))
def test_every_call_of_a_platform_can_be_made_and_planned(name: str) -> None:
    platform: Platform = platforms.load()[name]
    for kind, call in platform.calls.items():
        assert Rate.parse(call.limit).interval_s > 0
        assert call.batch >= 1
        assert callable(getattr(platform, f"fetch_{kind}"))
        assert callable(getattr(platform, f"parse_{kind}"))


def test_a_call_carries_as_many_accounts_as_its_platform_takes() -> None:
    batches = {
        name: platform.calls["profiles"].batch for name, platform in platforms.load().items() if platform.calls
    }
    many = {"x": 100, "youtube": 50, "facebook": 50, "bluesky": 25, "mastodon": 40}
    assert {name: batch for name, batch in batches.items() if batch > 1} == many
    assert platforms.load()["x"].calls["resolve"].batch == 100


def test_a_profile_is_read_by_name_until_its_id_is_known() -> None:
    known = platforms.load()
    assert first_kind(known["x"], None) == "resolve"
    assert first_kind(known["x"], "51001") == "profiles"
    assert first_kind(known["bluesky"], None) == "profiles"


@pytest.mark.parametrize(
    ("now", "midnight"),
    [
        pytest.param("2026-03-02T12:00", "2026-03-03T08:00", id="winter"),
        pytest.param("2026-03-02T07:59", "2026-03-02T08:00", id="a minute before"),
        pytest.param("2026-03-02T08:00", "2026-03-03T08:00", id="at midnight, the next one"),
        pytest.param("2026-03-08T12:00", "2026-03-09T07:00", id="a day of 23 hours"),
        pytest.param("2026-11-01T12:00", "2026-11-02T08:00", id="a day of 25 hours"),
    ],
)
def test_a_quota_is_renewed_at_midnight_where_the_platform_lives(now: str, midnight: str) -> None:
    asked = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert midnight_after(asked, "America/Los_Angeles") == datetime.fromisoformat(midnight).replace(tzinfo=UTC)
