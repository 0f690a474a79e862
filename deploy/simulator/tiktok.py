"""TikTok Research API: users and their videos by POST. Source: https://developers.tiktok.com/doc/research-api-specs-query-user-info"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import DOTTED, first_name, is_marked
from deploy.simulator.site import EXPIRED, UNAPPROVED, Answer, Refused, Request, Route, bearer
from deploy.simulator.tokens import Tokens
from deploy.simulator.world import Account, Post, Snowflake, World

_NAME = r"[a-z0-9_.]{2,24}"
_TOKEN_LASTS_S = 7200
_LOG_ID = "20260302120000ABCDEF0123456789ABCD"
_LONGEST = timedelta(days=30)
_Query = TypeVar("_Query", bound=Struct)
_USER_FIELDS = frozenset(
    {
        "display_name",
        "bio_description",
        "avatar_url",
        "is_verified",
        "follower_count",
        "following_count",
        "likes_count",
        "video_count",
    }
)
_VIDEO_FIELDS = frozenset(
    {
        "id",
        "create_time",
        "username",
        "region_code",
        "video_description",
        "video_duration",
        "view_count",
        "like_count",
        "comment_count",
        "share_count",
    }
)
_VIDEO_IDS = Snowflake(epoch_ms=0, bits=22)  # numbers beyond 2^53


class UserQuery(Struct):
    username: str


class Condition(Struct):
    operation: str
    field_name: str
    field_values: list[str]


class Conditions(Struct):
    and_: list[Condition] = msgspec.field(name="and")


class VideoQuery(Struct):
    query: Conditions
    start_date: str
    end_date: str
    max_count: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[int, Meta(ge=0)] = 0
    search_id: str = ""


class TikTok:
    name = "tiktok"

    def __init__(self, world: World, tokens: Tokens) -> None:
        self._world = world
        self._tokens = tokens
        self.routes = (
            Route("oauth/token", re.compile("/v2/oauth/token/"), self.token, "POST"),
            Route("research/user/info", re.compile("/v2/research/user/info/"), self.user, "POST"),
            Route("research/video/query", re.compile("/v2/research/video/query/"), self.videos, "POST"),
        )

    def check_credential(self, request: Request) -> str:
        if request.path == "/v2/oauth/token/":
            return ""  # it stands in the form
        client = self._tokens.client(self.name, (bearer(request) or "").removeprefix("clt."))
        if client is None:
            raise Refused(
                _error(401, "access_token_invalid", "The access token is invalid or not found in the request.")
            )
        if client == UNAPPROVED:
            message = "The user did not authorize the scope required for completing this request."
            raise Refused(_error(401, "scope_not_authorized", message))
        return client

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit] | None:
        return None if endpoint == "oauth/token" else ("research", Limit(1000, 86_400, midnight_in="UTC"))

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        return {}

    def limit_reached(self, allowance: Allowance) -> Answer:
        return _error(429, "daily_quota_limit_exceeded", "Daily quota limit exceeded, please try again tomorrow.")

    def no_such_path(self) -> Answer:
        return _error(404, "unsupported_path", "Unsupported path.")

    def token(self, request: Request) -> Answer:
        form = request.form()
        client = form.get("client_key", "")
        if form.get("grant_type") != "client_credentials":
            return _token_error(400, "unsupported_grant_type", "The grant type is not supported.")
        if not form.get("client_secret") or client in ("", EXPIRED):
            return _token_error(401, "invalid_client", "Client key or secret is incorrect.")
        token, lasts_s = self._tokens.give(self.name, client, lasts_s=_TOKEN_LASTS_S)
        return Answer(200, {"access_token": f"clt.{token}", "expires_in": lasts_s, "token_type": "Bearer"})

    def user(self, request: Request) -> Answer:
        fields = _fields(request, _USER_FIELDS)
        name = _read(request, UserQuery).username.lower()
        if not _exists(name):
            raise Refused(_error(400, "invalid_params", "cannot find the user"))
        if is_marked(name, "suspended"):
            raise Refused(_error(404, "not_found", "cannot find the user"))
        account = self._account(name)
        user = {
            "display_name": account.display_name,
            "bio_description": account.bio,
            "avatar_url": account.avatar_url,
            "is_verified": account.is_verified,
            "follower_count": account.followers(request.at),
            "following_count": account.following(request.at),
            "likes_count": account.views(request.at) // 25,
            "video_count": account.posts(request.at),
        }
        return _ok({field: value for field, value in user.items() if field in fields})

    def videos(self, request: Request) -> Answer:
        """Return one page of a user's videos within some days, newest first; `cursor` counts those before."""
        fields = _fields(request, _VIDEO_FIELDS)
        asked = _read(request, VideoQuery)
        begin, end = _span(asked)
        name = _asked_name(asked)
        if not _exists(name) or is_marked(name, "suspended"):
            return _ok({"videos": [], "cursor": asked.cursor, "has_more": False, "search_id": ""})
        account = self._account(name)
        oldest, before = account.posts(begin), account.posts(min(end, request.at)) - asked.cursor
        page = account.page(request.at, most=min(asked.max_count, max(0, before - oldest)), before=before)
        body = {
            "videos": [_video(account, post, fields) for post in page],
            "cursor": asked.cursor + len(page),
            "has_more": before - len(page) > oldest,
            "search_id": asked.search_id or str(DOTTED.number(name) % 10**19),
        }
        return _ok(body)

    def _account(self, name: str) -> Account:
        return self._world.account(self.name, first_name(name), name)


def _exists(name: str) -> bool:
    """Say whether a name finds anybody. A renamed account isn't found, as there is no call by id."""
    return re.fullmatch(_NAME, name) is not None and not any(is_marked(name, o) for o in ("missing", "renamed"))


def _fields(request: Request, known: frozenset[str]) -> frozenset[str]:
    fields = frozenset(request.listed("fields"))
    if not fields or fields - known:
        raise Refused(_error(400, "invalid_params", "fields are missing or invalid"))
    return fields


def _read(request: Request, kind: type[_Query]) -> _Query:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Refused(_error(400, "invalid_params", str(exc))) from exc


def _span(asked: VideoQuery) -> tuple[datetime, datetime]:
    """Return the moments between which videos are asked for: whole days, at most 30 apart."""
    try:
        begin, end = (
            datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC) for text in (asked.start_date, asked.end_date)
        )
    except ValueError as exc:
        raise Refused(_error(400, "invalid_params", "start_date and end_date must be written as YYYYMMDD")) from exc
    if not timedelta(0) <= end - begin <= _LONGEST:
        raise Refused(_error(400, "invalid_params", "end_date must be at most 30 days after start_date"))
    return begin, end + timedelta(days=1)


def _asked_name(asked: VideoQuery) -> str:
    """Return the one name that videos are asked for by; the platform knows further conditions, this one doesn't."""
    for condition in asked.query.and_:
        if (condition.operation, condition.field_name) == ("EQ", "username") and len(condition.field_values) == 1:
            return condition.field_values[0].lower()
    raise Refused(_error(400, "invalid_params", "query.and must have one condition EQ for one username"))


def _video(account: Account, post: Post, fields: frozenset[str]) -> dict[str, Any]:
    video = {
        "id": _VIDEO_IDS.id(post),
        "create_time": int(post.published_at.timestamp()),
        "username": account.name,
        "region_code": "US",
        "video_description": post.text,
        "video_duration": post.salt % 170 + 10,
        "view_count": post.views,
        "like_count": post.likes,
        "comment_count": post.comments,
        "share_count": post.shares,
    }
    return {field: value for field, value in video.items() if field in fields}


def _ok(data: dict[str, Any]) -> Answer:
    return Answer(200, {"data": data, "error": {"code": "ok", "message": "", "log_id": _LOG_ID}})


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"data": {}, "error": {"code": code, "message": message, "log_id": _LOG_ID}})


def _token_error(status: int, error: str, description: str) -> Answer:
    return Answer(status, {"error": error, "error_description": description, "log_id": _LOG_ID})
