"""Bluesky's public AppView: profiles and author feeds. Source: lexicons and server of bluesky-social/atproto."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import Any, NamedTuple

from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import HANDLE, did, first_name, handle_of_did, is_marked, present_name
from deploy.simulator.site import Answer, Refused, Request, Route, amount
from deploy.simulator.world import Account, Post, World, iso

_BATCH = 25
_DID = r"did:plc:[a-z2-7]+"
_TID_LETTERS = "234567abcdefghijklmnopqrstuvwxyz"
_WITHOUT_REPLIES = ("posts_no_replies", "posts_and_author_threads")


class Actor(NamedTuple):
    did: str
    handle: str


class Bluesky:
    name = "bluesky"

    def __init__(self, world: World) -> None:
        self._world = world
        self.routes = (
            Route("getProfiles", re.compile(r"/app\.bsky\.actor\.getProfiles"), self.profiles, batch="actors"),
            Route("getProfile", re.compile(r"/app\.bsky\.actor\.getProfile"), self.profile),
            Route("getAuthorFeed", re.compile(r"/app\.bsky\.feed\.getAuthorFeed"), self.author_feed),
        )

    def check_credential(self, request: Request) -> str:
        return ""  # everything here is public

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return "all", Limit(3000, 300)

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        limit = allowance.limit
        headers = {
            "RateLimit-Limit": str(limit.requests),
            "RateLimit-Remaining": str(allowance.remaining),
            "RateLimit-Reset": str(ceil(allowance.resets_at_s)),
            "RateLimit-Policy": f"{limit.requests};w={ceil(limit.window_s)}",
        }
        return headers if allowance.granted else headers | {"Retry-After": str(ceil(allowance.wait_s))}

    def limit_reached(self, allowance: Allowance) -> Answer:
        return _error("RateLimitExceeded", "Rate Limit Exceeded", status=429)

    def no_such_path(self) -> Answer:
        return _error("XRPCNotSupported", "XRPCNotSupported", status=404)

    def profiles(self, request: Request) -> Answer:
        """Return the profiles that can be shown, in the order of the request; all others are left out."""
        asked = request.query.get("actors", ())
        if not asked:
            raise Refused(_error("InvalidRequest", 'Error: Params must have the property "actors"'))
        if len(asked) > _BATCH:
            raise Refused(_error("InvalidRequest", f"Error: actors must not have more than {_BATCH} elements"))
        actors = [_actor(one) for one in asked]
        return Answer(200, {"profiles": [self._profile(request, one) for one in actors if _unavailable(one) is None]})

    def profile(self, request: Request) -> Answer:
        return Answer(200, self._profile(request, _available(request)))

    def author_feed(self, request: Request) -> Answer:
        """Return one page of what an account posted and reposted, newest first."""
        actor = _available(request)
        limit = amount(request, "limit", default=50, least=1, most=100)
        if limit is None:
            raise Refused(_error("InvalidRequest", "Error: limit can not be greater than 100"))
        account = self._world.account(self.name, actor.did, actor.handle)
        before = account.posts(_moment_before(request) or request.at)
        hidden = {"reply"} if request.first("filter") in _WITHOUT_REPLIES else ()
        page = account.page(request.at, most=limit, before=before, hidden=hidden)
        body: dict[str, Any] = {"feed": [self._item(actor, account, post) for post in page]}
        if page and page[-1].index:
            body["cursor"] = iso(page[-1].published_at)
        return Answer(200, body)

    def _profile(self, request: Request, actor: Actor) -> dict[str, Any]:
        account = self._world.account(self.name, actor.did, actor.handle)
        profile = _author(actor, account) | {
            "description": account.bio,
            "indexedAt": iso(account.created_at + timedelta(days=1)),
            "associated": {"lists": 0, "feedgens": 0, "starterPacks": 0, "labeler": False},
            "followersCount": account.followers(request.at),
            "followsCount": account.following(request.at),
        }
        if not account.lacks("postsCount"):
            profile["postsCount"] = account.posts(request.at)
        if account.is_verified:
            profile["verification"] = {
                "verifiedStatus": "valid",
                "trustedVerifierStatus": "none",
                "verifications": [],
            }
        return profile

    def _item(self, actor: Actor, account: Account, post: Post) -> dict[str, Any]:
        if post.kind != "repost":
            return {"post": _post(actor, account, post)}
        handle = f"neighbour{post.salt % 7}.bsky.social"
        author = Actor(did(handle), handle)
        by, other = _author(actor, account), self._world.account(self.name, author.did, handle)
        reason = {"$type": "app.bsky.feed.defs#reasonRepost", "by": by, "indexedAt": iso(post.published_at)}
        return {"post": _post(author, other, post), "reason": reason}


def _actor(asked: str) -> Actor:
    """Read a handle or a did. An account that is asked for by its did has the handle of today."""
    if re.fullmatch(_DID, asked):
        return Actor(asked, present_name(handle_of_did(asked)))
    handle = asked.lower()
    if len(handle) > 253 or not re.fullmatch(HANDLE, handle):
        raise Refused(_error("InvalidRequest", "Error: actor must be a valid did or a handle"))
    return Actor(did(first_name(handle)), handle)


def _unavailable(actor: Actor) -> Answer | None:
    """Return what is answered for an account that can't be shown."""
    if is_marked(actor.handle, "missing"):
        return _error("InvalidRequest", "Profile not found")
    if is_marked(actor.handle, "suspended"):
        return _error("AccountTakedown", "Account has been suspended")
    if is_marked(actor.handle, "deactivated"):
        return _error("AccountDeactivated", "Account is deactivated")
    return None


def _available(request: Request) -> Actor:
    actor = _actor(request.first("actor"))
    if answer := _unavailable(actor):
        raise Refused(answer)
    return actor


def _author(actor: Actor, account: Account) -> dict[str, Any]:
    return {
        "did": actor.did,
        "handle": actor.handle,
        "displayName": account.display_name,
        "avatar": account.avatar_url,
        "labels": [],
        "createdAt": iso(account.created_at),
    }


def _post(author: Actor, account: Account, post: Post) -> dict[str, Any]:
    uri = f"at://{author.did}/app.bsky.feed.post/{_tid(post)}"
    record: dict[str, Any] = {
        "$type": "app.bsky.feed.post",
        "createdAt": iso(post.published_at),
        "langs": ["en"],
        "text": post.text,
    }
    other = {"uri": f"at://{author.did}/app.bsky.feed.post/{_TID_LETTERS[:13]}", "cid": _cid(uri + "/other")}
    if post.kind == "reply":
        record["reply"] = {"parent": other, "root": other}
    item: dict[str, Any] = {
        "uri": uri,
        "cid": _cid(uri),
        "author": _author(author, account),
        "record": record,
        "likeCount": post.likes,
        "replyCount": post.comments,
        "repostCount": post.shares,
        "quoteCount": post.shares // 8,
        "bookmarkCount": post.likes // 20,
        "indexedAt": iso(post.published_at),
        "labels": [],
    }
    if post.kind == "quote":
        record["embed"] = {"$type": "app.bsky.embed.record", "record": other}
        item["embed"] = {"$type": "app.bsky.embed.record#view", "record": other}
    elif post.has_media:
        record["embed"] = {"$type": "app.bsky.embed.images", "images": [{"alt": ""}]}
        image = {"alt": "", "fullsize": account.avatar_url}
        item["embed"] = {"$type": "app.bsky.embed.images#view", "images": [image]}
    return item


def _tid(post: Post) -> str:
    """Return a post's record key: 53 bits of microseconds and 10 of salt, in 13 characters that sort by time."""
    number = int(post.published_at.timestamp() * 1_000_000) << 10 | post.salt & 1023
    return "".join(_TID_LETTERS[number >> shift & 31] for shift in range(60, -1, -5))


def _cid(text: str) -> str:
    return "bafyrei" + did(text)[-52:]


def _moment_before(request: Request) -> datetime | None:
    """Return the last millisecond before the cursor, None for the first page."""
    cursor = request.first("cursor")
    if not cursor:
        return None
    try:
        return datetime.fromisoformat(cursor).astimezone() - timedelta(milliseconds=1)
    except (ValueError, OverflowError) as exc:
        raise Refused(_error("InvalidRequest", "Malformed cursor")) from exc


def _error(error: str, message: str, status: int = 400) -> Answer:
    return Answer(status, {"error": error, "message": message})
