"""YouTube Data API v3: channels, their uploads and videos. Source: https://developers.google.com/youtube/v3/docs"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotEncoded
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from math import log10
from threading import Lock
from typing import Any

from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import channel_id, first_name, is_marked, name_of_channel, present_name
from deploy.simulator.site import EXPIRED, UNAPPROVED, Answer, Refused, Request, Route, amount
from deploy.simulator.world import Account, Post, World, iso

_CHANNEL = r"UC[A-Za-z0-9_-]{22}"
_BATCH = 50
_FILTERS = ("id", "forHandle", "forUsername")
_UNITS = Limit(10_000, 86_400, midnight_in="America/Los_Angeles")
_REMEMBERED_VIDEOS = 50_000


class YouTube:
    name = "youtube"

    def __init__(self, world: World) -> None:
        self._world = world
        self._videos = ListedVideos()
        self.routes = (
            Route("channels", re.compile(r"/channels"), self.channels, batch="id"),
            Route("playlistItems", re.compile(r"/playlistItems"), self.playlist_items),
            Route("videos", re.compile(r"/videos"), self.videos, batch="id"),
        )

    def check_credential(self, request: Request) -> str:
        key = request.headers.get("x-goog-api-key") or request.first("key")
        if not key:
            message = "Method doesn't allow unregistered callers. Please use API Key."
            raise Refused(_error(403, "forbidden", message, domain="global", status="PERMISSION_DENIED"))
        if key == EXPIRED:
            message = "API key expired. Please renew the API key."
            raise Refused(_error(400, "keyInvalid", message, domain="usageLimits"))
        if key == UNAPPROVED:
            message = "YouTube Data API v3 has not been used in this project before or it is disabled."
            raise Refused(
                _error(403, "accessNotConfigured", message, domain="usageLimits", status="PERMISSION_DENIED")
            )
        return key

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return "units", _UNITS  # every list call costs one unit

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        return {}

    def limit_reached(self, allowance: Allowance) -> Answer:
        message = "The request cannot be completed because you have exceeded your quota."
        return _error(403, "quotaExceeded", message, domain="youtube.quota", status="RESOURCE_EXHAUSTED")

    def no_such_path(self) -> Answer:
        return _error(404, "notFound", "Requested entity was not found.", domain="global", status="NOT_FOUND")

    def channels(self, request: Request) -> Answer:
        parts = _parts(request)
        filters = [name for name in _FILTERS if request.first(name)]
        if len(filters) != 1:
            fault = "incompatibleParameters" if filters else "missingRequiredParameter"
            raise _bad(fault, f"Expected exactly one filter of: {', '.join(_FILTERS)}.")
        if filters == ["id"]:
            found = [self._channel(request, one, parts) for one in _ids(request) if re.fullmatch(_CHANNEL, one)]
        else:
            name = request.first(filters[0]).removeprefix("@").lower()
            found = [self._channel(request, channel_id(first_name(name)), parts, name)]
        return _listing("channelList", [channel for channel in found if channel])

    def playlist_items(self, request: Request) -> Answer:
        """Return one page of a channel's uploads, newest first."""
        parts = _parts(request)
        limit = amount(request, "maxResults", default=5, least=0, most=_BATCH)
        if limit is None:
            raise _bad("invalidParameter", "maxResults must be between 0 and 50.")
        playlist = request.first("playlistId")
        channel = "UC" + playlist.removeprefix("UU")
        account = self._account(channel) if re.fullmatch(r"UU[A-Za-z0-9_-]{22}", playlist) else None
        if account is None or not account.posts(request.at):
            message = "The playlist identified with the request's playlistId parameter cannot be found."
            raise Refused(_error(404, "playlistNotFound", message, domain="youtube.playlistItem", status="NOT_FOUND"))
        page = account.page(request.at, most=limit, before=_index_of(request.first("pageToken")))
        items = [_playlist_item(self._videos.id(channel, post), channel, playlist, post, parts) for post in page]
        answer = _listing("playlistItemList", items, total=account.posts(request.at))
        if page and page[-1].index > 0:
            answer.body["nextPageToken"] = _page_token(page[-1].index)
        return answer

    def videos(self, request: Request) -> Answer:
        parts = _parts(request)
        found = []
        for video_id in _ids(request):
            listed = self._videos.find(video_id)
            if listed and (account := self._account(listed[0])):
                found.append(_video(video_id, listed[0], account, account.post(listed[1], request.at), parts))
        return _listing("videoList", found)

    def _account(self, channel: str, asked: str | None = None) -> Account | None:
        """Return a channel, None if it's gone: YouTube doesn't tell a terminated one from one that never was."""
        first = name_of_channel(channel)
        name = asked or present_name(first or "")
        if is_marked(name, "missing") or is_marked(name, "suspended"):
            return None
        return self._world.account(self.name, channel, name if first else "")

    def _channel(
        self, request: Request, channel: str, parts: set[str], asked: str | None = None
    ) -> dict[str, Any] | None:
        account = self._account(channel, asked)
        if account is None:
            return None
        item: dict[str, Any] = {"kind": "youtube#channel", "etag": _etag(channel), "id": channel}
        if "snippet" in parts:
            item["snippet"] = _channel_snippet(account)
        if "statistics" in parts:
            item["statistics"] = _statistics(account, request)
        if "contentDetails" in parts:
            item["contentDetails"] = {"relatedPlaylists": {"likes": "", "uploads": "UU" + channel[2:]}}
        if "status" in parts:
            item["status"] = {
                "privacyStatus": "public",
                "isLinked": True,
                "longUploadsStatus": "longUploadsUnspecified",
            }
        return item


class ListedVideos:
    """The videos of the newest listings: eleven characters are too few to hold a channel and an index."""

    def __init__(self) -> None:
        self._listed: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._lock = Lock()

    def id(self, channel: str, post: Post) -> str:
        """Return the id of a channel's video, and remember whose it is."""
        digest = blake2b(f"{channel}/{post.index}".encode(), digest_size=8).digest()
        video_id = urlsafe_b64encode(digest).decode().rstrip("=")
        with self._lock:
            self._listed[video_id] = (channel, post.index)
            if len(self._listed) > _REMEMBERED_VIDEOS:
                self._listed.popitem(last=False)
        return video_id

    def find(self, video_id: str) -> tuple[str, int] | None:
        with self._lock:
            return self._listed.get(video_id)


def _parts(request: Request) -> set[str]:
    if not request.first("part"):
        raise _bad("missingRequiredParameter", "No part specified: part")
    return set(request.listed("part"))


def _ids(request: Request) -> list[str]:
    ids = request.listed("id")
    if len(ids) > _BATCH:
        raise _bad("invalidFilters", f"The request specifies {len(ids)} ids; the most is {_BATCH}.")
    return ids


def _channel_snippet(account: Account) -> dict[str, Any]:
    snippet = {
        "title": account.display_name,
        "description": account.bio,
        "publishedAt": iso(account.created_at),
        "thumbnails": {
            size: {"url": account.avatar_url, "width": width, "height": width}
            for size, width in (("default", 88), ("medium", 240), ("high", 800))
        },
        "localized": {"title": account.display_name, "description": account.bio},
    }
    if account.name:
        snippet["customUrl"] = f"@{account.name}"
    if not account.lacks("country"):
        snippet["country"] = "US"
    return snippet


def _statistics(account: Account, request: Request) -> dict[str, Any]:
    """Return the counts as YouTube writes them: in strings, subscribers rounded down to three figures."""
    is_hidden = is_marked(account.name, "hidden")
    return {
        "viewCount": str(account.views(request.at)),
        "subscriberCount": "0" if is_hidden else str(_three_figures(account.followers(request.at))),
        "hiddenSubscriberCount": is_hidden,
        "videoCount": str(account.posts(request.at)),
    }


def _three_figures(count: int) -> int:
    step = 10 ** max(0, int(log10(count)) - 2) if count else 1
    return count - count % step


def _playlist_item(video_id: str, channel: str, playlist: str, post: Post, parts: set[str]) -> dict[str, Any]:
    item: dict[str, Any] = {"kind": "youtube#playlistItem", "etag": _etag(video_id), "id": f"{playlist}.{video_id}"}
    if "snippet" in parts:
        item["snippet"] = {
            "publishedAt": iso(post.published_at),
            "channelId": channel,
            "title": post.text.splitlines()[0],
            "description": post.text,
            "playlistId": playlist,
            "resourceId": {"kind": "youtube#video", "videoId": video_id},
        }
    if "contentDetails" in parts:
        item["contentDetails"] = {"videoId": video_id, "videoPublishedAt": iso(post.published_at)}
    return item


def _video(video_id: str, channel: str, account: Account, post: Post, parts: set[str]) -> dict[str, Any]:
    item: dict[str, Any] = {"kind": "youtube#video", "etag": _etag(video_id), "id": video_id}
    if "snippet" in parts:
        item["snippet"] = {
            "publishedAt": iso(post.published_at),
            "channelId": channel,
            "title": post.text.splitlines()[0],
            "description": post.text,
            "channelTitle": account.display_name,
            "categoryId": "29",
            "liveBroadcastContent": "none",
        }
    if "contentDetails" in parts:
        length = (
            f"PT{post.salt % 50 + 10}S" if post.salt % 4 == 0 else f"PT{post.salt % 20 + 4}M{post.salt % 59 + 1}S"
        )
        item["contentDetails"] = {"duration": length, "dimension": "2d", "definition": "hd", "caption": "true"}
    if "statistics" in parts:
        item["statistics"] = _video_statistics(post)
    return item


def _video_statistics(post: Post) -> dict[str, str]:
    """Return a video's counts; a few hide their likes, and a few have their comments turned off."""
    statistics = {"viewCount": str(post.views), "favoriteCount": "0"}
    if post.salt % 17:
        statistics["likeCount"] = str(post.likes)
    if post.salt % 13:
        statistics["commentCount"] = str(post.comments)
    return statistics


def _listing(kind: str, items: list[dict[str, Any]], total: int | None = None) -> Answer:
    """Return a list as YouTube sends it: an empty one has no `items` at all."""
    page_info = {"totalResults": len(items) if total is None else total, "resultsPerPage": len(items) or 5}
    body = {"kind": f"youtube#{kind}Response", "etag": _etag(kind), "pageInfo": page_info}
    return Answer(200, body | ({"items": items} if items else {}))


def _page_token(index: int) -> str:
    return urlsafe_b64encode(f"PT:{index}".encode()).decode().rstrip("=")


def _index_of(token: str) -> int | None:
    """Return the index that a page continues behind, None for the first page."""
    if not token:
        return None
    try:
        match = re.fullmatch(rb"PT:([1-9][0-9]{0,6})", urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (NotEncoded, ValueError):
        match = None
    if match is None:
        raise _bad("invalidPageToken", "The request specifies an invalid page token.")
    return int(match[1])


def _etag(text: str) -> str:
    return blake2b(text.encode(), digest_size=20).hexdigest()


def _bad(reason: str, message: str) -> Refused:
    return Refused(_error(400, reason, message, domain="youtube.parameter"))


def _error(code: int, reason: str, message: str, *, domain: str, status: str = "INVALID_ARGUMENT") -> Answer:
    entry = {"message": message, "domain": domain, "reason": reason}
    return Answer(code, {"error": {"code": code, "message": message, "errors": [entry], "status": status}})
