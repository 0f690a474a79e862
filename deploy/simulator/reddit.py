"""Reddit: users, communities and what they post, for apps with a token. Source: https://www.reddit.com/dev/api"""

import re
from base64 import b64decode
from binascii import Error as NotEncoded
from collections.abc import Mapping
from math import ceil
from typing import Any
from urllib.parse import quote

from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import DOTTED, SHORT, first_name, is_marked
from deploy.simulator.site import EXPIRED, UNAPPROVED, Answer, Refused, Request, Route, amount, bearer
from deploy.simulator.tokens import Tokens
from deploy.simulator.world import Account, Post, Snowflake, World

_NAME = r"([A-Za-z0-9_-]{2,21})"
_BATCH = 100
_TOKEN_LASTS_S = 86_400
_REACHABLE_POSTS = 1000
_POST_IDS = Snowflake(epoch_ms=0, bits=16)
_TOO_FAST = (
    "<!doctype html><html><head><title>Too Many Requests</title></head><body><h1>whoa there, pardner!</h1>"
    "<p>we've seen too many requests from you lately. please wait {} second(s) and try again.</p></body></html>"
)


class Reddit:
    name = "reddit"

    def __init__(self, world: World, tokens: Tokens) -> None:
        self._world = world
        self._tokens = tokens
        self.routes = (
            Route("access_token", re.compile("/api/v1/access_token"), self.token, "POST"),
            Route("user/about", re.compile(f"/user/{_NAME}/about"), self.user),
            Route("user/submitted", re.compile(f"/user/{_NAME}/submitted"), self.submitted),
            Route("r/about", re.compile(f"/r/{_NAME}/about"), self.community),
            Route("r/new", re.compile(f"/r/{_NAME}/new"), self.new),
            Route("info", re.compile("/api/info"), self.communities, batch="sr_name"),
            Route("subreddits/search", re.compile("/subreddits/search"), self.search),
        )

    def check_credential(self, request: Request) -> str:
        if request.path == "/api/v1/access_token":
            return ""  # it stands in the Authorization header in another form
        client = self._tokens.client(self.name, bearer(request) or "")
        if client is None:
            answer = _error(401, "Unauthorized")
            raise Refused(
                answer._replace(headers={"WWW-Authenticate": 'Bearer realm="reddit", error="invalid_token"'})
            )
        if client == UNAPPROVED:
            raise Refused(_error(403, "Forbidden"))
        return client

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit] | None:
        # 100 a minute, averaged over ten minutes.
        return None if endpoint == "access_token" else ("client", Limit(1000, 600, on_the_clock=True))

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        if not allowance.granted:
            return {"Retry-After": str(ceil(allowance.wait_s))}
        return {
            "x-ratelimit-used": str(allowance.limit.requests - allowance.remaining),
            "x-ratelimit-remaining": f"{allowance.remaining:.1f}",
            "x-ratelimit-reset": str(ceil(allowance.wait_s)),
        }

    def limit_reached(self, allowance: Allowance) -> Answer:
        return Answer(429, _TOO_FAST.format(ceil(allowance.wait_s)))

    def no_such_path(self) -> Answer:
        return _error(404, "Not Found")

    def token(self, request: Request) -> Answer:
        client, secret = _basic(request)
        if not secret or client in ("", EXPIRED):
            return _error(401, "Unauthorized")
        if request.form().get("grant_type") != "client_credentials":
            return Answer(200, {"error": "unsupported_grant_type"})
        token, lasts_s = self._tokens.give(self.name, client, lasts_s=_TOKEN_LASTS_S)
        return Answer(200, {"access_token": token, "token_type": "bearer", "expires_in": lasts_s, "scope": "*"})

    def user(self, request: Request, name: str) -> Answer:
        account = self._user(name)
        if is_marked(account.name, "suspended"):
            data = {"name": account.name, "is_suspended": True, "total_karma": 0, "is_employee": False}
            return Answer(200, {"kind": "t2", "data": data})
        followers = account.followers(request.at)
        own_page: dict[str, Any] = {
            "display_name": f"u_{account.name}",
            "title": account.display_name,
            "public_description": account.bio,
            "url": f"/user/{account.name}/",
            "subreddit_type": "user",
        }
        data = {
            "id": SHORT.name(DOTTED.number(first_name(account.name))),
            "name": account.name,
            "created_utc": account.created_at.timestamp(),
            "icon_img": account.avatar_url,
            "verified": account.is_verified,
            "link_karma": followers // 3,
            "comment_karma": followers // 7,
            "total_karma": followers // 3 + followers // 7,
            "subreddit": own_page if account.lacks("subscribers") else own_page | {"subscribers": followers},
        }
        return Answer(200, {"kind": "t2", "data": data})

    def community(self, request: Request, name: str) -> Answer:
        if is_marked(name.lower(), "missing"):
            # Reddit takes a community that there isn't for something to search for.
            address = f"{request.base_url}/subreddits/search?q={quote(name)}"
            return Answer(302, "", {"Location": address})
        return Answer(200, self._community(request, self._open_community(name)))

    def communities(self, request: Request) -> Answer:
        """Return many communities by name; those that there aren't or aren't open are left out."""
        names = [name.lower() for name in request.listed("sr_name")[:_BATCH] if re.fullmatch(_NAME, name)]
        shown = [name for name in names if _closed(name) is None]
        return _listing([self._community(request, self._account("r", name)) for name in shown])

    def search(self, request: Request) -> Answer:
        return _listing([])

    def submitted(self, request: Request, name: str) -> Answer:
        account = self._user(name)
        return self._posts(request, account, None if is_marked(account.name, "suspended") else f"u_{account.name}")

    def new(self, request: Request, name: str) -> Answer:
        if is_marked(name.lower(), "missing"):
            raise Refused(_error(404, "Not Found"))
        account = self._open_community(name)
        return self._posts(request, account, account.name)

    def _posts(self, request: Request, account: Account, community: str | None) -> Answer:
        """Return one page of posts, newest first; nobody shows those of the suspended (`community` None)."""
        limit = amount(request, "limit", default=25, least=1, most=9999) or 25
        posted = account.posts(request.at)
        before = account.posts(_POST_IDS.moment_before(_behind(request))) if request.first("after") else posted
        oldest = max(0, posted - _REACHABLE_POSTS)
        most = min(limit, _BATCH, max(0, before - oldest)) if community else 0
        page = account.page(request.at, most=most, before=before)
        more = bool(page) and page[-1].index > oldest
        after = f"t3_{_post_id(page[-1])}" if more else None
        return _listing([_post(account, community or "", post) for post in page], after)

    def _account(self, place: str, name: str) -> Account:
        return self._world.account(self.name, f"{place}/{first_name(name)}", name.lower())

    def _user(self, name: str) -> Account:
        if is_marked(name.lower(), "missing"):
            raise Refused(_error(404, "Not Found"))
        return self._account("user", name)

    def _open_community(self, name: str) -> Account:
        if closed := _closed(name.lower()):
            raise Refused(closed)
        return self._account("r", name)

    def _community(self, request: Request, account: Account) -> dict[str, Any]:
        subscribers = account.followers(request.at)
        data = {
            "id": SHORT.name(DOTTED.number(account.name)),
            "name": f"t5_{SHORT.name(DOTTED.number(account.name))}",
            "display_name": account.name,
            "title": account.display_name,
            "public_description": account.bio,
            "community_icon": account.avatar_url,
            "icon_img": "",
            "created_utc": account.created_at.timestamp(),
            "subreddit_type": "public",
            "subscribers": subscribers,
            "active_user_count": subscribers // 500,
        }
        return {"kind": "t5", "data": data}


def _basic(request: Request) -> tuple[str, str]:
    """Return name and password of HTTP Basic, both empty if there are none."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        name, _, password = b64decode(encoded, validate=True).decode().partition(":")
    except (NotEncoded, ValueError):
        return "", ""
    return (name, password) if scheme.lower() == "basic" else ("", "")


def _closed(name: str) -> Answer | None:
    """Return what is answered for a community that can't be shown."""
    if is_marked(name, "missing"):
        return _error(404, "Not Found")
    if is_marked(name, "suspended"):
        return _error(404, "Not Found", reason="banned")
    return _error(403, "Forbidden", reason="private") if is_marked(name, "private") else None


def _behind(request: Request) -> int:
    """Return the number of the post that a page continues behind."""
    match = re.fullmatch(r"t3_([0-9a-z]{1,11})", request.first("after"))
    return SHORT.number(match[1]) if match else 0


def _post_id(post: Post) -> str:
    return SHORT.name(_POST_IDS.id(post))


def _post(account: Account, community: str, post: Post) -> dict[str, Any]:
    title, _, text = post.text.partition("\n")
    data = {
        "id": _post_id(post),
        "name": f"t3_{_post_id(post)}",
        "subreddit": community,
        "author": account.name,
        "title": title,
        "selftext": "" if post.has_media else text,
        "is_self": not post.has_media,
        "permalink": f"/r/{community}/comments/{_post_id(post)}/{re.sub('[^a-z]+', '_', title.lower())}/",
        "created_utc": post.published_at.timestamp(),
        "score": post.likes,
        "num_comments": post.comments,
        "num_crossposts": post.shares,
        "view_count": None,
        "stickied": False,
    }
    return {"kind": "t3", "data": data | ({"post_hint": "image"} if post.has_media else {})}


def _listing(children: list[dict[str, Any]], after: str | None = None) -> Answer:
    data = {"after": after, "before": None, "dist": len(children), "modhash": "", "children": children}
    return Answer(200, {"kind": "Listing", "data": data})


def _error(status: int, message: str, *, reason: str | None = None) -> Answer:
    body = {"message": message, "error": status}
    return Answer(status, body if reason is None else body | {"reason": reason})
