"""Reddit: users and communities. No reader yet. Source: https://www.reddit.com/dev/api"""

from pipeline.platforms import NotOffered, UrlRule
from workers.platforms.base import Base


class Reddit(Base):
    name = "reddit"
    title = "Reddit"
    base_url = "https://oauth.reddit.com"
    not_offered = NotOffered(following="the API doesn't tell it", posts="the API doesn't tell it")
    needs = ("REDDIT_CLIENT_ID", "REDDIT_CLIENT_SECRET")
    handle_pattern = r"[A-Za-z0-9_-]{2,21}"
    urls = (UrlRule(rf"(?:(?:new|old)\.)?reddit\.com/(?:user|u|r)/(?P<handle>{handle_pattern})"),)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.reddit.com/user/{handle}"
