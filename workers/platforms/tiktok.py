"""TikTok: accounts, by the Research API. No reader yet. Source: https://developers.tiktok.com/doc/research-api-specs-query-user-info"""

from pipeline.platforms import UrlRule
from workers.platforms.base import Base


class TikTok(Base):
    name = "tiktok"
    title = "TikTok"
    base_url = "https://open.tiktokapis.com"
    needs = ("TIKTOK_CLIENT_KEY", "TIKTOK_CLIENT_SECRET")
    handle_pattern = r"[A-Za-z0-9_.]{2,24}"
    urls = (UrlRule(rf"tiktok\.com/@(?P<handle>{handle_pattern})"),)

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.tiktok.com/@{handle}"
