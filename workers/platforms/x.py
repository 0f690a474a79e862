"""X: counts of up to 100 users in one call, and their posts. Source: https://docs.x.com/x-api

Reading is paid for by user and by post, so reposts (somebody else's engagement) aren't asked for. The names of fields
are being changed from tweet to post and from retweet to repost: both are read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import quote

from pipeline.errors import Gone, NotAllowed, QuotaSpent, ScrapeError
from pipeline.platforms import Call, Client, Meanings, UrlRule, midnight_after
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Index, Node
from workers.platforms.base import Base, PostType, gone, newest_first, total

_USER_FIELDS = "name,username,description,profile_image_url,public_metrics,verified"
_POST_FIELDS = "created_at,public_metrics,referenced_tweets"
_NEW_POST_FIELDS = "created_at,public_metrics,referenced_posts"
_REPOSTS = {"retweeted", "reposted"}
_OWN_PAGES = "compose|explore|hashtag|home|i|intent|login|messages|notifications|privacy|search|settings|share|tos"


class X(Base):
    name = "x"
    title = "X"
    base_url = "https://api.x.com"
    meanings = Meanings(
        posts="posts, replies and reposts, as the profile counts them",
        engagement="likes, replies, and reposts with quotes, of what it wrote itself",
    )
    calls: Mapping[Kind, Call] = {
        "resolve": Call(limit="300/15m", batch=100, price_usd=0.010),
        "profiles": Call(limit="300/15m", batch=100, price_usd=0.010),
        "posts": Call(limit="10000/15m", price_usd=0.50),
    }
    needs = ("X_BEARER_TOKEN",)
    handle_pattern = r"[A-Za-z0-9_]{1,15}"
    urls = (
        UrlRule(rf"(?:x|twitter)\.com/(?:{_OWN_PAGES})(?:/.*)?", refuse="a page of X itself, not an account"),
        UrlRule(rf"(?:x|twitter)\.com/@?(?P<handle>{handle_pattern})"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://x.com/{handle}"

    def headers(self, http: Client) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {http.credential('X_BEARER_TOKEN')}"}

    def explain(self, page: Page) -> ScrapeError | None:
        problem = (Node(self.name, page.body).text("type") or "").rpartition("/")[2]
        if problem == "usage-capped":
            resets_at = midnight_after(page.fetched_at, "UTC")
            return QuotaSpent(self.name, "the X project's usage cap is reached", retry_at=resets_at)
        if page.status == 404 and problem == "resource-not-found":
            return Gone(self.name, "not found")
        if page.status == 402:
            return NotAllowed(self.name, "the X project has no credits left")
        if page.status == 403 and problem in ("client-forbidden", "client-not-enrolled"):
            return NotAllowed(self.name, "the X project's access doesn't include this call")
        if page.status == 403 and problem == "not-authorized-for-resource":
            return Gone(self.name, "its posts are protected")
        return None

    def fetch_resolve(self, accounts: Sequence[Account], http: Client) -> Page:
        """Ask by name. A name that can't exist would be a 400 for all of them, so it isn't asked for."""
        names = ",".join(account.handle for account in self.possible(accounts))
        return self.get_batch(http, "/2/users/by", [("usernames", names), ("user.fields", _USER_FIELDS)])

    def parse_resolve(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        return self._parse_users(page, accounts, key="username", key_of=lambda account: account.handle)

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        ids = ",".join(map(self.known_id, accounts))
        return self.get_batch(http, "/2/users", [("ids", ids), ("user.fields", _USER_FIELDS)])

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        return self._parse_users(page, accounts, key="id", key_of=self.known_id)

    def _parse_users(
        self, page: Page, accounts: Sequence[Account], *, key: str, key_of: Callable[[Account], str]
    ) -> Iterator[Profile | Missing]:
        """Find each account among the users, else among the problems. Neither keeps the order asked for."""
        body = Node(self.name, page.body)
        users = Index(body.nodes("data"), key, ignore_case=True)
        problems = Index(body.nodes("errors"), "value", ignore_case=True)

        def read(account: Account) -> Profile | Missing:
            if not self.is_possible(account):
                return gone(account, self.impossible)
            if user := users.get(key_of(account)):
                return self._profile(account, user)
            if problem := problems.get(key_of(account)):
                return _missing(account, problem)
            return Missing(account_key=account.account_key, result="failed", reason="left out of X's answer")

        return self.one_by_one(accounts, read)

    def _profile(self, account: Account, user: Node) -> Profile:
        metrics = user.node("public_metrics")
        posts = "post_count" if metrics.has("post_count") else "tweet_count"
        return Profile(
            account_key=account.account_key,
            external_id=user.need_text("id"),
            handle=user.need_text("username"),
            followers=metrics.need_count("followers_count"),
            following=metrics.count("following_count"),
            posts=metrics.count(posts),
            display_name=user.text("name"),
            bio=user.text("description"),
            avatar_url=user.text("profile_image_url"),
            verified=user.flag("verified"),
        )

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        """Ask for 100 posts; once more by the new names when X no longer takes the old ones (a 400)."""
        path = f"/2/users/{quote(self.known_id(account), safe='')}/tweets"
        params = [("max_results", "100"), ("exclude", "retweets")]
        if cursor:
            params.append(("pagination_token", cursor))
        page = http.get(path, [*params, ("tweet.fields", _POST_FIELDS)], expect=(200, 400))
        return page if page.status == 200 else http.get(path, [*params, ("post.fields", _NEW_POST_FIELDS)])

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        body = Node(self.name, page.body)
        problems = body.nodes("errors")
        # Problems beside posts are about posts that these refer to.
        if not body.has("data") and problems:
            return _missing(account, problems[0])
        meta = body.node("meta")
        meta.need_count("result_count")
        found = [self._post(account, post) for post in body.nodes("data") if not _kinds(post) & _REPOSTS]
        return Posts(account_key=account.account_key, posts=newest_first(found), cursor=meta.text("next_token"))

    def _post(self, account: Account, post: Node) -> Post:
        metrics = post.node("public_metrics")
        reposts = "repost_count" if metrics.has("repost_count") else "retweet_count"
        post_id = post.need_text("id")
        return Post(
            post_id=post_id,
            url=f"https://x.com/{account.handle}/status/{post_id}",
            published_at=post.time("created_at"),
            post_type=_post_type(post),
            text=post.text("text") or "",
            likes=metrics.count("like_count"),
            comments=metrics.count("reply_count"),
            shares=total(metrics.count(reposts), metrics.count("quote_count")),
            views=metrics.count("impression_count"),
        )


def _kinds(post: Node) -> set[str | None]:
    """Return how a post refers to others: replied_to, quoted, retweeted."""
    return {one.text("type") for one in (*post.nodes("referenced_tweets"), *post.nodes("referenced_posts"))}


def _post_type(post: Node) -> PostType:
    kinds = _kinds(post)
    if "replied_to" in kinds:
        return "reply"
    return "quote" if "quoted" in kinds else "post"


def _missing(account: Account, problem: Node) -> Missing:
    """Say what a problem inside a 200 means. The type of an unknown and a suspended user is the same."""
    if "suspended" in (problem.text("detail") or "").lower():
        return gone(account, "suspended")
    match (problem.text("type") or "").rpartition("/")[2]:
        case "resource-not-found":
            return gone(account, "not found")
        case "not-authorized-for-resource":
            return gone(account, "its posts are protected")
        case _:
            reason = "X reports a problem that it doesn't explain"
            return Missing(account_key=account.account_key, result="failed", reason=reason)
