"""Facebook Graph API: pages, alone and by many ids, and their posts. Source: https://developers.facebook.com/docs/graph-api"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from deploy.simulator.graph import POST_IDS, Field, Graph, graph_time, percent_used
from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import first_name, is_marked, name_of_number, numeric_id, present_name
from deploy.simulator.site import Answer, Refused, Request, Route
from deploy.simulator.world import Account, Post, World

_PAGE = r"[A-Za-z0-9._-]{1,90}"
_BATCH = 50
_USERS = 40  # of the app, a day: each brings calls
_SAYS_FROM_PERCENT = 10  # the header comes only after enough calls
_DEFAULT = (Field("id", {}, ()), Field("name", {}, ()))
_DEFAULT_OF_POSTS = (Field("id", {}, ()), Field("message", {}, ()), Field("created_time", {}, ()))


class Asked(NamedTuple):
    """One page of a request: as it was written, its id, and its name of today (empty: an id made elsewhere)."""

    value: str
    page_id: str
    name: str

    @property
    def is_alias(self) -> bool:
        return not self.value.isdigit()

    @property
    def is_shown(self) -> bool:
        return not any(is_marked(self.name, outcome) for outcome in ("missing", "suspended", "private"))


class Facebook(Graph):
    name = "facebook"

    def __init__(self, world: World) -> None:
        self._world = world
        self.routes = (
            Route("?ids", re.compile("/"), self.pages, batch="ids"),
            Route("{page}", re.compile(f"/({_PAGE})"), self.one_page),
            Route("{page}/posts", re.compile(f"/({_PAGE})/(?:posts|published_posts|feed)"), self.posts),
        )

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return "app", Limit(200 * _USERS, 3600, rolling=True)

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        percent = percent_used(allowance)
        if percent < _SAYS_FROM_PERCENT:
            return {}
        usage = {"call_count": percent, "total_time": percent // 2, "total_cputime": percent // 3}
        return {"X-App-Usage": msgspec.json.encode(usage).decode()}

    def limit_reached(self, allowance: Allowance) -> Answer:
        return self.error(4, "(#4) Application request limit reached", status=403, is_transient=True)

    def pages(self, request: Request) -> Answer:
        """Return many pages by what they were asked for. One that can't be shown fails the whole call."""
        values = request.listed("ids")
        if not 1 <= len(values) <= _BATCH:
            message = f"(#100) Param ids must have 1 to {_BATCH} values, but has {len(values)}"
            raise Refused(self.error(100, message))
        asked = [_asked(value) for value in values]
        if unknown := [one.value for one in asked if one.is_alias and not one.is_shown]:
            message = f"(#803) Some of the aliases you requested do not exist: {','.join(unknown)}"
            raise Refused(self.error(803, message, status=404))
        return Answer(200, {one.value: self._shown(request, one) for one in asked})

    def one_page(self, request: Request, value: str) -> Answer:
        return Answer(200, self._shown(request, _asked(value)))

    def posts(self, request: Request, value: str) -> Answer:
        """Return one page of what a page posted, newest first."""
        asked = _asked(value)
        account = self._account(asked)
        fields = self.fields(request) or _DEFAULT_OF_POSTS
        posts, paging = self.listed(
            account, request.at, limit=request.first("limit") or "25", after=request.first("after")
        )
        data = [self.selected("Post", _post(asked, account, post), fields) for post in posts]
        if "after" in paging.get("cursors", {}):
            paging["next"] = _next(request, paging["cursors"]["after"])
        return Answer(200, {"data": data} | ({"paging": paging} if paging else {}))

    def _account(self, asked: Asked) -> Account:
        if not asked.is_shown:
            raise Refused(self.not_found(asked.value))
        return self._world.account(self.name, asked.page_id, asked.name)

    def _shown(self, request: Request, asked: Asked) -> dict[str, Any]:
        account = self._account(asked)
        followers = account.followers(request.at)
        page = {
            "id": asked.page_id,
            "name": account.display_name,
            "username": asked.name or None,
            "fan_count": followers - followers // 20,
            "followers_count": followers,
            "about": account.bio or None,
            "description": None if account.lacks("description") else account.bio or None,
            "link": f"https://www.facebook.com/{asked.name or asked.page_id}",
            "picture": {"data": {"height": 50, "width": 50, "is_silhouette": False, "url": account.avatar_url}},
            "verification_status": "blue_verified" if account.is_verified else "not_verified",
            "category": "Government organization",
            "website": "https://www.example.org",
        }
        return self.selected("Page", page, self.fields(request) or _DEFAULT) | {"id": asked.page_id}


def _asked(value: str) -> Asked:
    """Read a name or an id: Graph takes whatever has nothing but digits for an id."""
    if re.fullmatch(r"[0-9]{1,90}", value):
        return Asked(value, value, present_name(name_of_number(value)))
    name = value.lower()
    if not re.fullmatch(r"[a-z0-9._-]{1,50}", name):
        return Asked(value, "", "impossible_missing")
    return Asked(value, numeric_id(first_name(name)), name)


def _post(asked: Asked, account: Account, post: Post) -> dict[str, Any]:
    number = POST_IDS.id(post)
    return {
        "id": f"{asked.page_id}_{number}",
        "message": post.text if post.salt % 11 else None,
        "created_time": graph_time(post.published_at),
        "permalink_url": f"https://www.facebook.com/{asked.name or asked.page_id}/posts/{number}",
        "status_type": _status_type(post),
        "attachments": {"data": [{"type": "photo"}]} if post.has_media else None,
        "shares": {"count": post.shares} if post.shares else None,
        "reactions": {"data": [], "summary": {"total_count": post.likes, "viewer_reaction": "NONE"}},
        "comments": {"data": [], "summary": {"order": "ranked", "total_count": post.comments, "can_comment": False}},
        "from": {"name": account.display_name, "id": asked.page_id},
    }


def _status_type(post: Post) -> str:
    if post.kind == "repost":
        return "shared_story"
    return "added_photos" if post.has_media else "mobile_status_update"


def _next(request: Request, cursor: str) -> str:
    """Return the address of the next page: the present one with another cursor, token and all."""
    query = {name: values[0] for name, values in request.query.items()} | {"after": cursor}
    return f"{request.base_url}{request.path}?{urlencode(query)}"
