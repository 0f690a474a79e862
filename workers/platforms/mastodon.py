"""Mastodon and what speaks its API: counts and posts, asked of the account's own server.

Source: https://docs.joinmastodon.org/methods/accounts/
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from urllib.parse import parse_qs, quote, urlsplit

from pipeline.platforms import Call, Client, Meanings, UrlRule
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Index, Node
from workers.platforms.base import DOMAIN, Base, PostType, gone, newest_first

_HANDLE = r"\w(?:[\w.-]*\w)?"
# Addresses of other places look the same (tiktok.com/@name); a misspelt one there is no Mastodon account.
_ELSEWHERE = (
    r"(?!(?:[^/]+\.)?(?:bsky\.app|threads\.(?:com|net)|"
    r"(?:facebook|flickr|instagram|linkedin|medium|reddit|tiktok|truthsocial|twitter|x|youtube)\.com)/)"
)
_REFUSED = (401, 403)


class Mastodon(Base):
    """One account's server answers for it, so a refusal or a missing batch call is that server's alone.

    A token is good on its own server only and is sent to no other: `MASTODON_ACCESS_TOKEN` holds `server=token`,
    several with commas between.
    """

    name = "mastodon"
    title = "Mastodon"
    base_url = "https://{host}"
    meanings = Meanings(
        followers="followers, as the account's own server counts them; unknown where it hides them",
        posts="posts, replies and boosts, as the server counts them",
        engagement="favourites, replies and boosts, as the account's own server knows them",
    )
    # A server counts all kinds together: 300 in 5 minutes.
    post_lacks = ("views",)
    calls: Mapping[Kind, Call] = {
        "resolve": Call(limit="60/5m"),
        "profiles": Call(limit="60/5m", batch=40),
        "posts": Call(limit="180/5m"),
    }
    uses: tuple[str, ...] = ("MASTODON_ACCESS_TOKEN",)
    handle_pattern = _HANDLE
    urls: tuple[UrlRule, ...] = (
        UrlRule(rf"{_ELSEWHERE}{DOMAIN}/@(?P<handle>{_HANDLE})@(?P<host>{DOMAIN})"),
        UrlRule(rf"{_ELSEWHERE}(?P<host>{DOMAIN})/@(?P<handle>{_HANDLE})"),
    )
    posts_per_page = 40

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://{host}/@{handle}"

    def fetch_resolve(self, accounts: Sequence[Account], http: Client) -> Page:
        return self._get(accounts[0], http, "/lookup", [("acct", accounts[0].handle)])

    def parse_resolve(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        found = Node(self.name, page.body)
        return self.one_by_one(
            accounts, lambda account: self._refused(page, account) or self._profile(account, found)
        )

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        """Ask for up to 40 accounts of one server in one call."""
        ids = [("id[]", self.known_id(account)) for account in accounts]
        return self._get(accounts[0], http, "", ids, expect=(200, 404))

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        """An id that the server doesn't know is left out of its answer."""
        profiles = Index(self._listed(page, "accounts") if page.status == 200 else [], "id")

        def read(account: Account) -> Profile | Missing:
            if refused := self._refused(page, account):
                return refused
            if page.status == 404:
                reason = "its server can't be asked by ids: that needs Mastodon 4.3"
                return Missing(account_key=account.account_key, result="failed", reason=reason)
            profile = profiles.get(self.known_id(account))
            return self._profile(account, profile) if profile else gone(account, "not found")

        return self.one_by_one(accounts, read)

    def _profile(self, account: Account, found: Node) -> Profile | Missing:
        if found.flag("suspended"):  # its counts are zeroed
            return gone(account, "suspended")
        external_id = found.need_text("id")
        if account.external_id not in (None, external_id):
            raise found.bad("id")  # somebody else's numbers
        followers = found.need_count("followers_count")
        return Profile(
            account_key=account.account_key,
            external_id=external_id,
            handle=found.need_text("username"),
            followers=followers,
            following=found.count("following_count"),
            posts=found.count("statuses_count"),
            precision="hidden" if followers is None else "exact",
            display_name=found.text("display_name"),
            bio=_plain(found.text("note")),
            avatar_url=found.text("avatar"),
            verified=found.flag("verified"),
        )

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        """Ask for a page of posts without boosts, whose engagement is somebody else's."""
        params = [("limit", str(self.posts_per_page)), ("exclude_reblogs", "true")]
        path = f"/{quote(self.known_id(account), safe='')}/statuses"
        return self._get(account, http, path, [*params, *([("max_id", cursor)] if cursor else [])])

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        if refused := self._refused(page, account):
            return refused
        statuses = self._listed(page, "statuses")
        found = [self._post(account, status) for status in statuses if not status.has("reblog")]
        return Posts(account_key=account.account_key, posts=newest_first(found), cursor=_next_max_id(page))

    def _post(self, account: Account, status: Node) -> Post:
        post_id = status.need_text("id")
        return Post(
            post_id=post_id,
            url=status.text("url") or f"{self.profile_url(account.handle, account.host)}/{post_id}",
            published_at=status.time("created_at"),
            post_type=_post_type(status),
            text=_plain(status.text("content")) or "",
            likes=status.count("favourites_count"),
            comments=status.count("replies_count"),
            shares=status.count("reblogs_count"),
        )

    def _listed(self, page: Page, name: str) -> Sequence[Node]:
        """Return the elements of a page that is a bare list; `name` is what its path is called in an error."""
        return Node(self.name, {name: page.body}).need_nodes(name)

    def _get(
        self,
        account: Account,
        http: Client,
        path: str,
        params: Sequence[tuple[str, str]],
        *,
        expect: Sequence[int] = (200,),
    ) -> Page:
        return http.get(
            f"/api/v1/accounts{path}",
            params,
            host=account.host,
            headers=self.login(account.host, http),
            expect=(*expect, *_REFUSED),
        )

    def login(self, host: str, http: Client) -> Mapping[str, str]:
        """Return the header that logs in to a server, none where there is no token for it."""
        for entry in (http.credential("MASTODON_ACCESS_TOKEN") or "").split(","):
            server, _, token = entry.strip().partition("=")
            if token and server.lower() == host:
                return {"Authorization": f"Bearer {token}"}
        return {}

    def refusal(self, host: str) -> str:
        return f"{host} answers only with a login: add {host}=token to MASTODON_ACCESS_TOKEN"

    def _refused(self, page: Page, account: Account) -> Missing | None:
        """A refusal blocks the account, not the platform: the other servers know nothing of it."""
        if page.status not in _REFUSED:
            return None
        return Missing(account_key=account.account_key, result="blocked", reason=self.refusal(account.host))


def _next_max_id(page: Page) -> str | None:
    """Return where the next page begins, as the Link header says; None on the last one."""
    match = re.search(r'<([^>]*)>\s*;\s*rel="?next\b', page.headers.get("link", ""))
    found = parse_qs(urlsplit(match[1]).query).get("max_id") if match else None
    return found[0] if found else None


def _post_type(status: Node) -> PostType:
    if status.has("in_reply_to_id"):
        return "reply"
    if status.has("quote"):
        return "quote"
    media = {attached.text("type") for attached in status.nodes("media_attachments")}
    if media & {"video", "gifv"}:
        return "video"
    return "image" if "image" in media else "post"


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "br" or (tag == "p" and self.parts):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def _plain(markup: str | None) -> str | None:
    """Return the text of a piece of HTML, with a new line per paragraph."""
    if markup is None:
        return None
    text = _Text()
    text.feed(markup)
    text.close()
    return "".join(text.parts)
