"""TikTok: one account in a call, and its videos. Source: https://developers.tiktok.com/doc/research-api-get-started

The Research API reads any public account, for researchers that TikTok has approved. The Display API reads none but the
account whose token it is given. Neither tells an id that is the same for everybody: the name stands for it, so a
renamed account isn't found.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pipeline.errors import BadPage, Gone, NotAllowed, PlatformDown, QuotaSpent, RateLimited, ScrapeError
from pipeline.platforms import Call, Client, Meanings, Quota, Token, UrlRule, midnight_after
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Node
from workers.platforms.base import Base, newest_first
from workers.platforms.oauth import ANSWERS, GRANT, token_of
from workers.reset import retry_at

_USER_FIELDS = "display_name,bio_description,avatar_url,is_verified,follower_count,following_count,video_count"
_COUNTS = "like_count,comment_count,share_count,view_count"
_RESEARCH_FIELDS = f"id,create_time,video_description,{_COUNTS}"
_DISPLAY_FIELDS = f"id,create_time,title,video_description,{_COUNTS}"
# The longest span of days that one query may cover, and the day before which there were no videos.
_WINDOW = timedelta(days=30)
_FIRST_DAY = date(2016, 9, 1)

_REFUSED = (
    "the access token isn't valid: check TIKTOK_CLIENT_KEY and TIKTOK_CLIENT_SECRET, or renew TIKTOK_ACCESS_TOKEN"
)
_NO_SCOPE = (
    "a scope isn't granted: the Research API needs research.data.basic, the Display API "
    "user.info.basic, user.info.profile, user.info.stats and video.list"
)


class TikTok(Base):
    name = "tiktok"
    title = "TikTok"
    base_url = "https://open.tiktokapis.com"
    meanings = Meanings(
        posts="public videos",
        engagement="likes, comments and shares of its videos; the Research API may lag by days",
    )
    calls: Mapping[Kind, Call] = {"profiles": Call(limit="2/s"), "posts": Call(limit="2/s")}
    quota = Quota(1_000, "UTC")
    needs = ("TIKTOK_CLIENT_KEY", "TIKTOK_CLIENT_SECRET")
    instead = ("TIKTOK_ACCESS_TOKEN",)
    handle_pattern = r"[A-Za-z0-9_.]{2,24}"
    urls = (UrlRule(rf"tiktok\.com/@(?P<handle>{handle_pattern})"),)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.tiktok.com/@{handle}"

    def headers(self, http: Client) -> Mapping[str, str]:
        token = http.token() if self._is_researcher(http) else http.credential("TIKTOK_ACCESS_TOKEN")
        return {"Authorization": f"Bearer {token}"}

    def _is_researcher(self, http: Client) -> bool:
        """Tell which of the two APIs is read: where there are credentials for both, the one that reads every account."""
        return all(http.credential(name) for name in self.needs)

    def fetch_token(self, post: Callable[..., Page], http: Client) -> Token:
        pair = zip(("client_key", "client_secret"), (http.credential(name) or "" for name in self.needs), strict=True)
        return token_of(self, post("/v2/oauth/token/", form=[*pair, GRANT], expect=ANSWERS))

    def explain(self, page: Page) -> ScrapeError | None:
        """Read the error code, which may stand beside status 200 as well; beside others, an unknown one says nothing."""
        error = Node(self.name, page.body).node("error")
        match error.text("code"):
            case None | "ok":
                return None
            case "daily_quota_limit_exceeded":
                resets_at = midnight_after(page.fetched_at, "UTC")
                return QuotaSpent(self.name, "the day's quota is spent", retry_at=resets_at)
            case "rate_limit_exceeded":
                return RateLimited(self.name, "too many requests", retry_at=retry_at(page.headers, page.fetched_at))
            case "access_token_invalid":
                return NotAllowed(self.name, _REFUSED)
            case "scope_not_authorized" | "scope_permission_missed":
                return NotAllowed(self.name, _NO_SCOPE)
            case "internal_error":
                return PlatformDown(self.name, "reports an error of its own")
            case "invalid_params" if _is_about_nobody(error):
                return Gone(self.name, "not found")
            case "unsupported_path":
                return BadPage(self.name, "status 404")  # there is no such call
        return BadPage(self.name, "error.code") if page.status == 200 else None

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        (account,) = self.possible(accounts)
        if not self._is_researcher(http):
            return self._owner(http)
        return http.post("/v2/research/user/info/", [("fields", _USER_FIELDS)], json={"username": account.handle})

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        data = Node(self.name, page.body).node("data")

        def read(account: Account) -> Profile | Missing:
            if not data.has("user"):
                return _profile(account, data)
            return _not_owner(account, data.node("user")) or _profile(account, data.node("user"))

        return self.one_by_one(accounts, read)

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        (known,) = self.possible([account])
        return self._search(known, http, cursor) if self._is_researcher(http) else self._own_videos(http, cursor)

    def _search(self, account: Account, http: Client, cursor: str | None) -> Page:
        """Ask for the account's videos of a month; the page holds the answer and the month's last day.

        `cursor` is that day, how many of the month's videos were read and the search that they came from.
        """
        last, _, place = (cursor or "").partition(" ")
        end = _day(last) if last else datetime.now(UTC).date()
        query: dict[str, Any] = {
            "query": {"and": [{"operation": "EQ", "field_name": "username", "field_values": [account.handle]}]},
            "start_date": f"{end - _WINDOW:%Y%m%d}",
            "end_date": f"{end:%Y%m%d}",
            "max_count": 100,
        }
        if place:
            read, _, search = place.partition(" ")
            query |= {"cursor": int(read), "search_id": search}
        found = http.post("/v2/research/video/query/", [("fields", _RESEARCH_FIELDS)], json=query)
        body = {"found": found.body, "end_date": query["end_date"]}
        return Page(found.status, found.headers, body, found.fetched_at)

    def _own_videos(self, http: Client, cursor: str | None) -> Page:
        """Ask for the videos of the token's owner, and who that is: the page holds both answers, by name."""
        owner = self._owner(http)
        wanted = {"max_count": 20} | ({"cursor": int(cursor)} if cursor else {})
        found = http.post("/v2/video/list/", [("fields", _DISPLAY_FIELDS)], json=wanted)
        body = {"found": found.body, "owner": owner.body}
        return Page(found.status, found.headers, body, found.fetched_at)

    def _owner(self, http: Client) -> Page:
        return http.get("/v2/user/info/", [("fields", f"open_id,username,{_USER_FIELDS}")])

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        body = Node(self.name, page.body)
        if body.has("owner") and (other := _not_owner(account, body.node("owner").node("data").node("user"))):
            return other
        found = body.node("found").node("data")
        videos = [_post(account, video) for video in found.need_nodes("videos")]
        return Posts(
            account_key=account.account_key,
            posts=newest_first(videos),
            cursor=_place(found) if body.has("owner") else _cursor(found, body),
        )


def _is_about_nobody(error: Node) -> bool:
    message = (error.text("message") or "").lower()
    return "user" in message and any(words in message for words in ("cannot find", "not found", "not exist"))


def _not_owner(account: Account, owner: Node) -> Missing | None:
    """Return why an account can't be read when the Display API's token is another's, None when it is its own."""
    if owner.need_text("username").lower() == account.handle.lower():
        return None
    reason = "not the account that gave TIKTOK_ACCESS_TOKEN: the Display API reads that one only"
    return Missing(account_key=account.account_key, result="blocked", reason=reason)


def _profile(account: Account, found: Node) -> Profile:
    return Profile(
        account_key=account.account_key,
        external_id=account.handle.lower(),
        handle=account.handle,
        followers=found.need_count("follower_count"),
        following=found.count("following_count"),
        posts=found.count("video_count"),
        display_name=found.text("display_name"),
        bio=found.text("bio_description"),
        avatar_url=found.text("avatar_url"),
        verified=found.flag("is_verified"),
    )


def _post(account: Account, video: Node) -> Post:
    post_id = video.need_text("id")
    return Post(
        post_id=post_id,
        url=f"https://www.tiktok.com/@{account.handle}/video/{post_id}",
        published_at=video.epoch("create_time"),
        post_type="video",
        text=video.text("video_description") or video.text("title") or "",
        likes=video.count("like_count"),
        comments=video.count("comment_count"),
        shares=video.count("share_count"),
        views=video.count("view_count"),
    )


def _cursor(found: Node, body: Node) -> str | None:
    """Return where a search goes on: in the same month, else in the one before it, until there was no TikTok."""
    end = body.need_text("end_date")
    if place := _place(found):
        return f"{end} {place} {found.need_text('search_id')}"
    try:
        earlier = _day(end) - _WINDOW - timedelta(days=1)
    except (ValueError, OverflowError) as exc:
        raise body.bad("end_date") from exc
    return f"{earlier:%Y%m%d}" if earlier > _FIRST_DAY else None


def _place(found: Node) -> str | None:
    """Return where a list goes on, in digits; None at its end."""
    if not found.flag("has_more"):
        return None
    place = found.need_count("cursor")
    if place is None:
        raise found.bad("cursor")
    return str(place)


def _day(text: str) -> date:
    return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date()
