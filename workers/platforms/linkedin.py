"""LinkedIn: pages of organisations. No reader yet. Source: https://learn.microsoft.com/linkedin/marketing"""

from pipeline.platforms import NotOffered, UrlRule
from workers.platforms.base import Base

_HOST = r"(?:[a-z]{2}\.)?linkedin\.com"


class LinkedIn(Base):
    name = "linkedin"
    title = "LinkedIn"
    base_url = "https://api.linkedin.com/rest"
    not_offered = NotOffered(
        following="an organisation follows nobody",
        posts="only an administrator of the page may read them",
        engagement="only an administrator of the page may read them",
    )
    needs = ("LINKEDIN_ACCESS_TOKEN",)
    handle_pattern = r"[\w-]{1,100}"
    urls = (
        UrlRule(
            rf"{_HOST}/(?:in|pub)/.*", refuse="a person's profile: LinkedIn tells the followers of organisations only"
        ),
        UrlRule(rf"{_HOST}/(?:company|school|showcase)/(?P<handle>(?P<id>\d+)|{handle_pattern})"),
    )

    def profile_url(self, handle: str, host: str) -> str:
        return f"https://www.linkedin.com/company/{handle}/"
