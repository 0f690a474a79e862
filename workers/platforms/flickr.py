"""Flickr: photo streams, one in a few requests, and their photos. Source: https://www.flickr.com/services/api

The name in an address is an alias; the stable id (NSID) has to be looked up once. The key has no place but the URL.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from pipeline.errors import BadPage, Gone, NotAllowed, PlatformDown, ScrapeError
from pipeline.platforms import Call, Client, Meanings, NotOffered, UrlRule
from pipeline.records import Account, Kind, Missing, Page, Post, Posts, Profile
from workers.node import Node
from workers.platforms.base import Base, newest_first

_NSID = r"\d+@N\d\d"
_EXTRAS = "date_upload,views,media,description,count_faves,count_comments,path_alias"
_GONE = {1: "not found", 5: "deleted"}
_BAD_KEY = 100
_DOWN = {0, 105, 106, 201}


class Flickr(Base):
    name = "flickr"
    title = "Flickr"
    base_url = "https://api.flickr.com/services/rest"
    meanings = Meanings(
        following="public contacts",
        posts="public photos and videos",
        engagement="faves and comments; unknown where Flickr leaves them out",
    )
    not_offered = NotOffered(followers="the public API doesn't tell it")
    # All calls share 3,600 requests an hour, and no header tells how many are left.
    post_lacks = ("shares",)
    calls: Mapping[Kind, Call] = {
        "resolve": Call(limit="900/h", requests=3),
        "profiles": Call(limit="1800/h", requests=2),
        "posts": Call(limit="900/h"),
    }
    needs = ("FLICKR_API_KEY",)
    handle_pattern = rf"{_NSID}|[\w-]{{1,100}}"
    urls = (UrlRule(rf"flickr\.com/(?:photos|people)/(?P<handle>(?P<id>{_NSID})|[\w-]+)"),)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.flickr.com/photos/{handle}/"

    def explain(self, page: Page) -> ScrapeError | None:
        """Read the errors that Flickr sends with status 200."""
        body = Node(self.name, page.body)
        if body.text("stat") != "fail":
            return None
        code = body.count("code")
        if reason := _GONE.get(-1 if code is None else code):
            return Gone(self.name, reason)
        if code == _BAD_KEY:
            return NotAllowed(self.name, "FLICKR_API_KEY isn't valid")
        if code in _DOWN:
            return PlatformDown(self.name, "reports that it isn't available")
        return BadPage(self.name, "code" if code is None else f"error {code}")

    def fetch_resolve(self, accounts: Sequence[Account], http: Client) -> Page:
        """Look up the id behind an address, then ask for its profile."""
        (account,) = self.possible(accounts)
        if re.fullmatch(_NSID, account.handle):
            return self._fetch_person(account.handle, http)
        found = self._call(http, "flickr.urls.lookupUser", [("url", self.profile_url(account.handle, ""))])
        return self._fetch_person(Node(self.name, found.body).node("user").need_text("id"), http)

    def parse_resolve(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        return self.parse_profiles(page, accounts)

    def fetch_profiles(self, accounts: Sequence[Account], http: Client) -> Page:
        return self._fetch_person(self.known_id(accounts[0]), http)

    def _fetch_person(self, nsid: str, http: Client) -> Page:
        """Ask for a person and for how many contacts it has; the page holds both answers, by name."""
        person = self._call(http, "flickr.people.getInfo", [("user_id", nsid)])
        contacts = self._call(http, "flickr.contacts.getPublicList", [("user_id", nsid), ("per_page", "1")])
        body = {"person": person.body, "contacts": contacts.body}
        return Page(contacts.status, contacts.headers, body, contacts.fetched_at)

    def parse_profiles(self, page: Page, accounts: Sequence[Account]) -> Iterator[Profile | Missing]:
        both = Node(self.name, page.body)
        person, contacts = (both.node(name).node(name) for name in ("person", "contacts"))
        return self.one_by_one(accounts, lambda account: _profile(account, person, contacts))

    def fetch_posts(self, account: Account, http: Client, cursor: str | None) -> Page:
        params = [
            ("user_id", self.known_id(account)),
            ("extras", _EXTRAS),
            ("per_page", "500"),
            ("page", cursor or "1"),
        ]
        return self._call(http, "flickr.people.getPublicPhotos", params)

    def parse_posts(self, page: Page, account: Account) -> Posts | Missing:
        listing = Node(self.name, page.body).node("photos")
        found = [_post(account, photo) for photo in listing.need_nodes("photo")]
        number, last = listing.count("page") or 1, listing.count("pages") or 1
        return Posts(
            account_key=account.account_key,
            posts=newest_first(found),
            cursor=str(number + 1) if number < last else None,
        )

    def _call(self, http: Client, method: str, params: Sequence[tuple[str, str]]) -> Page:
        key = http.credential("FLICKR_API_KEY") or ""
        usual = [("method", method), ("api_key", key), ("format", "json"), ("nojsoncallback", "1")]
        return http.get("/", [*usual, *params])


def _profile(account: Account, person: Node, contacts: Node) -> Profile:
    nsid = person.need_text("nsid")
    if account.external_id not in (None, nsid):
        raise person.bad("nsid")  # somebody else's numbers
    return Profile(
        account_key=account.account_key,
        external_id=nsid,
        handle=person.text("path_alias") or nsid,
        following=contacts.count("total"),
        posts=person.node("photos").node("count").need_count("_content"),
        display_name=_content(person, "realname") or _content(person, "username"),
        bio=_content(person, "description"),
        avatar_url=_avatar(person, nsid),
    )


def _post(account: Account, photo: Node) -> Post:
    post_id = photo.need_text("id")
    owner = photo.text("pathalias") or account.external_id
    return Post(
        post_id=post_id,
        url=f"https://www.flickr.com/photos/{owner}/{post_id}/",
        published_at=photo.epoch("dateupload"),
        post_type="video" if photo.text("media") == "video" else "image",
        text="\n".join(part for part in (photo.text("title"), _content(photo, "description")) if part),
        likes=photo.count("count_faves"),
        comments=photo.count("count_comments"),
        views=photo.count("views"),
    )


def _content(node: Node, name: str) -> str | None:
    return node.node(name).text("_content")


def _avatar(person: Node, nsid: str) -> str | None:
    """Return the address of a person's icon, None for the one that everybody has at first."""
    server, farm = person.count("iconserver"), person.count("iconfarm")
    return f"https://farm{farm}.staticflickr.com/{server}/buddyicons/{nsid}.jpg" if server and farm else None
