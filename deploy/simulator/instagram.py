"""Instagram Graph API: business discovery, profile and media in one call. Source: https://developers.facebook.com/docs/instagram-platform"""

import re
from collections.abc import Mapping
from math import ceil
from typing import Any

import msgspec

from deploy.simulator.graph import POST_IDS, Field, Graph, finds, graph_time, percent_used
from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import first_name, is_marked, numeric_id
from deploy.simulator.site import Answer, Refused, Request, Route
from deploy.simulator.world import Account, Post, World

_IMPRESSIONS = 10  # of one's own account, a day: each brings calls
_ID = Field("id", {}, ())
_TYPES = ("IMAGE", "CAROUSEL_ALBUM", "VIDEO")


class Instagram(Graph):
    name = "instagram"

    def __init__(self, world: World) -> None:
        self._world = world
        self.routes = (Route("business_discovery", re.compile("/([^/]+)"), self.discover),)

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return "business", Limit(4800 * _IMPRESSIONS, 86_400, rolling=True)

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        percent = percent_used(allowance)
        usage = {
            "type": "instagram",
            "call_count": percent,
            "total_cputime": percent // 3,
            "total_time": percent // 2,
            "estimated_time_to_regain_access": 0 if allowance.granted else ceil(allowance.wait_s / 60),
        }
        return {"X-Business-Use-Case-Usage": msgspec.json.encode({"17841400000000000": [usage]}).decode()}

    def limit_reached(self, allowance: Allowance) -> Answer:
        message = "(#80002) There have been too many calls to this Instagram account. Wait a bit and try again."
        return self.error(80002, message, is_transient=False)

    def discover(self, request: Request, own_id: str) -> Answer:
        """Answer for one's own account, and within it for the professional account that is asked about."""
        asked = [field for field in self.fields(request) if field.name == "business_discovery"]
        body: dict[str, Any] = {"id": own_id}
        if asked:
            body["business_discovery"] = self._discovered(request, asked[0])
        return Answer(200, body)

    def _discovered(self, request: Request, asked: Field) -> dict[str, Any]:
        name = asked.arguments.get("username", "").lower()
        if not name:
            raise Refused(self.error(100, "(#100) The parameter username is required"))
        if not finds(name):
            raise Refused(self._invalid_user())
        external_id = numeric_id(first_name(name))
        account = self._world.account(self.name, external_id, name)
        user: dict[str, Any] = {
            "id": external_id,
            "ig_id": int(external_id) % 10**10,
            "username": name,
            "name": None if account.lacks("name") else account.display_name,
            "biography": account.bio or None,
            "website": "https://www.example.org",
            "profile_picture_url": account.avatar_url,
            "followers_count": account.followers(request.at),
            "follows_count": account.following(request.at),
            "media_count": account.posts(request.at),
            "media": None,
        }
        for field in asked.fields:
            if field.name == "media":
                user["media"] = self._media(request, account, field)
        return self.selected("IGUser", user, [*asked.fields, _ID])

    def _media(self, request: Request, account: Account, asked: Field) -> dict[str, Any]:
        """Return one page of media; the cursor of the next one goes into the field itself."""
        posts, paging = self.listed(
            account,
            request.at,
            limit=asked.arguments.get("limit", "25"),
            after=asked.arguments.get("after", ""),
        )
        data = [self.selected("IGMedia", _medium(account, post), [*asked.fields, _ID]) for post in posts]
        return {"data": data} | ({"paging": paging} if paging else {})

    def _invalid_user(self) -> Answer:
        return self.error(
            110,
            "Invalid user id",
            subcode=2207013,
            is_transient=False,
            error_user_title="Nutzer nicht gefunden",  # these two come in the language of the token's owner
            error_user_msg="Der angegebene Nutzername ist nicht vorhanden.",
        )


def _medium(account: Account, post: Post) -> dict[str, Any]:
    media_type = _TYPES[post.salt % 3]
    is_reel = media_type == "VIDEO"
    hides_likes = is_marked(account.name, "hidden") or post.salt % 17 == 0
    return {
        "id": str(POST_IDS.id(post)),
        "caption": post.text if post.salt % 11 else None,
        "media_type": media_type,
        "media_product_type": "REELS" if is_reel else "FEED",
        "permalink": f"https://www.instagram.com/{'reel' if is_reel else 'p'}/{POST_IDS.id(post):x}/",
        "timestamp": graph_time(post.published_at),
        "like_count": None if hides_likes else post.likes,
        "comments_count": post.comments,
        "view_count": post.views if is_reel and post.salt % 2 else None,
        "media_url": None,
    }
