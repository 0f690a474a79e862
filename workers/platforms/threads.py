"""Threads: followers and posts of public profiles. Source: https://developers.facebook.com/docs/threads/threads-profiles

A profile is looked up by its name, and no id is told: the name stands for it, so a renamed account isn't found. What
others' posts gather isn't told; the likes and views of a profile are those of seven days, so they aren't read.
"""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.errors import Gone, NotAllowed, ScrapeError
from pipeline.platforms import Call, Client, NotOffered, Quota, UrlRule
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Node
from workers.platforms.base import newest_first
from workers.platforms.graph import Graph, is_missing, lacks_permission, media_type

_FIELDS = "username,name,profile_picture_url,biography,is_verified,follower_count"
_POST_FIELDS = "id,text,timestamp,permalink,media_type,is_quote_post"
_REPOST = "REPOST_FACADE"

_NOT_FOUND = "not found by this name: renamed, deleted, private or with fewer than 100 followers"
_NO_PERMISSION = "the app of THREADS_ACCESS_TOKEN needs advanced access to threads_profile_discovery"


class Threads(Graph):
    name = "threads"
    title = "Threads"
    base_url = "https://graph.threads.net/v1.0"
    not_offered = NotOffered(
        following="the API doesn't tell it",
        posts="the API doesn't tell it",
        engagement="the API tells it of one's own posts only",
    )
    post_lacks = ("likes", "comments", "shares", "views")
    calls: Mapping[Kind, Call] = {"profiles": Call(limit="2/s"), "posts": Call(limit="2/s")}
    # A user's lookups within 24 hours.
    quota = Quota(1_000, "UTC")
    needs = ("THREADS_ACCESS_TOKEN",)
    handle_pattern = r"[A-Za-z0-9._]{1,30}"
    urls = (UrlRule(rf"threads\.(?:net|com)/@(?P<handle>{handle_pattern})"),)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.threads.com/@{handle}"

    def explain(self, page: Page) -> ScrapeError | None:
        if common := super().explain(page):
            return common
        error = self.error(page)
        if lacks_permission(error):
            return NotAllowed(self.name, _NO_PERMISSION)
        return Gone(self.name, _NOT_FOUND) if is_missing(error) else None

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        (account,) = self.possible(accounts)
        return http.get("/profile_lookup", [("username", account.handle), ("fields", _FIELDS)])

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        found = Node(self.name, page.body)
        return self.one_by_one(accounts, lambda account: _profile(account, found))

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        (known,) = self.possible([account])
        params = [("username", known.handle), ("fields", _POST_FIELDS), ("limit", "100")]
        return http.get("/profile_posts", [*params, *([("after", cursor)] if cursor else [])])

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        """Leave reposts out: they are somebody else's posts."""
        body = Node(self.name, page.body)
        found = [_post(post) for post in body.need_nodes("data") if post.text("media_type") != _REPOST]
        cursor = body.node("paging").node("cursors").text("after")
        return Posts(account_key=account.account_key, posts=newest_first(found), cursor=cursor)


def _profile(account: Account, found: Node) -> Profile:
    handle = found.need_text("username")
    if account.external_id not in (None, handle.lower()):
        raise found.bad("username")  # somebody else's numbers
    return Profile(
        account_key=account.account_key,
        external_id=handle.lower(),
        handle=handle,
        followers=found.need_count("follower_count"),
        display_name=found.text("name"),
        bio=found.text("biography"),
        avatar_url=found.text("profile_picture_url"),
        verified=found.flag("is_verified"),
    )


def _post(post: Node) -> Post:
    return Post(
        post_id=post.need_text("id"),
        url=post.need_text("permalink"),
        published_at=post.time("timestamp"),
        post_type="quote" if post.flag("is_quote_post") else media_type(post),
        text=post.text("text") or "",
    )
