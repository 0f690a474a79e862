"""Mastodon: accounts of any server, and their statuses. Source: https://docs.joinmastodon.org/methods/accounts/"""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import DOTTED, first_name, is_marked, present_name
from deploy.simulator.site import EXPIRED, Answer, Refused, Request, Route, amount, bearer
from deploy.simulator.world import Account, Post, Snowflake, World, iso

_HOST = r"/([a-z0-9.-]+(?::[0-9]+)?)"
_ID = r"[0-9]{1,60}"
_BATCH = 40
_POST_IDS = Snowflake(epoch_ms=0, bits=16)
_BOT_PAGE = (
    "<!DOCTYPE html><html><head><title>Just a moment...</title></head>"
    "<body><noscript>Enable JavaScript and cookies to continue</noscript></body></html>"
)


class Mastodon:
    """Every host is a server of its own, with its own accounts and its own limit."""

    name = "mastodon"
    most_statuses = 40

    def __init__(self, world: World) -> None:
        self._world = world
        self.routes: tuple[Route, ...] = (
            *self._routes_below(_HOST),
            Route("accounts", re.compile(rf"{_HOST}/api/v1/accounts"), self.accounts, batch="id[]"),
        )

    def _routes_below(self, base: str) -> tuple[Route, ...]:
        return (
            Route("accounts/lookup", re.compile(rf"{base}/api/v1/accounts/lookup"), self.lookup),
            Route("accounts/:id", re.compile(rf"{base}/api/v1/accounts/({_ID})"), self.account),
            Route("accounts/:id/statuses", re.compile(rf"{base}/api/v1/accounts/({_ID})/statuses"), self.statuses),
        )

    def check_credential(self, request: Request) -> str:
        token = bearer(request) or ""
        if token == EXPIRED:
            raise Refused(_error(401, "The access token is invalid"))
        return token

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return request.path.split("/")[1], Limit(300, 300, on_the_clock=True)

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        resets_at = allowance.resets_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "X-RateLimit-Limit": str(allowance.limit.requests),
            "X-RateLimit-Remaining": str(allowance.remaining),
            "X-RateLimit-Reset": resets_at,
        }

    def limit_reached(self, allowance: Allowance) -> Answer:
        return _error(429, "Too many requests")

    def no_such_path(self) -> Answer:
        return _error(404, "Not Found")

    def lookup(self, request: Request, host: str) -> Answer:
        name, _, domain = request.first("acct").removeprefix("@").lower().partition("@")
        if domain not in ("", host) or not re.fullmatch(r"[a-z0-9_.-]{1,30}", name):
            raise Refused(_error(404, "Record not found"))
        return Answer(200, self._shown(request, host, first_name(name), name))

    def account(self, request: Request, host: str, account_id: str) -> Answer:
        first = DOTTED.name(int(account_id))
        return Answer(200, self._shown(request, host, first, present_name(first)))

    def accounts(self, request: Request, host: str) -> Answer:
        """Return several accounts by id; those that can't be shown are left out."""
        firsts = [DOTTED.name(int(one)) for one in request.query.get("id[]", ()) if re.fullmatch(_ID, one)]
        shown = [first for first in firsts[:_BATCH] if _unavailable(first) is None]
        return Answer(200, [self._profile(request, host, first, present_name(first)) for first in shown])

    def statuses(self, request: Request, host: str, account_id: str) -> Answer:
        """Return one page of statuses and boosts, newest first; the `Link` header leads to the next."""
        first = DOTTED.name(int(account_id))
        profile = self._shown(request, host, first, present_name(first))
        account = self._resident(host, first, present_name(first))
        limit = amount(request, "limit", default=20, least=1, most=9999) or 20
        max_id = request.first("max_id")
        moment = _POST_IDS.moment_before(int(max_id)) if re.fullmatch(r"[0-9]{1,19}", max_id) else request.at
        hidden = {
            kind
            for kind, parameter in (("reply", "exclude_replies"), ("repost", "exclude_reblogs"))
            if request.first(parameter).lower() in ("true", "1")
        }
        most = 0 if is_marked(first, "suspended") else min(limit, self.most_statuses)
        page = account.page(request.at, most=most, before=account.posts(moment), hidden=hidden)
        body = [self._status(host, profile, post) for post in page]
        return Answer(200, body, _link(request, page) if page and page[-1].index else {})

    def url(self, host: str) -> str:
        """Return the public address of a server."""
        return f"https://{host}"

    def profile_extras(self, account: Account) -> dict[str, Any]:
        """Return the fields that this kind of server adds to an account."""
        return {"indexable": True, "hide_collections": False, "noindex": False, "roles": []}

    def status_extras(self) -> dict[str, Any]:
        """Return the fields that this kind of server adds to a status."""
        return {"application": {"name": "Web", "website": None}, "quotes_count": 0}

    def _shown(self, request: Request, host: str, first: str, name: str) -> dict[str, Any]:
        if answer := _unavailable(first):
            raise Refused(answer)
        return self._profile(request, host, first, name)

    def _resident(self, host: str, first: str, name: str) -> Account:
        return self._world.account(self.name, f"{host}/{first}", name)

    def _profile(self, request: Request, host: str, first: str, name: str) -> dict[str, Any]:
        account = self._resident(host, first, name)
        posts = account.posts(request.at)
        profile: dict[str, Any] = {
            "id": str(DOTTED.number(first)),
            "username": name,
            "acct": name,
            "display_name": account.display_name,
            "locked": is_marked(name, "private"),
            "bot": False,
            "discoverable": True,
            "group": False,
            "created_at": iso(account.created_at),
            "note": f"<p>{escape(account.bio)}</p>",
            "url": f"{self.url(host)}/@{name}",
            "avatar": account.avatar_url,
            "header": "",
            "followers_count": account.followers(request.at),
            "following_count": account.following(request.at),
            "statuses_count": posts,
            "last_status_at": account.post(posts - 1, request.at).published_at.date().isoformat() if posts else None,
            "emojis": [],
            "fields": [],
        }
        return profile | self.profile_extras(account) | (_SUSPENDED if is_marked(first, "suspended") else {})

    def _status(self, host: str, profile: Mapping[str, Any], post: Post) -> dict[str, Any]:
        status = _status(profile, post) | self.status_extras()
        if post.kind != "repost":
            return status
        name = f"neighbour{post.salt % 7}"
        other = {"id": str(DOTTED.number(name)), "username": name, "acct": name, "url": f"{self.url(host)}/@{name}"}
        own = {"content": "", "media_attachments": [], "replies_count": 0, "reblogs_count": 0, "favourites_count": 0}
        return status | own | {"reblog": _status(other, post) | self.status_extras()}


_SUSPENDED = {
    "suspended": True,
    "display_name": "",
    "note": "",
    "followers_count": 0,
    "following_count": 0,
    "statuses_count": 0,
    "last_status_at": None,
}


def _unavailable(name: str) -> Answer | None:
    """Return what is answered for an account that can't be shown."""
    if not name or is_marked(name, "missing"):
        return _error(404, "Record not found")
    if is_marked(name, "loginwall"):
        return _error(401, "This API requires an authenticated user")
    if is_marked(name, "botpage"):
        return Answer(403, _BOT_PAGE)
    return None


def _status(author: Mapping[str, Any], post: Post) -> dict[str, Any]:
    post_id = str(_POST_IDS.id(post))
    is_reply = post.kind == "reply"
    return {
        "id": post_id,
        "created_at": iso(post.published_at),
        "in_reply_to_id": str(int(post_id) - 1) if is_reply else None,
        "in_reply_to_account_id": str(DOTTED.number("neighbour0")) if is_reply else None,
        "sensitive": False,
        "spoiler_text": "",
        "visibility": "public",
        "language": "en",
        "uri": f"{author['url']}/{post_id}",
        "url": f"{author['url']}/{post_id}",
        "replies_count": post.comments,
        "reblogs_count": post.shares,
        "favourites_count": post.likes,
        "edited_at": None,
        "content": f"<p>{escape(post.text).replace(chr(10), '<br />')}</p>",
        "reblog": None,
        "account": author,
        "media_attachments": [{"id": post_id, "type": "image", "description": None}] if post.has_media else [],
        "mentions": [],
        "tags": [],
        "emojis": [],
        "card": None,
        "poll": None,
    }


def _link(request: Request, page: list[Post]) -> dict[str, str]:
    here = f"{request.base_url}{request.path}"
    older, newer = _POST_IDS.id(page[-1]), _POST_IDS.id(page[0])
    return {"Link": f'<{here}?max_id={older}>; rel="next", <{here}?min_id={newer}>; rel="prev"'}


def _error(status: int, message: str) -> Answer:
    return Answer(status, {"error": message})
