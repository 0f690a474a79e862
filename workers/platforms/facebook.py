"""Facebook: counts of up to 50 pages in one call, and their posts.

Source: https://developers.facebook.com/docs/graph-api/reference/page

Pages only: persons' profiles are closed to programs. One that can't be read makes Facebook refuse the whole batch.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qsl, quote, urlencode

from pipeline.errors import BadPage, BatchRefused, NotAllowed, ScrapeError
from pipeline.platforms import Call, Client, Meanings, NotOffered, UrlRule
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Node
from workers.platforms.base import PostType, gone, newest_first
from workers.platforms.graph import Graph, is_missing, lacks_permission

_HOST = r"(?:[a-z]{2}-[a-z]{2}\.|web\.)?(?:facebook|fb)\.com"
_OWN_PAGES = "events|gaming|groups|hashtag|help|login|marketplace|photo|reel|share|sharer|stories|watch"
# Not fan_count: it counts likes of the page, which are others than its followers.
_FIELDS = "id,name,username,followers_count,about,description,picture{url},verification_status"
_POST_FIELDS = (
    "id,message,created_time,permalink_url,status_type,shares,"
    "reactions.limit(0).summary(total_count),comments.limit(0).summary(total_count)"
)
_POST_TYPES: Mapping[str, PostType] = {"added_photos": "image", "added_video": "video"}
# What continues a list, by cursor or by time, in the address that Facebook gives for its next page.
_CONTINUES = ("after", "until", "__paging_token")

_NO_PERMISSION = "the app of FACEBOOK_ACCESS_TOKEN needs the feature Page Public Content Access"
_NO_PROOF = "FACEBOOK_APP_SECRET is missing, or not the secret of FACEBOOK_ACCESS_TOKEN's app"
_MISSING = "not found, not published or closed to FACEBOOK_ACCESS_TOKEN: Facebook doesn't say which"
_PERSON = "a person's profile: only pages can be read"
_IS_PERSON = re.compile(r"users by their username|on node type \(User\)")
_NAMED = re.compile(
    r"do not exist: (.+)|users by their username \((.+)\)|Object with ID '(.+?)'|Page ID (\d+) was migrated"
)
_MOVED = re.compile(r"migrated to page ID (\d+)")


class Facebook(Graph):
    name = "facebook"
    title = "Facebook"
    base_url = "https://graph.facebook.com/v25.0"
    meanings = Meanings(
        followers="followers of the page, not its likes",
        engagement="reactions, comments and shares",
    )
    not_offered = NotOffered(following="the API doesn't tell it", posts="the API doesn't tell it")
    # Its limits grow with the users of the app; nothing published can be kept in advance.
    post_lacks = ("views",)
    calls: Mapping[Kind, Call] = {
        "profiles": Call(limit="2/s", batch=50),
        "posts": Call(limit="2/s"),
    }
    needs = ("FACEBOOK_ACCESS_TOKEN",)
    uses = ("FACEBOOK_APP_SECRET",)
    handle_pattern = r"[A-Za-z0-9.]{1,50}"
    urls = (
        UrlRule(rf"{_HOST}/profile\.php\?id=(?P<handle>(?P<id>\d+))"),
        UrlRule(rf"{_HOST}/(?:p|pages|people)/(?:.*[/-])?(?P<handle>(?P<id>\d+))"),
        UrlRule(rf"{_HOST}/[^/]+-(?P<handle>(?P<id>\d{{6,}}))"),
        UrlRule(rf"{_HOST}/(?:{_OWN_PAGES})(?:/.*)?", refuse="a group, an event or a page of Facebook itself"),
        UrlRule(rf"{_HOST}/(?!(?:{_OWN_PAGES}|p|pages|people|profile\.php)$)(?P<handle>{handle_pattern})"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.facebook.com/{handle}"

    def explain(self, page: Page) -> ScrapeError | None:
        if re.search("app ?secret[_ ]proof", self.error(page).text("message") or "", re.IGNORECASE):
            return NotAllowed(self.name, _NO_PROOF)
        return super().explain(page)

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        """Ask by id where it is known, else by name."""
        names = ",".join(map(_name, self.possible(accounts)))
        return self._get(http, "/", [("ids", names), ("fields", _FIELDS)])

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        """Find each account under the name that it was asked by. A refusal concerns one of them, not all."""
        if error := self._error_of(page):
            return iter(self._refused(page, error, accounts))
        body = page.body if isinstance(page.body, dict) else {}
        found = Node(self.name, {name.lower(): value for name, value in body.items()})

        def read(account: Account) -> Profile | Missing:
            if not self.is_possible(account):
                return gone(account, self.impossible)
            if not found.has(_name(account).lower()):
                reason = "left out of Facebook's answer"
                return Missing(account_key=account.account_key, result="failed", reason=reason)
            return self._profile(account, found.node(_name(account).lower()))

        return self.one_by_one(accounts, read)

    def _refused(self, page: Page, error: Node, accounts: Sequence[Account]) -> Sequence[Missing]:
        """Say what a refusal means for the one account that was asked for. Raises BatchRefused for several."""
        if lacking := _lacking(page, error):
            raise NotAllowed(self.name, lacking)
        reason, asked = self._why(error), self.possible(accounts)
        if len(asked) > 1:
            raise BatchRefused(self.name, reason, bad=_named(error, asked))
        return [gone(account, reason if account in asked else self.impossible) for account in accounts]

    def _profile(self, account: Account, found: Node) -> Profile:
        verification = found.text("verification_status")
        return Profile(
            account_key=account.account_key,
            external_id=found.need_text("id"),
            handle=found.text("username") or account.handle,
            followers=found.count("followers_count"),
            display_name=found.text("name"),
            bio=found.text("about") or found.text("description"),
            avatar_url=found.node("picture").node("data").text("url"),
            verified=verification != "not_verified" if verification else None,
        )

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        params = [("fields", _POST_FIELDS), ("limit", "50"), *parse_qsl(cursor or "")]
        return self._get(http, f"/{quote(_name(account), safe='')}/posts", params)

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        if error := self._error_of(page):
            if lacking := _lacking(page, error):
                # Only the posts are closed: an app with Page Public Metadata Access may go on reading counts.
                return Missing(account_key=account.account_key, result="blocked", reason=lacking)
            return gone(account, self._why(error))
        body = Node(self.name, page.body)
        found = [self._post(post) for post in body.need_nodes("data")]
        return Posts(
            account_key=account.account_key,
            posts=newest_first(found),
            cursor=_cursor(body.node("paging").text("next")),
        )

    def _post(self, post: Node) -> Post:
        post_id = post.need_text("id")
        return Post(
            post_id=post_id,
            url=post.text("permalink_url") or f"https://www.facebook.com/{post_id}",
            published_at=post.time("created_time"),
            post_type=_POST_TYPES.get(post.text("status_type") or "", "post"),
            text=post.text("message") or "",
            likes=post.node("reactions").node("summary").count("total_count"),
            comments=post.node("comments").node("summary").count("total_count"),
            shares=post.node("shares").count("count"),
        )

    def _get(self, http: Client, path: str, params: Sequence[tuple[str, str]]) -> Page:
        """Ask, also for a refusal: which account it is about can only be told with the accounts at hand."""
        secret, token = http.credential("FACEBOOK_APP_SECRET"), http.credential("FACEBOOK_ACCESS_TOKEN")
        proof = [("appsecret_proof", _proof(secret, token))] if secret and token else []
        return http.get(path, [*params, *proof], expect=(200, 400, 403, 404))

    def _error_of(self, page: Page) -> Node | None:
        """Return the error that a page consists of, None for an answer."""
        error = self.error(page)
        if error.has("code"):
            return error
        if page.status == 403:
            raise NotAllowed(self.name, f"refused (403): check {self.needs[0]}")
        if page.status != 200:
            raise BadPage(self.name, f"status {page.status}")
        return None

    def _why(self, error: Node) -> str:
        """Return the reason why an account can't be read. Raises BadPage when the error isn't about one."""
        message = error.text("message") or ""
        if _IS_PERSON.search(message):
            return _PERSON
        if moved := _MOVED.search(message):
            return f"merged into the page {moved[1]}"
        if is_missing(error) or _NAMED.search(message):
            return _MISSING
        raise BadPage(self.name, f"error {error.text('code')}")


def _lacking(page: Page, error: Node) -> str | None:
    """Return what the token would need, None when the error is about something else."""
    if lacks_permission(error):
        return _NO_PERMISSION
    return f"refused (403, error {error.text('code')}): check FACEBOOK_ACCESS_TOKEN" if page.status == 403 else None


def _name(account: Account) -> str:
    return account.external_id or account.handle


def _proof(secret: str, token: str) -> str:
    """Return what shows that we know the app's secret, without telling it."""
    return hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()


def _named(error: Node, accounts: Sequence[Account]) -> list[int]:
    """Return those of the accounts that the error names; a message may name several, with commas between."""
    found = _NAMED.search(error.text("message") or "")
    names = {name.strip(" .").lower() for name in found[found.lastindex or 0].split(",")} if found else set()
    return [account.account_key for account in accounts if _name(account).lower() in names]


def _cursor(next_page: str | None) -> str | None:
    """Return what asks for the next page, as a query: the address that Facebook gives for it holds the token."""
    parts = parse_qsl((next_page or "").partition("?")[2])
    return urlencode([(name, value) for name, value in parts if name in _CONTINUES]) or None
