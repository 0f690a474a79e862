"""Instagram: counts and posts of professional accounts, by business discovery.

Source: https://developers.facebook.com/docs/instagram-platform

One's own professional account looks up another by its name, never by its id. So a renamed account isn't found, and a
name may pass to somebody else: then the id tells.
"""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from pipeline.errors import Gone, NotAllowed, ScrapeError
from pipeline.platforms import Call, Client, Meanings, UrlRule
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Node
from workers.platforms.base import gone, newest_first
from workers.platforms.graph import Graph, is_missing, lacks_permission, media_type

_OWN_PAGES = "accounts|direct|explore|p|reel|reels|stories|tv"
_FIELDS = "id,username,name,biography,profile_picture_url,followers_count,follows_count,media_count"
_POST_FIELDS = "id,caption,media_type,permalink,timestamp,like_count,comments_count,view_count"

_NO_SUCH_USER = 110
_NOT_FOUND = "not found by this name: renamed, deleted, personal or age-restricted"
_TAKEN = "renamed: its name is another account's now, and Instagram finds accounts by name only"
_NO_PERMISSION = "INSTAGRAM_ACCESS_TOKEN needs the permissions instagram_basic, instagram_manage_insights and pages_read_engagement"
_NO_OWN_ACCOUNT = "INSTAGRAM_USER_ID is no professional account that INSTAGRAM_ACCESS_TOKEN may use"


class Instagram(Graph):
    name = "instagram"
    title = "Instagram"
    base_url = "https://graph.facebook.com/v25.0"
    meanings = Meanings(
        posts="posts, reels included",
        engagement="likes and comments; likes are unknown where the owner hides them",
    )
    # Its limit grows with the reach of one's own account; nothing published can be kept in advance.
    post_lacks = ("shares",)
    calls: Mapping[Kind, Call] = {"profiles": Call(limit="2/s"), "posts": Call(limit="2/s")}
    needs = ("INSTAGRAM_ACCESS_TOKEN", "INSTAGRAM_USER_ID")
    handle_pattern = r"[A-Za-z0-9._]{1,30}"
    urls = (
        UrlRule(
            rf"instagram\.com/(?:{_OWN_PAGES})(?:/.*)?", refuse="a post or a page of Instagram itself, not an account"
        ),
        UrlRule(rf"instagram\.com/(?P<handle>{handle_pattern})"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.instagram.com/{handle}/"

    def explain(self, page: Page) -> ScrapeError | None:
        if common := super().explain(page):
            return common
        error = self.error(page)
        if error.count("code") == _NO_SUCH_USER:
            return Gone(self.name, _NOT_FOUND)
        if lacks_permission(error):
            return NotAllowed(self.name, _NO_PERMISSION)
        # The object asked for is one's own account: the other one is only a name in the field.
        if is_missing(error) or "business_discovery" in (error.text("message") or ""):
            return NotAllowed(self.name, _NO_OWN_ACCOUNT)
        return None

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        (account,) = self.possible(accounts)
        return self._discover(account, http, _FIELDS)

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        return self.one_by_one(accounts, lambda account: self._profile(account, self._found(page)))

    def _profile(self, account: Account, found: Node) -> Profile | Missing:
        if _is_another(account, found):
            return gone(account, _TAKEN)
        return Profile(
            account_key=account.account_key,
            external_id=found.need_text("id"),
            handle=found.need_text("username"),
            followers=found.need_count("followers_count"),
            following=found.count("follows_count"),
            posts=found.count("media_count"),
            display_name=found.text("name"),
            bio=found.text("biography"),
            avatar_url=found.text("profile_picture_url"),
        )

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        """Ask for 50 posts. The list is part of the field, and so is the place where it goes on."""
        after = f".after({cursor})" if cursor else ""
        (known,) = self.possible([account])
        return self._discover(known, http, f"id,media_count,media{after}.limit(50){{{_POST_FIELDS}}}")

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        found = self._found(page)
        if _is_another(account, found):
            return gone(account, _TAKEN)
        media = found.node("media")
        # An account without posts has no list of them.
        listed = [] if found.count("media_count") == 0 else media.need_nodes("data")
        return Posts(
            account_key=account.account_key,
            posts=newest_first([_post(post) for post in listed]),
            cursor=media.node("paging").node("cursors").text("after"),
        )

    def _discover(self, account: Account, http: Client, fields: str) -> Page:
        own_id = quote(http.credential("INSTAGRAM_USER_ID") or "", safe="")
        return http.get(f"/{own_id}", [("fields", f"business_discovery.username({account.handle}){{{fields}}}")])

    def _found(self, page: Page) -> Node:
        body = Node(self.name, page.body)
        if not body.has("business_discovery"):
            raise body.bad("business_discovery")
        return body.node("business_discovery")


def _is_another(account: Account, found: Node) -> bool:
    return account.external_id is not None and found.need_text("id") != account.external_id


def _post(post: Node) -> Post:
    return Post(
        post_id=post.need_text("id"),
        url=post.need_text("permalink"),
        published_at=post.time("timestamp"),
        post_type=media_type(post),
        text=post.text("caption") or "",
        likes=post.count("like_count"),  # left out where the owner hides it
        comments=post.count("comments_count"),
        views=post.count("view_count"),
    )
