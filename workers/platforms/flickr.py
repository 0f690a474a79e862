"""Flickr: photo streams. No reader yet. Source: https://www.flickr.com/services/api"""

from pipeline.platforms import NotOffered, UrlRule
from workers.platforms.base import Base

# The stable id; an alias in an address is not the user name.
_NSID = r"\d+@N\d\d"


class Flickr(Base):
    name = "flickr"
    title = "Flickr"
    base_url = "https://api.flickr.com/services/rest"
    not_offered = NotOffered(followers="the public API doesn't tell it")
    needs = ("FLICKR_API_KEY",)
    handle_pattern = rf"{_NSID}|[\w-]{{1,100}}"
    urls = (UrlRule(rf"flickr\.com/(?:photos|people)/(?P<handle>(?P<id>{_NSID})|[\w-]+)"),)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.flickr.com/photos/{handle}/"
