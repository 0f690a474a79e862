"""X API v2: users by name and by id, and their posts. Source: https://docs.x.com and its openapi.json"""

import re
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any, NamedTuple

from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import WORDS, first_name, is_marked, present_name
from deploy.simulator.site import EXPIRED, UNAPPROVED, Answer, Refused, Request, Route, amount, bearer
from deploy.simulator.world import Account, Post, Snowflake, World, iso

_PROBLEMS = "https://api.twitter.com/2/problems"
_NAME = r"[A-Za-z0-9_]{1,15}"
# X's own ids have up to 19 digits; those of 13 to 15 letters need more to be read back.
_ID = r"[0-9]{1,27}"
_BATCH = 100
_REACHABLE_POSTS = 3200
_TOKEN = "7140dibdnow9"  # noqa: S105  # the beginning that X's page tokens have
_RENAMED = {
    "tweet_count": "post_count",
    "retweet_count": "repost_count",
    "pinned_tweet_id": "pinned_post_id",
    "referenced_tweets": "referenced_posts",
    "edit_history_tweet_ids": "edit_history_post_ids",
}
_REFERENCES = {"reply": "replied_to", "repost": "retweeted", "quote": "quoted"}
_EXCLUDED = {"replies": "reply", "retweets": "repost"}
_POST_IDS = Snowflake(epoch_ms=1288834974657, bits=22)


class Asked(NamedTuple):
    """One user of a request: as it was written, its first name (empty: no such id), and the one to answer with."""

    value: str
    first: str
    username: str

    @property
    def exists(self) -> bool:
        return bool(self.first) and not is_marked(self.first, "missing")

    @property
    def is_suspended(self) -> bool:
        return is_marked(self.first, "suspended")


class X:
    name = "x"

    def __init__(self, world: World) -> None:
        self._world = world
        self.routes = (
            Route("users/by", re.compile(r"/2/users/by"), self.users_by_name, batch="usernames"),
            Route("users", re.compile(r"/2/users"), self.users_by_id, batch="ids"),
            Route("users/:id/tweets", re.compile(rf"/2/users/({_ID})/tweets"), self.posts),
        )

    def check_credential(self, request: Request) -> str:
        token = bearer(request)
        if token in (None, EXPIRED):
            raise Refused(_problem(401, "Unauthorized", "Unauthorized"))
        if token == UNAPPROVED:
            detail = "This app has not been enrolled: it may not use this endpoint."
            raise Refused(_problem(403, "Client Forbidden", detail, f"{_PROBLEMS}/client-forbidden"))
        return str(token)

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return endpoint, Limit(10_000 if endpoint == "users/:id/tweets" else 300, 900)

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        return {
            "x-rate-limit-limit": str(allowance.limit.requests),
            "x-rate-limit-remaining": str(allowance.remaining),
            "x-rate-limit-reset": str(ceil(allowance.resets_at_s)),
        }

    def limit_reached(self, allowance: Allowance) -> Answer:
        return _problem(429, "Too Many Requests", "Too Many Requests")

    def no_such_path(self) -> Answer:
        return _problem(404, "Not Found", "Not Found")

    def users_by_name(self, request: Request) -> Answer:
        names = _batch(request, "usernames", _NAME)
        return self._users(request, "usernames", [Asked(name, first_name(name), name.lower()) for name in names])

    def users_by_id(self, request: Request) -> Answer:
        return self._users(request, "ids", [_by_id(value) for value in _batch(request, "ids", _ID)])

    def posts(self, request: Request, user_id: str) -> Answer:
        """Return one page of a user's posts, newest first."""
        limit = amount(request, "max_results", default=10, least=5, most=100)
        if limit is None:
            raise _invalid("max_results", request.first("max_results"), "is not between 5 and 100")
        asked = _by_id(user_id)
        if error := _error("id", asked) or _authorization_error(asked):
            return Answer(200, {"errors": [error]})
        account = self._world.account(self.name, asked.first, asked.username)
        posted = account.posts(request.at)
        oldest = _oldest(request)
        before = account.posts(_POST_IDS.moment_before(oldest)) if oldest else posted
        hidden = {_EXCLUDED.get(kind, "") for kind in request.listed("exclude")}
        last_index = max(0, posted - _REACHABLE_POSTS)
        page = account.page(request.at, most=limit, before=before, hidden=hidden)
        page = [post for post in page if post.index >= last_index]
        more = len(page) == limit and page[-1].index > last_index
        return Answer(200, _page_of_posts(request, asked, page, more=more))

    def _users(self, request: Request, parameter: str, asked: list[Asked]) -> Answer:
        found = [one for one in asked if one.exists and not one.is_suspended]
        errors = [error for one in asked if (error := _error(parameter, one))]
        # X doesn't keep the order of the request: sorting by the id's last digits is as good as shuffling.
        users = sorted((self._user(request, one) for one in found), key=lambda user: user["id"][::-1])
        return Answer(200, ({"data": users} if users else {}) | ({"errors": errors} if errors else {}))

    def _user(self, request: Request, asked: Asked) -> dict[str, Any]:
        account = self._world.account(self.name, asked.first, asked.username)
        user = {
            "id": str(WORDS.number(asked.first)),
            "name": account.display_name,
            "username": asked.username,
            "created_at": iso(account.created_at),
            "description": account.bio,
            "profile_image_url": account.avatar_url,
            "protected": is_marked(asked.username, "private"),
            "public_metrics": _user_metrics(account, request),
            "url": "https://www.example.org",
            "verified": account.is_verified,
            "verified_type": "government" if account.is_verified else "none",
        }
        if not account.lacks("location"):
            user["location"] = "Washington, D.C."
        return _named(_select(user, ("id", "name", "username"), request.listed("user.fields")), request, asked)


def _batch(request: Request, parameter: str, pattern: str) -> list[str]:
    """Return the values of a list, each name once. Raises Refused as X does: one bad value fails the whole call."""
    values = request.listed(parameter)
    if not 1 <= len(values) <= _BATCH:
        raise _invalid(parameter, request.first(parameter), f"must have 1 to {_BATCH} values, but has {len(values)}")
    for value in values:
        if not re.fullmatch(pattern, value):
            raise _invalid(parameter, value, f"does not match ^{pattern}$")
    return list({value.lower(): value for value in values}.values())


def _by_id(value: str) -> Asked:
    first = WORDS.name(int(value))
    return Asked(value, first, present_name(first))


def _error(parameter: str, asked: Asked) -> dict[str, str] | None:
    """Return why a user is not in the answer: X gives suspended ones the same type as unknown ones."""
    if asked.exists and not asked.is_suspended:
        return None
    title, detail = "Not Found Error", f"Could not find user with {parameter}: [{asked.value}]."
    if asked.exists:
        title, detail = "Forbidden", f"User has been suspended: [{asked.value}]."
    return _entry(parameter, asked, title, detail, "resource-not-found")


def _authorization_error(asked: Asked) -> dict[str, str] | None:
    if not is_marked(asked.username, "private"):
        return None
    detail = f"Sorry, you are not authorized to see the user with id: [{asked.value}]."
    return _entry("id", asked, "Authorization Error", detail, "not-authorized-for-resource")


def _entry(parameter: str, asked: Asked, title: str, detail: str, problem: str) -> dict[str, str]:
    return {
        "value": asked.value,
        "detail": detail,
        "title": title,
        "resource_type": "user",
        "parameter": parameter,
        "resource_id": asked.value,
        "type": f"{_PROBLEMS}/{problem}",
    }


def _user_metrics(account: Account, request: Request) -> dict[str, int]:
    metrics = {
        "followers_count": account.followers(request.at),
        "following_count": account.following(request.at),
        "tweet_count": account.posts(request.at),
        "listed_count": account.followers(request.at) // 180,
    }
    if not account.lacks("media_count"):
        metrics |= {"like_count": account.following(request.at) * 3, "media_count": account.posts(request.at) // 3}
    return metrics


def _oldest(request: Request) -> int | None:
    """Return the id that a page continues behind, None for the first page."""
    token = request.first("pagination_token")
    if not token:
        return None
    if not re.fullmatch(rf"{_TOKEN}[0-9a-f]{{1,16}}", token):
        raise _invalid("pagination_token", token, "is not valid")
    return int(token.removeprefix(_TOKEN), 16)


def _page_of_posts(request: Request, asked: Asked, page: list[Post], *, more: bool) -> dict[str, Any]:
    if not page:
        return {"meta": {"result_count": 0}}
    ids = [_POST_IDS.id(post) for post in page]
    meta: dict[str, Any] = {"result_count": len(page), "newest_id": str(ids[0]), "oldest_id": str(ids[-1])}
    if more:
        meta["next_token"] = f"{_TOKEN}{ids[-1]:x}"
    return {"data": [_post(request, asked, post) for post in page], "meta": meta}


def _post(request: Request, asked: Asked, post: Post) -> dict[str, Any]:
    post_id = str(_POST_IDS.id(post))
    is_repost = post.kind == "repost"
    item: dict[str, Any] = {
        "id": post_id,
        "text": f"RT @neighbour{post.salt % 7}: {post.text}" if is_repost else post.text,
        "edit_history_tweet_ids": [post_id],
        "created_at": iso(post.published_at),
        "lang": "en",
        "public_metrics": {
            "retweet_count": post.shares,
            "reply_count": 0 if is_repost else post.comments,
            "like_count": 0 if is_repost else post.likes,
            "quote_count": 0 if is_repost else post.shares // 8,
            "bookmark_count": 0 if is_repost else post.likes // 20,
            "impression_count": 0 if is_repost else post.views,
        },
    }
    if post.has_media:
        item["attachments"] = {"media_keys": [f"3_{post_id}"]}
    if post.kind in _REFERENCES:
        item["referenced_tweets"] = [{"type": _REFERENCES[post.kind], "id": str(int(post_id) - 1)}]
    wanted = request.listed("tweet.fields") + request.listed("post.fields")
    wanted = [old for old, new in _RENAMED.items() if new in wanted] + wanted
    return _named(_select(item, ("id", "text", "edit_history_tweet_ids"), wanted), request, asked)


def _select(item: dict[str, Any], default: Iterable[str], wanted: Iterable[str]) -> dict[str, Any]:
    shown = {*default, *wanted}
    return {field: value for field, value in item.items() if field in shown}


def _named(item: dict[str, Any], request: Request, asked: Asked) -> dict[str, Any]:
    """Name the fields as the request expects: old, or new for `post.fields` and for accounts marked `newnames`."""
    if "post.fields" not in request.query and not is_marked(asked.username, "newnames"):
        return item
    if "public_metrics" in item:
        item["public_metrics"] = {_RENAMED.get(name, name): count for name, count in item["public_metrics"].items()}
    return {_RENAMED.get(name, name): value for name, value in item.items()}


def _problem(status: int, title: str, detail: str, problem: str = "about:blank") -> Answer:
    return Answer(status, {"title": title, "detail": detail, "type": problem, "status": status})


def _invalid(parameter: str, value: str, fault: str) -> Refused:
    body = {
        "errors": [
            {
                "parameters": {parameter: [value]},
                "message": f"The `{parameter}` query parameter value [{value}] {fault}",
            }
        ],
        "title": "Invalid Request",
        "detail": "One or more parameters to your request was invalid.",
        "type": f"{_PROBLEMS}/invalid-request",
    }
    return Refused(Answer(400, body))
