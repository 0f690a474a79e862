"""Instagram: professional accounts, by business discovery. No reader yet. Source: https://developers.facebook.com/docs/instagram-platform"""

from pipeline.platforms import UrlRule
from workers.platforms.base import Base

_OWN_PAGES = "accounts|direct|explore|p|reel|reels|stories|tv"


class Instagram(Base):
    name = "instagram"
    title = "Instagram"
    base_url = "https://graph.facebook.com/v25.0"
    needs = ("INSTAGRAM_ACCESS_TOKEN", "INSTAGRAM_USER_ID")
    handle_pattern = r"[A-Za-z0-9._]{1,30}"
    urls = (
        UrlRule(
            rf"instagram\.com/(?:{_OWN_PAGES})(?:/.*)?", refuse="a post or a page of Instagram itself, not an account"
        ),
        UrlRule(rf"instagram\.com/(?P<handle>{handle_pattern})"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.instagram.com/{handle}/"
