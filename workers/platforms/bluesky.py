"""Bluesky: counts of up to 25 accounts in one call, and their posts. Source: https://docs.bsky.app

Handles are domain names; the did stays when they change. Nothing here needs a login.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from pipeline.errors import BadPage, Gone, ScrapeError
from pipeline.platforms import Call, Client, Meanings, UrlRule
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Index, Node
from workers.platforms.base import DOMAIN, Base, PostType, gone, newest_first, total

_DID = r"did:[a-z]+:[\w.:%-]+"
# What an account is called while its domain doesn't point back to it.
_NO_HANDLE = "handle.invalid"
_LEFT_OUT = "not found, suspended or deactivated"
_GONE = {"AccountTakedown": "suspended", "AccountDeactivated": "deactivated"}
_EMBEDS: Mapping[str, PostType] = {
    "app.bsky.embed.record": "quote",
    "app.bsky.embed.recordWithMedia": "quote",
    "app.bsky.embed.images": "image",
    "app.bsky.embed.video": "video",
}


class Bluesky(Base):
    name = "bluesky"
    title = "Bluesky"
    base_url = "https://public.api.bsky.app/xrpc"
    meanings = Meanings(
        posts="posts and replies, as the profile counts them",
        engagement="likes, replies, and reposts with quotes",
    )
    post_lacks = ("views",)
    calls: Mapping[Kind, Call] = {
        "profiles": Call(limit="2/s", batch=25),
        "posts": Call(limit="2/s"),
    }
    handle_pattern = rf"{_DID}|{DOMAIN}"
    urls = (UrlRule(rf"bsky\.app/profile/@?(?P<handle>(?P<id>{_DID})|{DOMAIN})"),)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://bsky.app/profile/{handle}"

    def explain(self, page: Page) -> ScrapeError | None:
        body = Node(self.name, page.body)
        if page.status != 400:
            return None
        if reason := _GONE.get(body.text("error") or ""):
            return Gone(self.name, reason)
        if "not found" in (body.text("message") or "").lower():
            return Gone(self.name, "not found")
        return None

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        """Ask by did where it is known, else by handle. One that can't exist would be a 400 for all of them."""
        known = self.possible(accounts)
        return self.get_batch(http, "/app.bsky.actor.getProfiles", [("actors", _actor(account)) for account in known])

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        """Unknown, suspended and deactivated accounts are left out of the answer, which doesn't say which it is."""
        found = Node(self.name, page.body).need_nodes("profiles")
        by_did, by_handle = Index(found, "did"), Index(found, "handle", ignore_case=True)

        def read(account: Account) -> Profile | Missing:
            if not self.is_possible(account):
                return gone(account, self.impossible)
            profile = by_did.get(account.external_id) if account.external_id else by_handle.get(account.handle)
            return self._profile(account, profile) if profile else gone(account, _LEFT_OUT)

        return self.one_by_one(accounts, read)

    def _profile(self, account: Account, profile: Node) -> Profile:
        handle = profile.need_text("handle")
        return Profile(
            account_key=account.account_key,
            external_id=profile.need_text("did"),
            handle=account.handle if handle == _NO_HANDLE else handle,
            followers=profile.count("followersCount"),
            following=profile.count("followsCount"),
            posts=profile.count("postsCount"),
            display_name=profile.text("displayName"),
            bio=profile.text("description"),
            avatar_url=profile.text("avatar"),
            verified=profile.node("verification").text("verifiedStatus") == "valid",
        )

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        params = [("actor", _actor(account)), ("limit", "100"), ("filter", "posts_with_replies")]
        return http.get("/app.bsky.feed.getAuthorFeed", [*params, *([("cursor", cursor)] if cursor else [])])

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        body = Node(self.name, page.body)
        own = [item.node("post") for item in body.need_nodes("feed") if not item.has("reason")]
        found = [self._post(account, post) for post in own]
        return Posts(account_key=account.account_key, posts=newest_first(found), cursor=body.text("cursor"))

    def _post(self, account: Account, post: Node) -> Post:
        uri, record = post.need_text("uri"), post.node("record")
        return Post(
            post_id=uri,
            url=f"https://bsky.app/profile/{account.handle}/post/{uri.rpartition('/')[2]}",
            published_at=_published_at(post),
            post_type=_post_type(record),
            text=record.text("text") or "",
            likes=post.count("likeCount"),
            comments=post.count("replyCount"),
            shares=total(post.count("repostCount"), post.count("quoteCount")),
        )


def _actor(account: Account) -> str:
    return account.external_id or account.handle.lower()


def _published_at(post: Node) -> datetime:
    """Return the time that Bluesky sorts by: the author's own, which may be anything, but not after it was seen."""
    seen_at = post.time("indexedAt")
    try:
        return min(post.node("record").time("createdAt"), seen_at)
    except BadPage:
        return seen_at


def _post_type(record: Node) -> PostType:
    if record.has("reply"):
        return "reply"
    return _EMBEDS.get(record.node("embed").text("$type") or "", "post")
