"""Threads API: public profiles that can be looked up, and their posts. Source: https://developers.facebook.com/docs/threads"""

import re
from typing import Any

from deploy.simulator.graph import POST_IDS, Field, Graph, finds, graph_time
from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import first_name, numeric_id
from deploy.simulator.site import Answer, Refused, Request, Route
from deploy.simulator.world import Account, Post, World

_DAY_S = 86_400
_ID = Field("id", {}, ())


class Threads(Graph):
    name = "threads"
    error_type = "THApiException"

    def __init__(self, world: World) -> None:
        self._world = world
        self.routes = (
            Route("profile_lookup", re.compile("/profile_lookup"), self.profile),
            Route("profile_posts", re.compile("/profile_posts"), self.posts),
        )

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return endpoint, Limit(1000 if endpoint == "profile_lookup" else 48_000, _DAY_S, rolling=True)

    def limit_reached(self, allowance: Allowance) -> Answer:
        return self.error(4, "Application request limit reached", is_transient=True)

    def profile(self, request: Request) -> Answer:
        """Return a profile. What it gathered in likes, replies and views is of the last seven days."""
        account = self._account(request)
        posts = account.posts(request.at)
        week = [account.post(index, request.at) for index in range(max(0, posts - 7), posts)]
        profile = {
            "username": account.name,
            "name": account.display_name,
            "profile_picture_url": account.avatar_url,
            "biography": account.bio or None,
            "is_verified": account.is_verified,
            "follower_count": account.followers(request.at),
            "likes_count": sum(post.likes for post in week),
            "quotes_count": sum(post.shares // 8 for post in week),
            "replies_count": sum(post.comments for post in week),
            "reposts_count": sum(post.shares for post in week),
            "views_count": sum(post.views for post in week),
        }
        return Answer(200, self.selected("ThreadsProfile", profile, self.fields(request)))

    def posts(self, request: Request) -> Answer:
        """Return one page of a profile's posts, newest first. Nothing says what others' posts gathered."""
        account = self._account(request)
        posts, paging = self.listed(
            account, request.at, limit=request.first("limit") or "25", after=request.first("after")
        )
        fields = [*self.fields(request), _ID]
        data = [self.selected("ThreadsMedia", _post(account, post), fields) for post in posts]
        return Answer(200, {"data": data} | ({"paging": paging} if paging else {}))

    def _account(self, request: Request) -> Account:
        name = request.first("username").removeprefix("@").lower()
        if not name:
            raise Refused(self.error(100, "The parameter username is required"))
        if not finds(name):
            raise Refused(self.not_found(name))
        return self._world.account(self.name, numeric_id(first_name(name)), name)


def _post(account: Account, post: Post) -> dict[str, Any]:
    code = f"{POST_IDS.id(post):x}"
    return {
        "id": str(POST_IDS.id(post)),
        "text": None if post.kind == "repost" else post.text,
        "timestamp": graph_time(post.published_at),
        "permalink": f"https://www.threads.com/@{account.name}/post/{code}",
        "shortcode": code,
        "username": account.name,
        "media_product_type": "THREADS",
        "media_type": _media_type(post),
        "is_quote_post": post.kind == "quote",
        "is_reply": post.kind == "reply",
        "has_replies": post.comments > 0,
    }


def _media_type(post: Post) -> str:
    if post.kind == "repost":
        return "REPOST_FACADE"
    return "IMAGE" if post.has_media else "TEXT_POST"
