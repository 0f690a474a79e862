"""How Reddit is asked. Its answers stand among the recorded ones."""

from base64 import b64encode

import pytest

from pipeline import addresses
from pipeline.errors import Gone
from pipeline.platforms import Token
from pipeline.records import Account
from tests.unit.workers.platforms.notebook import Notebook
from workers.platforms.reddit import Reddit

REDDIT = Reddit()
KEYS = {"REDDIT_CLIENT_ID": "id", "REDDIT_CLIENT_SECRET": "secret"}


def listed(text: str) -> Account:
    """Return an account as the list has it that was named so."""
    named = addresses.of_text(text, {"reddit": REDDIT})
    return Account(1, "reddit", named.handle, named.url)


def test_a_token_is_asked_for_with_the_application_s_id_and_secret() -> None:
    http = Notebook({"access_token": "river", "expires_in": 86400}, **KEYS, REDDIT_USER_AGENT="web:rivers:1")
    assert REDDIT.fetch_token(http.post, http) == Token("river", 86400)
    (asked,) = http.asked
    basic = b64encode(b"id:secret").decode()
    assert (asked.path, asked.form) == ("", {"grant_type": "client_credentials"})
    assert asked.headers == {"Authorization": f"Basic {basic}", "User-Agent": "web:rivers:1"}
    assert REDDIT.token_url == "https://www.reddit.com/api/v1/access_token"


def test_a_token_that_doesn_t_say_how_long_it_lasts_is_renewed_in_an_hour() -> None:
    http = Notebook({"access_token": "river"}, **KEYS)
    assert REDDIT.fetch_token(http.post, http) == Token("river", 3600)


def test_the_application_names_itself_where_a_name_is_set() -> None:
    assert REDDIT.headers(Notebook(**KEYS)) == {"Authorization": "Bearer token"}
    named = REDDIT.headers(Notebook(**KEYS, REDDIT_USER_AGENT="web:rivers:1"))
    assert named == {"Authorization": "Bearer token", "User-Agent": "web:rivers:1"}


@pytest.mark.parametrize(
    ("text", "handle", "about", "posts"),
    [
        ("reddit/rivers", "rivers", "/user/rivers/about", "/user/rivers/submitted"),
        ("https://www.reddit.com/u/rivers/", "rivers", "/user/rivers/about", "/user/rivers/submitted"),
        ("reddit/r/rivers", "r/rivers", "/r/rivers/about", "/r/rivers/new"),
        ("https://old.reddit.com/r/rivers", "r/rivers", "/r/rivers/about", "/r/rivers/new"),
        ("reddit.com/R/Rivers", "R/Rivers", "/r/Rivers/about", "/r/Rivers/new"),
    ],
)
def test_a_user_and_a_community_of_one_name_are_two_accounts(text: str, handle: str, about: str, posts: str) -> None:
    account, http = listed(text), Notebook({}, {})
    REDDIT.fetch_profiles([account], http)
    REDDIT.fetch_posts(account, http, None)
    assert account.handle == handle
    assert [asked.path for asked in http.asked] == [about, posts]


def test_the_address_of_an_account_is_that_of_its_kind() -> None:
    assert REDDIT.profile_url("rivers", "") == "https://www.reddit.com/user/rivers"
    assert REDDIT.profile_url("r/rivers", "") == "https://www.reddit.com/r/rivers"


def test_a_name_that_can_t_exist_is_not_asked_for() -> None:
    http = Notebook()
    for ask in (lambda a: REDDIT.fetch_profiles([a], http), lambda a: REDDIT.fetch_posts(a, http, None)):
        with pytest.raises(Gone, match="not a handle that Reddit gives out"):
            ask(Account(1, "reddit", "../admin", "https://www.reddit.com/user/x"))
    assert http.asked == []
