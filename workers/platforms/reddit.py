"""Reddit: users and communities, one in a call, and their posts. Source: https://www.reddit.com/dev/api

A user's handle is its name, a community's is written as Reddit does, `r/name`: both may have the same name. Names are
for good. A user's followers are the subscribers of its profile; the `verified` of Reddit is about an e-mail address,
so it isn't read.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import quote, urlsplit

from pipeline.errors import NotAllowed
from pipeline.platforms import Call, Client, Meanings, NotOffered, Token, UrlRule
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Node
from workers.platforms.base import Base, PostType, gone, newest_first
from workers.platforms.oauth import ANSWERS, GRANT, token_of

_SITE = "https://www.reddit.com"
_HOST = r"(?:(?:new|old)\.)?reddit\.com"
_NAME = r"[A-Za-z0-9_-]{2,21}"
_USER, _COMMUNITY, _LINK = "t2", "t5", "t3"
# An unknown community redirects to a search for its name.
_TOLD = (200, 302, 403, 404)
_GONE = {"private": "private", "banned": "banned"}
_CLOSED = {
    "quarantined": "quarantined: Reddit shows it only to people who have agreed to see it",
    "gold_only": "open to Reddit Premium members only",
}
_POST_TYPES: Mapping[str, PostType] = {"image": "image", "hosted:video": "video", "rich:video": "video"}
# What stands where an author or a moderator took a text away.
_NO_TEXT = ("[deleted]", "[removed]")


class Reddit(Base):
    name = "reddit"
    title = "Reddit"
    base_url = "https://oauth.reddit.com"
    meanings = Meanings(
        followers="members of a community, or subscribers of a user's profile; unknown for users without one",
        engagement="the score (up votes less down votes, blurred by Reddit), comments and crossposts; the score is unknown while a community hides it",
    )
    not_offered = NotOffered(following="the API doesn't tell it", posts="the API doesn't tell it")
    # All calls share 100 a minute.
    post_lacks = ("views",)
    calls: Mapping[Kind, Call] = {"profiles": Call(limit="50/m"), "posts": Call(limit="50/m")}
    needs = ("REDDIT_CLIENT_ID", "REDDIT_CLIENT_SECRET")
    uses = ("REDDIT_USER_AGENT",)
    token_url = f"{_SITE}/api/v1/access_token"
    handle_pattern = rf"(?:r/)?{_NAME}"
    urls = (
        UrlRule(rf"{_HOST}/(?:user|u)/(?P<handle>{_NAME})"),
        UrlRule(rf"{_HOST}/(?P<handle>r/{_NAME})"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"{_SITE}/{handle}" if "/" in handle else f"{_SITE}/user/{handle}"

    def headers(self, http: Client) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {http.token()}", **_named(http)}

    def fetch_token(self, post: Callable[..., Page], http: Client) -> Token:
        pair = ":".join(http.credential(name) or "" for name in self.needs)
        basic = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        return token_of(self, post(form=[GRANT], headers=basic | _named(http), expect=ANSWERS))

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        (account,) = self.possible(accounts)
        return http.get(f"{_path(account)}/about", [("raw_json", "1")], expect=_TOLD)

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        body = Node(self.name, page.body)
        return self.one_by_one(accounts, lambda account: self._refused(page, account) or self._profile(account, body))

    def _profile(self, account: Account, body: Node) -> Profile | Missing:
        kind, found = body.text("kind"), body.node("data")
        if kind == _USER:
            return gone(account, "suspended") if found.flag("is_suspended") else _user(account, found)
        if kind == _COMMUNITY:
            return _community(account, found)
        raise body.bad("kind")

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        (known,) = self.possible([account])
        listing = "new" if _is_community(known) else "submitted"
        params = [("sort", "new"), ("limit", "100"), ("raw_json", "1"), *([("after", cursor)] if cursor else [])]
        return http.get(f"{_path(known)}/{listing}", params, expect=_TOLD)

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        if refused := self._refused(page, account):
            return refused
        listing = Node(self.name, page.body).node("data")
        links = [child for child in listing.need_nodes("children") if child.text("kind") == _LINK]
        found = [_post(link.node("data")) for link in links]
        return Posts(account_key=account.account_key, posts=newest_first(found), cursor=listing.text("after"))

    def _refused(self, page: Page, account: Account) -> Missing | None:
        """Say why an account isn't shown, None where it is. Raises NotAllowed when it isn't about the account."""
        if page.status == 200:
            return None
        reason = Node(self.name, page.body).text("reason") or ""
        if closed := _CLOSED.get(reason):
            return Missing(account_key=account.account_key, result="blocked", reason=closed)
        if page.status == 403 and reason not in _GONE:
            raise NotAllowed(self.name, f"refused (403): check {' and '.join(self.needs)}")
        return gone(account, _GONE.get(reason, "not found"))


def _named(http: Client) -> dict[str, str]:
    """Return how the application names itself: Reddit wants `platform:app:version (by /u/name)`, and slows others."""
    name = http.credential("REDDIT_USER_AGENT")
    return {"User-Agent": name} if name else {}


def _is_community(account: Account) -> bool:
    return urlsplit(account.url).path.lower().startswith("/r/")


def _path(account: Account) -> str:
    name = quote(account.handle.rpartition("/")[2], safe="")
    return f"/r/{name}" if _is_community(account) else f"/user/{name}"


def _id(account: Account, kind: str, found: Node) -> str:
    """Return the id of what was found, with its kind. Raises BadPage when it is another account's."""
    full_name = f"{kind}_{found.need_text('id')}"
    if account.external_id not in (None, full_name):
        raise found.bad("id")
    return full_name


def _user(account: Account, found: Node) -> Profile:
    about = found.node("subreddit")
    return Profile(
        account_key=account.account_key,
        external_id=_id(account, _USER, found),
        handle=found.need_text("name"),
        followers=about.count("subscribers"),  # accounts from before profiles existed have none
        display_name=about.text("title"),
        bio=about.text("public_description"),
        avatar_url=found.text("icon_img"),
    )


def _community(account: Account, found: Node) -> Profile:
    return Profile(
        account_key=account.account_key,
        external_id=_id(account, _COMMUNITY, found),
        handle=f"r/{found.need_text('display_name')}",
        followers=found.need_count("subscribers"),
        display_name=found.text("title"),
        bio=found.text("public_description"),
        avatar_url=found.text("community_icon") or found.text("icon_img"),
    )


def _post(link: Node) -> Post:
    text = link.text("selftext") or ""
    return Post(
        post_id=link.need_text("name"),
        url=_SITE + quote(link.need_text("permalink")),
        published_at=link.epoch("created_utc"),
        post_type=_post_type(link),
        text="\n".join(part for part in (link.text("title"), text) if part and part not in _NO_TEXT),
        likes=None if link.flag("hide_score") else link.count("score"),
        comments=link.count("num_comments"),
        shares=link.count("num_crossposts"),
    )


def _post_type(link: Node) -> PostType:
    if link.has("crosspost_parent"):
        return "quote"
    if link.flag("is_gallery"):
        return "image"
    return _POST_TYPES.get(link.text("post_hint") or "", "video" if link.flag("is_video") else "post")
