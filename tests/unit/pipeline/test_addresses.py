"""What people write finds the account they mean, whatever the spelling."""

from collections.abc import Mapping

import pytest

from pipeline import addresses
from pipeline.addresses import Unclear
from pipeline.platforms import Call, NotOffered, UrlRule


class Birds:
    """One site, plain names."""

    name = "birds"
    title = "Little Birds"
    base_url = "https://api.birds.example"
    not_offered = NotOffered()
    calls: Mapping = {"profiles": Call(limit="2/s", batch=100)}
    quota = None
    needs = ()
    uses = ()
    urls = (
        UrlRule(r"birds\.example/jobs/.*", refuse="a job offer"),
        UrlRule(r"birds\.example/profile\.php\?id=(?P<handle>(?P<id>\d+))"),
        UrlRule(r"birds\.example/(?!profile\.php$)(?P<handle>[a-z0-9_.]{1,15})"),
    )
    handle_pattern = r"[a-z0-9_]{1,15}"

    def profile_url(self, handle, host):
        return f"https://birds.example/{handle}"


class Herds(Birds):
    """Many servers, each with names of its own."""

    name = "herds"
    title = "Herds"
    base_url = "https://{host}"
    urls = (UrlRule(r"(?P<host>[a-z0-9.-]+)/@(?P<handle>\w+)"),)
    handle_pattern = r"\w+"

    def profile_url(self, handle, host):
        return f"https://{host}/@{handle}"


class Clips(Birds):
    """Addresses that look like those of Herds; a channel's address carries its id."""

    name = "clips"
    title = "Clips"
    urls = (
        UrlRule(r"clips\.example/channel/(?P<handle>(?P<id>UC\w+))"),
        UrlRule(r"clips\.example/@(?P<handle>\w+)"),
    )
    handle_pattern = r"\w+"

    def profile_url(self, handle, host):
        return f"https://clips.example/{'channel/' if handle.startswith('UC') else '@'}{handle}"


# The many servers come first on purpose: their rule takes any host, and must have the last word nevertheless.
PLATFORMS = {"herds": Herds(), "birds": Birds(), "clips": Clips()}


@pytest.mark.parametrize(
    "url",
    [
        "https://birds.example/Wren",
        "http://birds.example/Wren",
        "birds.example/Wren",
        "//birds.example/Wren",
        "  https://birds.example/Wren  ",
        "https://www.birds.example/Wren",
        "https://m.birds.example/Wren",
        "https://mobile.birds.example/Wren",
        "https://BIRDS.example/Wren",
        "https://birds.example:443/Wren",
        "https://birds.example./Wren",
        "https://birds.example/Wren/",
        "https://birds.example//Wren//",
        "https://birds.example/Wren?lang=en&id=7",
        "https://birds.example/Wren#top",
        "https://birds.example/%57ren",
    ],
)
def test_an_address_means_the_same_account_in_every_spelling(url):
    named = addresses.of_url(url, PLATFORMS)
    assert (named.platform, named.handle, named.host, named.external_id) == ("birds", "Wren", "", None)
    assert named.url == "https://birds.example/Wren"


def test_an_id_in_the_query_is_kept_and_everything_else_dropped():
    named = addresses.of_url("https://www.birds.example/profile.php?ref=mail&id=1009&x=1", PLATFORMS)
    assert (named.handle, named.external_id) == ("1009", "1009")
    assert named.url == "https://birds.example/profile.php?id=1009"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "Wren",
        "https://",
        "javascript:alert(1)",
        "ftp://birds.example/Wren",
        "https://birds.example:8443/Wren",
        "https://birds.example:port/Wren",
        "https://birds.example@evil.example/Wren",
        "https://[birds/Wren",
        "https://birds.example/a/b/c",
        "https://birds.example/profile.php",
        "https://birds.example/Wr%00en",
        "https://birds.example/Wr%ffen",
        "https://elsewhere.example/Wren",
    ],
)
def test_what_is_no_account_s_address_is_said_to_be_unclear(url):
    with pytest.raises(Unclear):
        addresses.of_url(url, PLATFORMS)


def test_a_refused_address_gives_its_platform_s_reason():
    with pytest.raises(Unclear, match="a job offer"):
        addresses.of_url("https://birds.example/jobs/7", PLATFORMS)


def test_a_platform_of_many_servers_has_the_last_word():
    assert addresses.of_url("https://clips.example/@reel", PLATFORMS).platform == "clips"
    assert addresses.of_url("https://herd.example/@ox", PLATFORMS).platform == "herds"


def test_a_server_whose_name_begins_like_a_mobile_site_keeps_its_name():
    assert addresses.of_url("https://m.herd.example/@ox", PLATFORMS).host == "m.herd.example"
    assert addresses.of_url("https://www.Herd.example/@ox", PLATFORMS).host == "herd.example"


@pytest.mark.parametrize("handle", ["Wren", "@Wren", " @Wren "])
def test_a_handle_is_read_with_and_without_the_at_sign(handle):
    named = addresses.of_handle(PLATFORMS["birds"], handle)
    assert (named.name, named.url) == ("birds/Wren", "https://birds.example/Wren")


@pytest.mark.parametrize("handle", ["ox@herd.example", "@ox@Herd.Example"])
def test_a_handle_on_many_servers_names_its_server(handle):
    assert addresses.of_handle(PLATFORMS["herds"], handle).name == "herds/ox@herd.example"


@pytest.mark.parametrize("handle", ["ox", "ox@", "ox@herd", "ox@her d.example"])
def test_a_handle_without_a_server_is_asked_for_one(handle):
    with pytest.raises(Unclear, match="name@server"):
        addresses.of_handle(PLATFORMS["herds"], handle)


@pytest.mark.parametrize("handle", ["", "@", "two words", "much_too_long_a_name", "wren@herd.example", "wren/tail"])
def test_a_handle_that_the_platform_does_not_give_out_is_unclear(handle):
    with pytest.raises(Unclear):
        addresses.of_handle(PLATFORMS["birds"], handle)


@pytest.mark.parametrize("text", ["x" * 10_000, "https://" + "x" * 10_000, "birds/" + "!" * 10_000])
def test_of_a_line_of_garbage_the_message_quotes_the_beginning_only(text):
    with pytest.raises(Unclear) as caught:
        addresses.of_text(text, PLATFORMS)
    assert text[6:70] in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_handle_that_is_an_id_is_known_as_one():
    assert addresses.of_handle(PLATFORMS["clips"], "UC123").external_id == "UC123"
    assert addresses.of_handle(PLATFORMS["clips"], "reel").external_id is None


@pytest.mark.parametrize("text", ["birds/Wren", "Birds/@Wren", "birds.example/Wren", "https://birds.example/Wren"])
def test_a_name_and_an_address_mean_the_same(text):
    assert addresses.of_text(text, PLATFORMS).name == "birds/Wren"


@pytest.mark.parametrize("title", ["birds", "Birds", "Little Birds", "LITTLE  BIRDS Español", "little-birds"])
def test_a_platform_is_found_by_name_and_title_in_any_spelling(title):
    assert addresses.platform_called(title, PLATFORMS).name == "birds"


@pytest.mark.parametrize("title", ["", "Big Birds", "bird", "¿?"])
def test_an_unknown_platform_is_answered_with_the_known_ones(title):
    with pytest.raises(Unclear, match="known are Herds, Little Birds, Clips"):
        addresses.platform_called(title, PLATFORMS)


def test_the_likeliest_name_is_offered_first_and_nothing_far_fetched():
    names = ["birds/wren", "birds/wrenhouse", "clips/otter", "herds/ox@herd.example"]
    assert addresses.nearest("birds/wern", names)[0] == "birds/wren"
    assert addresses.nearest("qqqq", names) == []
