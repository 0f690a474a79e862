"""Truth Social: Mastodon's answers with fields of its own, on one server, and no batch of accounts."""

from typing import Any

from deploy.simulator.limits import Limit
from deploy.simulator.mastodon import Mastodon
from deploy.simulator.site import Request
from deploy.simulator.world import Account, World


class TruthSocial(Mastodon):
    name = "truthsocial"
    most_statuses = 20

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.routes = self._routes_below("()")  # no host in the path

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        return "all", super().limit(endpoint, request)[1]

    def url(self, host: str) -> str:
        return "https://truthsocial.com"

    def profile_extras(self, account: Account) -> dict[str, Any]:
        return {
            "verified": account.is_verified,
            "location": "",
            "website": "www.example.org",
            "unauth_visibility": True,
            "premium": False,
            "accepting_messages": False,
            "tv_account": False,
        }

    def status_extras(self) -> dict[str, Any]:
        return {"group": None, "quote": None, "in_reply_to": None, "votable": False, "version": "1", "title": None}
