"""Threads: profiles that can be looked up. No reader yet. Source: https://developers.facebook.com/docs/threads"""

from pipeline.platforms import NotOffered, UrlRule
from workers.platforms.base import Base


class Threads(Base):
    name = "threads"
    title = "Threads"
    base_url = "https://graph.threads.net/v1.0"
    not_offered = NotOffered(following="the API doesn't tell it", posts="the API doesn't tell it")
    needs = ("THREADS_ACCESS_TOKEN",)
    handle_pattern = r"[A-Za-z0-9._]{1,30}"
    urls = (UrlRule(rf"threads\.(?:net|com)/@(?P<handle>{handle_pattern})"),)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.threads.com/@{handle}"
