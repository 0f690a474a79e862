"""Truth Social: Mastodon's shapes on one server, without a published API.

It often answers programs with a bot check: then its accounts are blocked and say so. Nothing here imitates a browser.
"""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from pipeline.platforms import Call, Client, UrlRule
from pipeline.records import Account, Kind, Missing, Page, Profile
from workers.platforms.mastodon import Mastodon


class TruthSocial(Mastodon):
    name = "truthsocial"
    title = "Truth Social"
    base_url = "https://truthsocial.com"
    # No limit is published; the headers of its answers speak of 300, as Mastodon's.
    # All kinds are counted together: 300 in 5 minutes.
    calls: Mapping[Kind, Call] = {
        "resolve": Call(limit="60/5m"),
        "profiles": Call(limit="120/5m"),
        "posts": Call(limit="120/5m"),
    }
    uses = ("TRUTHSOCIAL_ACCESS_TOKEN",)
    handle_pattern = r"\w{1,30}"
    urls = (UrlRule(rf"truthsocial\.com/@(?P<handle>{handle_pattern})"),)
    posts_per_page = 20

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://truthsocial.com/@{handle}"

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        return self._get(accounts[0], http, f"/{quote(self.known_id(accounts[0]), safe='')}", [])

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        return self.parse_resolve(page, accounts)

    def login(self, host: str, http: Client) -> Mapping[str, str]:
        token = http.credential("TRUTHSOCIAL_ACCESS_TOKEN")
        return {"Authorization": f"Bearer {token}"} if token else {}

    def refusal(self, host: str) -> str:
        return "answers only with a login: set TRUTHSOCIAL_ACCESS_TOKEN"
