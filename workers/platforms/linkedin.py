"""LinkedIn: followers of organisations' pages, one in a call. Source: https://learn.microsoft.com/linkedin/marketing

The number of followers goes by the page's id, which is looked up once by its name. A reading by id tells no name, so
a renamed page keeps the one it was found by.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipeline.errors import BadPage, NotAllowed, QuotaSpent, ScrapeError
from pipeline.platforms import Call, Client, Meanings, NotOffered, UrlRule, midnight_after
from pipeline.records import Account, Kind, Missing, Page, Profile
from workers.node import Node
from workers.platforms.base import Base, gone

_HOST = r"(?:[a-z]{2}\.)?linkedin\.com"
_VERSION = "202606"
_TOKEN_IS = {65_600: "isn't valid", 65_601: "was revoked", 65_602: "has expired"}
_BAD_VERSIONS = {"NONEXISTENT_VERSION", "VERSION_MISSING"}
_CLOSED = "closed to the member of LINKEDIN_ACCESS_TOKEN: it may have to be an administrator of the page"


class LinkedIn(Base):
    name = "linkedin"
    title = "LinkedIn"
    base_url = "https://api.linkedin.com/rest"
    meanings = Meanings(
        followers="followers of the page",
    )
    not_offered = NotOffered(
        following="an organisation follows nobody",
        posts="only an administrator of the page may read them",
        engagement="only an administrator of the page may read them",
    )
    # Its limits are per day and aren't published.
    calls: Mapping[Kind, Call] = {"resolve": Call(limit="2/s", requests=2), "profiles": Call(limit="2/s")}
    needs = ("LINKEDIN_ACCESS_TOKEN",)
    uses = ("LINKEDIN_VERSION",)
    handle_pattern = r"[\w-]{1,100}"
    urls = (
        UrlRule(
            rf"{_HOST}/(?:in|pub)/.*", refuse="a person's profile: LinkedIn tells the followers of organisations only"
        ),
        UrlRule(rf"{_HOST}/(?:company|school|showcase)/(?P<handle>(?P<id>\d+)|{handle_pattern})"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.linkedin.com/company/{handle}/"

    def headers(self, http: Client) -> Mapping[str, str]:
        return {
            "Authorization": f"Bearer {http.credential('LINKEDIN_ACCESS_TOKEN')}",
            "LinkedIn-Version": http.credential("LINKEDIN_VERSION") or _VERSION,
            "X-Restli-Protocol-Version": "2.0.0",
        }

    def explain(self, page: Page) -> ScrapeError | None:
        error = Node(self.name, page.body)
        if page.status == 401 and (fault := _TOKEN_IS.get(error.count("serviceErrorCode") or 0)):
            return NotAllowed(self.name, f"LINKEDIN_ACCESS_TOKEN {fault}")
        if page.status == 426 or (page.status == 400 and error.text("code") in _BAD_VERSIONS):
            return NotAllowed(self.name, "this version of the API has ended: set a newer LINKEDIN_VERSION (YYYYMM)")
        if page.status == 429 and "retry-after" not in page.headers:
            resets_at = midnight_after(page.fetched_at, "UTC")
            return QuotaSpent(self.name, "the day's limit is reached", retry_at=resets_at)
        if page.status == 404 and "virtual resource" in (error.text("message") or ""):
            return BadPage(self.name, "status 404")  # there is no such call
        return None

    def fetch_resolve(self, accounts: Sequence[Account], http: Client) -> Page:
        """Look up the id behind a name, then ask for its followers; the page holds both answers, by name."""
        (account,) = self.possible(accounts)
        named = http.get("/organizations", [("q", "vanityName"), ("vanityName", account.handle)])
        found = Node(self.name, named.body).need_nodes("elements")
        if not found:
            return _both(named, named.body, None)
        sizes = self._sizes(found[0].need_text("id"), http)
        return _both(sizes, named.body, sizes.body)

    def parse_resolve(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        both = Node(self.name, page.body)
        found = both.node("organizations").need_nodes("elements")

        def read(account: Account) -> Profile | Missing:
            if not found:
                return gone(account, "no page has this name")
            return self._refused(page, account) or Profile(
                account_key=account.account_key,
                external_id=found[0].need_text("id"),
                handle=found[0].text("vanityName") or account.handle,
                followers=both.node("networkSizes").need_count("firstDegreeSize"),
                display_name=found[0].text("localizedName"),
                bio=found[0].text("localizedDescription"),
            )

        return self.one_by_one(accounts, read)

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        return self._sizes(self.known_id(accounts[0]), http)

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        size = Node(self.name, page.body)

        def read(account: Account) -> Profile | Missing:
            return self._refused(page, account) or Profile(
                account_key=account.account_key,
                external_id=self.known_id(account),
                handle=account.handle,
                followers=size.need_count("firstDegreeSize"),
            )

        return self.one_by_one(accounts, read)

    def _sizes(self, organization: str, http: Client) -> Page:
        urn = quote(f"urn:li:organization:{organization}", safe="")
        return http.get(f"/networkSizes/{urn}", [("edgeType", "COMPANY_FOLLOWED_BY_MEMBER")], expect=(200, 403))

    def _refused(self, page: Page, account: Account) -> Missing | None:
        """A refusal blocks the page, not the platform: others may be open to the same member."""
        if page.status != 403:
            return None
        return Missing(account_key=account.account_key, result="blocked", reason=_CLOSED)


def _both(page: Page, organizations: Any, sizes: Any) -> Page:
    body = {"organizations": organizations, "networkSizes": sizes}
    return Page(page.status, page.headers, body, page.fetched_at)
