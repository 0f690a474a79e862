"""What Meta's Graph APIs have in common: the token's header, the errors, when to come back, what a post shows.

Source: https://developers.facebook.com/docs/graph-api/guides/error-handling
"""

import re
from collections.abc import Mapping
from datetime import timedelta

from pipeline.errors import NotAllowed, PlatformDown, RateLimited, ScrapeError
from pipeline.platforms import Client
from pipeline.records import Page
from workers.node import Node
from workers.platforms.base import Base, PostType
from workers.reset import retry_at

_BAD_TOKEN = 190
_TOKEN_EXPIRED = 463
_NO_SUCH_OBJECT = 33
_NOT_THERE = re.compile(r"Unsupported get request|Object (?:with ID .*)?does not exist")
# Of the application, of a user, of a page, of a call made too often; from 80000 on by business use case.
_TOO_MANY = {4, 17, 32, 613, *range(80_000, 80_015)}
_TRY_AGAIN = {1, 2}
_PERMISSIONS = {10, *range(200, 300)}

# Its windows roll over an hour or a day; how long the wait is stands in a header, in minutes, if at all.
_UNSAID_WAIT = timedelta(hours=1)

_POST_TYPES: Mapping[str, PostType] = {"IMAGE": "image", "CAROUSEL_ALBUM": "image", "VIDEO": "video"}


class Graph(Base):
    """A platform behind a Graph API. The first of its `needs` is the access token."""

    def headers(self, http: Client) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {http.credential(self.needs[0])}"}

    def error(self, page: Page) -> Node:
        """Return the error that a page holds, an empty one when it holds none."""
        return Node(self.name, page.body).node("error")

    def explain(self, page: Page) -> ScrapeError | None:
        """Read what any call may be told. A lacking permission and what concerns one account is left to each platform."""
        error = self.error(page)
        code = error.count("code")
        # First the limits: they call themselves transient as well.
        if code in _TOO_MANY:
            return RateLimited(
                self.name, "too many requests", retry_at=retry_at(page.headers, page.fetched_at, _UNSAID_WAIT)
            )
        if code in _TRY_AGAIN or error.flag("is_transient"):
            return PlatformDown(self.name, "reports an error that passes")
        if code == _BAD_TOKEN:
            expired = error.count("error_subcode") == _TOKEN_EXPIRED
            return NotAllowed(self.name, f"{self.needs[0]} {'has expired' if expired else 'was revoked or is wrong'}")
        return None


def lacks_permission(error: Node) -> bool:
    """Tell whether the token's app may not make the call. Some say so as if the object didn't exist (code 100)."""
    return error.count("code") in _PERMISSIONS or "This endpoint requires" in (error.text("message") or "")


def is_missing(error: Node) -> bool:
    """Tell whether the object asked for isn't there, or not for this token: a Graph API doesn't say which."""
    if error.count("error_subcode") == _NO_SUCH_OBJECT:
        return True
    return _NOT_THERE.search(error.text("message") or "") is not None


def media_type(post: Node) -> PostType:
    """Return what a post of Instagram or Threads shows."""
    return _POST_TYPES.get(post.text("media_type") or "", "post")
