"""Facebook: pages. No reader yet. Source: https://developers.facebook.com/docs/graph-api/reference/page"""

from pipeline.platforms import NotOffered, UrlRule
from workers.platforms.base import Base

_HOST = r"(?:[a-z]{2}-[a-z]{2}\.|web\.)?(?:facebook|fb)\.com"
_OWN_PAGES = "events|gaming|groups|hashtag|help|login|marketplace|photo|reel|share|sharer|stories|watch"


class Facebook(Base):
    name = "facebook"
    title = "Facebook"
    base_url = "https://graph.facebook.com/v25.0"
    not_offered = NotOffered(following="the API doesn't tell it", posts="the API doesn't tell it")
    needs = ("FACEBOOK_ACCESS_TOKEN",)
    handle_pattern = r"[A-Za-z0-9.]{1,50}"
    urls = (
        UrlRule(rf"{_HOST}/profile\.php\?id=(?P<handle>(?P<id>\d+))"),
        UrlRule(rf"{_HOST}/(?:p|pages|people)/(?:.*[/-])?(?P<handle>(?P<id>\d+))"),
        UrlRule(rf"{_HOST}/[^/]+-(?P<handle>(?P<id>\d{{6,}}))"),
        UrlRule(rf"{_HOST}/(?:{_OWN_PAGES})(?:/.*)?", refuse="a group, an event or a page of Facebook itself"),
        UrlRule(rf"{_HOST}/(?!(?:{_OWN_PAGES}|p|pages|people|profile\.php)$)(?P<handle>{handle_pattern})"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.facebook.com/{handle}"
