"""Flickr: people, whom they follow, and their photos; every call is a `method`. Source: https://www.flickr.com/services/api"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import first_name, is_marked, name_of_number, numeric_id, present_name
from deploy.simulator.site import EXPIRED, Answer, Refused, Request, Route, amount
from deploy.simulator.world import Account, Post, Snowflake, World

_NAME = r"[A-Za-z0-9_-]{1,100}"
_NSID = r"[0-9]{1,170}@N[0-9]{2}"
_MOST_PHOTOS = 500
_MOST_CONTACTS = 1000
_PHOTO_IDS = Snowflake(epoch_ms=0, bits=16)
_SLOW_DOWN = "<html><head><title>429 Too Many Requests</title></head><body>429 Too Many Requests</body></html>"


class Flickr:
    name = "flickr"

    def __init__(self, world: World) -> None:
        self._world = world
        self.routes = (
            _call("urls.lookupUser", self.lookup_user),
            _call("people.getInfo", self.person),
            _call("contacts.getPublicList", self.contacts),
            _call("people.getPublicPhotos", self.photos),
        )

    def check_credential(self, request: Request) -> str:
        key = request.first("api_key")
        if key in ("", EXPIRED):
            raise Refused(_fail(100, "Invalid API Key (Key has invalid format)"))
        return key

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return "key", Limit(3600, 3600)

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        return {}

    def limit_reached(self, allowance: Allowance) -> Answer:
        return Answer(429, _SLOW_DOWN)

    def no_such_path(self) -> Answer:
        return _fail(112, "Method not found")

    def lookup_user(self, request: Request) -> Answer:
        """Return whose an address is."""
        address = rf"https?://(?:www\.)?flickr\.com/(?:photos|people)/({_NAME}|{_NSID})/?"
        match = re.fullmatch(address, request.first("url"))
        name = match[1] if match else ""
        nsid = name if "@" in name else _nsid(first_name(name))
        account = self._account(nsid, None if "@" in name else name.lower()) if name else None
        if account is None or is_marked(account.name, "suspended"):
            raise Refused(_fail(1, "User not found"))
        return _ok(request, {"user": {"id": nsid, "username": {"_content": account.display_name}}})

    def person(self, request: Request) -> Answer:
        account, nsid = self._asked(request)
        person = {
            "id": nsid,
            "nsid": nsid,
            "ispro": 1,
            "iconserver": "0" if account.lacks("icon") else "4068",
            "iconfarm": 5,
            "path_alias": account.name or None,
            "username": {"_content": account.display_name},
            "realname": {"_content": account.display_name},
            "description": {"_content": account.bio},
            "photosurl": {"_content": f"https://www.flickr.com/photos/{account.name or nsid}/"},
            "profileurl": {"_content": f"https://www.flickr.com/people/{account.name or nsid}/"},
            "photos": {
                "firstdate": {"_content": str(int(account.created_at.timestamp()))},
                "count": {"_content": str(account.posts(request.at))},
            },
        }
        return _ok(request, {"person": person})

    def contacts(self, request: Request) -> Answer:
        """Return one page of whom a person follows."""
        account, _ = self._asked(request)
        total = account.following(request.at)
        page, per_page, pages = _paging(request, total, _MOST_CONTACTS)
        listed = range((page - 1) * per_page, min(page * per_page, total))
        contact = [{"nsid": f"{1000 + number}@N01", "username": f"neighbour{number}"} for number in listed]
        body = {"page": page, "pages": pages, "per_page": per_page, "perpage": per_page, "total": total}
        return _ok(request, {"contacts": body | {"contact": contact}})

    def photos(self, request: Request) -> Answer:
        """Return one page of a person's photos, newest first."""
        account, nsid = self._asked(request)
        total = account.posts(request.at)
        page, per_page, pages = _paging(request, total, _MOST_PHOTOS)
        before = total - (page - 1) * per_page
        posts = account.page(request.at, most=per_page, before=before) if before > 0 else []
        extras = request.listed("extras")
        photo = [_photo(nsid, post) | _extras(account, post, extras) for post in posts]
        body = {"page": page, "pages": pages, "perpage": per_page, "total": total, "photo": photo}
        return _ok(request, {"photos": body})

    def _asked(self, request: Request) -> tuple[Account, str]:
        """Return the person that a call is about. Raises Refused where there is none, or none any more."""
        nsid = request.first("user_id")
        account = self._account(nsid) if re.fullmatch(_NSID, nsid) else None
        if account is None:
            raise Refused(_fail(1, "User not found"))
        if is_marked(account.name, "suspended"):
            raise Refused(_fail(5, "User deleted"))
        return account, nsid

    def _account(self, nsid: str, name: str | None = None) -> Account | None:
        """Return who has an id, by the name of today unless another is given; None for nobody."""
        if name is None:
            name = present_name(name_of_number(nsid.partition("@")[0]))
        return None if is_marked(name, "missing") else self._world.account(self.name, nsid, name)


def _call(method: str, answer: Callable[..., Answer]) -> Route:
    return Route(method, re.compile("/"), answer, where=("method", f"flickr.{method}"))


def _nsid(first: str) -> str:
    return f"{numeric_id(first)}@N00"


def _paging(request: Request, total: int, most: int) -> tuple[int, int, int]:
    """Return the page asked for, how many it has at most, and how many pages there are."""
    per_page = min(amount(request, "per_page", default=100, least=1, most=9999) or 100, most)
    page = amount(request, "page", default=1, least=1, most=9999) or 1
    return page, per_page, -(-total // per_page)


def _photo(nsid: str, post: Post) -> dict[str, Any]:
    return {
        "id": str(_PHOTO_IDS.id(post)),
        "owner": nsid,
        "secret": f"{post.salt:08x}",
        "server": "65535",
        "farm": 66,
        "title": post.text.partition("\n")[0],
        "ispublic": 1,
        "isfriend": 0,
        "isfamily": 0,
    }


def _extras(account: Account, post: Post, asked: list[str]) -> dict[str, Any]:
    """Return what was asked for besides. Counts of faves and comments aren't documented: not everybody's answers have them."""
    undocumented = not account.lacks("extras")
    extras: dict[str, dict[str, Any]] = {
        "date_upload": {"dateupload": str(int(post.published_at.timestamp()))},
        "date_taken": {"datetaken": post.published_at.strftime("%Y-%m-%d %H:%M:%S"), "datetakenunknown": "0"},
        "views": {"views": str(post.views)},
        "media": {"media": "video" if post.salt % 9 == 0 else "photo", "media_status": "ready"},
        "description": {"description": {"_content": post.text}},
        "path_alias": {"pathalias": account.name or None},
        "url_l": {"url_l": f"https://live.example/{_PHOTO_IDS.id(post)}_b.jpg", "height_l": 683, "width_l": 1024},
        "count_faves": {"count_faves": str(post.likes)} if undocumented else {},
        "count_comments": {"count_comments": str(post.comments)} if undocumented else {},
    }
    return {name: value for one in asked for name, value in extras.get(one, {}).items()}


def _ok(request: Request, body: dict[str, Any]) -> Answer:
    """Return an answer in JSON; who doesn't ask for it plainly gets a call of a function in its place."""
    body |= {"stat": "ok"}
    if request.first("format") == "json" and request.first("nojsoncallback") == "1":
        return Answer(200, body)
    return Answer(200, f"jsonFlickrApi({msgspec.json.encode(body).decode()})")


def _fail(code: int, message: str) -> Answer:
    return Answer(200, {"stat": "fail", "code": code, "message": message})
