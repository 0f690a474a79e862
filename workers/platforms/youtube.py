"""YouTube: counts of up to 50 channels in one call, and their videos. Source: https://developers.google.com/youtube/v3

Subscribers are rounded down to three figures from 1,000 up, or hidden. The day's quota counts units, one per request;
it is renewed at midnight in California.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import NotAllowed, QuotaSpent, RateLimited, ScrapeError
from pipeline.platforms import Call, Client, Meanings, NotOffered, Quota, UrlRule, midnight_after
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Precision, Profile
from workers.node import Index, Node
from workers.platforms.base import Base, gone, newest_first
from workers.reset import retry_at

_CHANNEL_ID = r"UC[\w-]{22}"
_CHANNEL_PARTS = ("part", "snippet,statistics")
_TABS = r"(?:/(?:about|community|featured|playlists|posts|shorts|streams|videos))?"
_OWN_PAGES = "clip|embed|feed|gaming|hashtag|live|playlist|post|premium|results|shorts|watch"
_EXACT_BELOW = 1_000
_ZONE = "America/Los_Angeles"


class YouTube(Base):
    name = "youtube"
    title = "YouTube"
    base_url = "https://www.googleapis.com/youtube/v3"
    meanings = Meanings(
        followers="subscribers, rounded down to three figures from 1,000 up; unknown where the channel hides them",
        posts="public videos",
        engagement="likes and comments of its videos",
    )
    not_offered = NotOffered(following="only the channel's owner may read it")
    post_lacks = ("shares",)
    calls: Mapping[Kind, Call] = {
        "resolve": Call(limit="2/s"),
        "profiles": Call(limit="2/s", batch=50),
        "posts": Call(limit="2/s", requests=2),
    }
    quota = Quota(10_000, _ZONE)
    needs = ("YOUTUBE_API_KEY",)
    handle_pattern = r"[\w.·-]{3,100}"
    urls = (
        UrlRule(
            rf"(?:youtu\.be/.*|youtube\.com/(?:{_OWN_PAGES})(?:/.*)?)",
            refuse="a video or a page of YouTube itself, not a channel",
        ),
        UrlRule(rf"youtube\.com/channel/(?P<handle>(?P<id>{_CHANNEL_ID})){_TABS}"),
        UrlRule(rf"youtube\.com/@(?P<handle>{handle_pattern}){_TABS}"),
        UrlRule(rf"youtube\.com/(?:user|c)/(?P<handle>{handle_pattern}){_TABS}"),
        UrlRule(rf"youtube\.com/(?!(?:channel|user|c)$)(?P<handle>{handle_pattern}){_TABS}"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.youtube.com/{'channel/' if _is_channel_id(handle) else '@'}{handle}"

    def headers(self, http: Client) -> Mapping[str, str]:
        return {"X-Goog-Api-Key": http.credential("YOUTUBE_API_KEY") or ""}

    def explain(self, page: Page) -> ScrapeError | None:
        error = Node(self.name, page.body).node("error")
        reasons = {one.text("reason") for one in (*error.nodes("errors"), *error.nodes("details"))}
        if reasons & {"quotaExceeded", "dailyLimitExceeded"}:
            resets_at = midnight_after(page.fetched_at, _ZONE)
            return QuotaSpent(self.name, "the day's quota is spent", retry_at=resets_at)
        if reasons & {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"}:
            return RateLimited(self.name, "too many requests", retry_at=retry_at(page.headers, page.fetched_at))
        if reasons & {"keyInvalid", "keyExpired", "API_KEY_INVALID"} or "API key" in (error.text("message") or ""):
            return NotAllowed(self.name, "YOUTUBE_API_KEY isn't valid")
        if reasons & {"accessNotConfigured", "SERVICE_DISABLED"}:
            return NotAllowed(self.name, "the project of YOUTUBE_API_KEY needs the YouTube Data API v3 enabled")
        return None

    def fetch_resolve(self, accounts: Sequence[Account], http: Client) -> Page:
        return http.get("/channels", [_CHANNEL_PARTS, _asked_by(accounts[0])])

    def parse_resolve(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        channels = self._channels(page)
        return self.one_by_one(
            accounts, lambda a: self._profile(a, channels[0]) if channels else gone(a, _why_not(a))
        )

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        ids = ",".join(map(self.known_id, accounts))
        return self.get_batch(http, "/channels", [_CHANNEL_PARTS, ("id", ids), ("maxResults", "50")])

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        """A channel that was deleted or terminated is left out of the answer."""
        channels = Index(self._channels(page), "id")

        def read(account: Account) -> Profile | Missing:
            channel = channels.get(self.known_id(account))
            return self._profile(account, channel) if channel else gone(account, "deleted or terminated")

        return self.one_by_one(accounts, read)

    def _channels(self, page: Page) -> Sequence[Node]:
        """Return the channels found: an answer about none may come without `items`."""
        body = Node(self.name, page.body)
        return body.nodes("items") if body.has("pageInfo") else body.need_nodes("items")

    def _profile(self, account: Account, channel: Node) -> Profile:
        about, counts = channel.node("snippet"), channel.node("statistics")
        followers, precision = _subscribers(counts)
        return Profile(
            account_key=account.account_key,
            external_id=channel.need_text("id"),
            handle=(about.text("customUrl") or "").removeprefix("@") or account.handle,
            followers=followers,
            posts=counts.count("videoCount"),
            precision=precision,
            display_name=about.text("title"),
            bio=about.text("description"),
            avatar_url=_avatar(about.node("thumbnails")),
        )

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        """Ask for a page of the uploads, then for their numbers; the page holds both answers, by name."""
        uploads = "UU" + self.known_id(account).removeprefix("UC")
        params = [("part", "contentDetails"), ("playlistId", uploads), ("maxResults", "50")]
        # A channel without uploads has no such playlist.
        listed = http.get(
            "/playlistItems", [*params, *([("pageToken", cursor)] if cursor else [])], expect=(200, 404)
        )
        ids = self._video_ids(listed)
        if not ids:
            return _both(listed, listed, None)
        wanted = [("part", "snippet,statistics"), ("id", ",".join(ids)), ("maxResults", "50")]
        videos = http.get("/videos", wanted)
        return _both(videos, listed, videos)

    def _video_ids(self, listed: Page) -> list[str]:
        items = Node(self.name, listed.body).nodes("items")
        return [item.node("contentDetails").need_text("videoId") for item in items]

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        """Private videos are listed among the uploads, but have no numbers: they are left out."""
        both = Node(self.name, page.body)
        return Posts(
            account_key=account.account_key,
            posts=newest_first([self._post(video) for video in both.node("videos").nodes("items")]),
            cursor=both.node("listed").text("nextPageToken"),
        )

    def _post(self, video: Node) -> Post:
        about, counts, post_id = video.node("snippet"), video.node("statistics"), video.need_text("id")
        # A Short has no flag: a video of up to three minutes may be one or not.
        live = about.text("liveBroadcastContent") in ("live", "upcoming")
        return Post(
            post_id=post_id,
            url=f"https://www.youtube.com/watch?v={post_id}",
            published_at=about.time("publishedAt"),
            post_type="live" if live else "video",
            text=about.text("title") or "",
            likes=counts.count("likeCount"),
            comments=counts.count("commentCount"),
            views=counts.count("viewCount"),
        )


def _both(page: Page, listed: Page, videos: Page | None) -> Page:
    body: dict[str, Any] = {"listed": listed.body, "videos": videos.body if videos else None}
    return Page(200, page.headers, body, page.fetched_at)


def _is_channel_id(handle: str) -> bool:
    return re.fullmatch(_CHANNEL_ID, handle) is not None


def _asked_by(account: Account) -> tuple[str, str]:
    """Return the filter that finds a channel: the address says what kind of name its handle is."""
    if _is_channel_id(account.handle):
        return "id", account.handle
    if _path(account).lower().startswith("/user/"):
        return "forUsername", account.handle
    return "forHandle", account.handle


def _why_not(account: Account) -> str:
    asked_by, name = _asked_by(account)
    if asked_by == "forUsername":
        return f"no channel has the user name {name}"
    if asked_by == "forHandle" and not _path(account).startswith("/@"):
        # Only a search (100 units, and a guess) would find what /c/ or a bare name stands for.
        return f"no channel has the handle @{name}: give its address as /@handle or /channel/UC…"
    return "no such channel"


def _path(account: Account) -> str:
    return urlsplit(account.url).path


def _subscribers(counts: Node) -> tuple[int | None, Precision]:
    # Whatever number stands beside the flag.
    count = None if counts.flag("hiddenSubscriberCount") else counts.need_count("subscriberCount")
    if count is None:
        return None, "hidden"
    return count, "exact" if count < _EXACT_BELOW else "rounded"


def _avatar(thumbnails: Node) -> str | None:
    sizes = (thumbnails.node(size).text("url") for size in ("high", "medium", "default"))
    return next((url for url in sizes if url), None)
