"""What Reddit and TikTok have in common: an access token for an application's own id and secret.

Source: https://datatracker.ietf.org/doc/html/rfc6749#section-4.4
"""

from pipeline.errors import NotAllowed
from pipeline.platforms import Platform, Token
from pipeline.records import Page
from workers.node import Node

GRANT = ("grant_type", "client_credentials")
# The statuses of a refusal: some say so inside a 200.
ANSWERS = (200, 400, 401)
# Tokens of these platforms last from two hours to a day; one that doesn't say gets the least that is useful.
_LASTS_S = 3_600


def token_of(platform: Platform, page: Page) -> Token:
    """Read the answer to a request for a token. Raises NotAllowed when the id and the secret were refused."""
    body = Node(platform.name, page.body)
    if not body.has("access_token") and (body.has("error") or page.status != 200):
        raise NotAllowed(platform.name, f"no access token for {' and '.join(platform.needs)}: check them")
    return Token(body.need_text("access_token"), body.count("expires_in") or _LASTS_S)
