"""LinkedIn: organisations by name and by id, and how many follow them. Source: https://learn.microsoft.com/linkedin/marketing"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from deploy.simulator.limits import Allowance, Limit
from deploy.simulator.names import first_name, is_marked, name_of_number, numeric_id, present_name
from deploy.simulator.site import EXPIRED, UNAPPROVED, Answer, Refused, Request, Route, bearer
from deploy.simulator.world import Account, World

_NAME = r"[a-z0-9_.-]{1,100}"
_ID = r"[0-9]{1,170}"
_URN = r"urn(?:%3A|%3a)li(?:%3A|%3a)organization(?:%3A|%3a)"
_OLDEST_VERSION = "202512"
_FOLLOWERS = "COMPANY_FOLLOWED_BY_MEMBER"


class LinkedIn:
    name = "linkedin"

    def __init__(self, world: World) -> None:
        self._world = world
        self.routes = (
            Route("organizations", re.compile("/organizations"), self.by_name, where=("q", "vanityName")),
            Route("organizationsLookup", re.compile("/organizationsLookup"), self.by_ids, batch="ids"),
            Route("networkSizes", re.compile(f"/networkSizes/{_URN}({_ID})"), self.followers),
        )

    def check_credential(self, request: Request) -> str:
        token = bearer(request)
        if token in (None, EXPIRED):
            raise Refused(_error(401, "INVALID_ACCESS_TOKEN", "Invalid access token", service_code=65600))
        if token == UNAPPROVED:
            message = "Not enough permissions to access: organizations"
            raise Refused(_error(403, "ACCESS_DENIED", message, service_code=100))
        version = request.headers.get("linkedin-version", "")
        if not re.fullmatch(r"[0-9]{6}", version):
            message = "A version must be present. Please specify a version by adding the LinkedIn-Version header."
            raise Refused(_error(400, "VERSION_MISSING", message))
        if version < _OLDEST_VERSION:
            raise Refused(_error(426, "NONEXISTENT_VERSION", f"Requested version {version} is not active"))
        return str(token)

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit]:
        # LinkedIn doesn't publish its number, only when the day ends.
        return "app", Limit(100_000, 86_400, midnight_in="UTC")

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        return {}

    def limit_reached(self, allowance: Allowance) -> Answer:
        message = "Resource level throttle APPLICATION DAY limit for calls to this resource is reached."
        return _error(429, "TOO_MANY_REQUESTS", message, service_code=101)

    def no_such_path(self) -> Answer:
        return _error(404, "RESOURCE_NOT_FOUND", "No virtual resource found", service_code=0)

    def by_name(self, request: Request) -> Answer:
        """Return the organisation of a name as a list of one, or an empty one."""
        name = request.first("vanityName").lower()
        elements = []
        if re.fullmatch(_NAME, name) and _exists(name):
            elements = [self._organization(numeric_id(first_name(name)), name)]
        return Answer(200, {"elements": elements, "paging": {"start": 0, "count": 10, "links": []}})

    def by_ids(self, request: Request) -> Answer:
        """Return many organisations by id; those that there aren't stand in `errors`."""
        listed = re.fullmatch(rf"List\(({_ID}(?:,{_ID})*)\)", request.first("ids"))
        if listed is None:
            raise Refused(_error(400, "ILLEGAL_ARGUMENT", "Array parameter 'ids' value is invalid"))
        results, errors = {}, {}
        for external_id in listed[1].split(","):
            name = present_name(name_of_number(external_id))
            if _exists(name):
                results[external_id] = self._organization(external_id, name)
            else:
                errors[external_id] = {"status": 404, "message": "Not found"}
        return Answer(200, {"results": results, "statuses": dict.fromkeys(results, 200), "errors": errors})

    def followers(self, request: Request, external_id: str) -> Answer:
        if request.first("edgeType") != _FOLLOWERS:
            raise Refused(_error(400, "ILLEGAL_ARGUMENT", f"edgeType must be {_FOLLOWERS}"))
        name = present_name(name_of_number(external_id))
        if not _exists(name):
            raise Refused(_error(404, "RESOURCE_NOT_FOUND", "Could not find entity"))
        if is_marked(name, "private"):
            message = "Member does not have permission to view this organization's network size"
            raise Refused(_error(403, "ACCESS_DENIED", message, service_code=100))
        return Answer(200, {"firstDegreeSize": self._account(external_id, name).followers(request.at)})

    def _account(self, external_id: str, name: str) -> Account:
        return self._world.account(self.name, external_id, name)

    def _organization(self, external_id: str, name: str) -> dict[str, Any]:
        account = self._account(external_id, name)
        organization: dict[str, Any] = {
            # A number of any length: LinkedIn's own have up to nine digits.
            "id": msgspec.Raw(external_id.lstrip("0").encode() or b"0"),
            "localizedName": account.display_name,
            "localizedWebsite": "https://www.example.org",
            "primaryOrganizationType": "NONE",
        }
        if name:
            organization["vanityName"] = name
        if not account.lacks("logoV2"):
            organization["logoV2"] = {"original": f"urn:li:digitalmediaAsset:{account.name}"}
        return organization


def _exists(name: str) -> bool:
    return not any(is_marked(name, outcome) for outcome in ("missing", "suspended"))


def _error(status: int, code: str, message: str, *, service_code: int | None = None) -> Answer:
    body = {"status": status, "code": code, "message": message}
    return Answer(status, body if service_code is None else body | {"serviceErrorCode": service_code})
