"""What Meta's platforms have in common: fields within fields, errors, tokens, and pages of posts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from deploy.simulator.limits import Allowance
from deploy.simulator.names import is_marked
from deploy.simulator.site import EXPIRED, UNAPPROVED, Answer, Refused, Request, bearer
from deploy.simulator.world import Account, Post, Snowflake

_FIELD = re.compile(r"(\w+)((?:\.\w+\([^(){}]*\))*)")
_ARGUMENT = re.compile(r"\.(\w+)\(([^(){}]*)\)")
_DEEPEST = 5
_MOST_POSTS = 100
_CURSOR = "QVFI"  # the beginning that Graph's cursors have

POST_IDS = Snowflake(epoch_ms=0, bits=16)


class Field(NamedTuple):
    """A field that was asked for: `media.limit(5){id,caption}` has an argument and fields of its own."""

    name: str
    arguments: Mapping[str, str]
    fields: Sequence["Field"]


class Graph:
    """A platform that speaks Graph."""

    error_type = "OAuthException"

    def check_credential(self, request: Request) -> str:
        token = bearer(request) or request.first("access_token")
        if not token:
            raise Refused(self.error(104, "An access token is required to request this resource."))
        if token == EXPIRED:
            message = "Error validating access token: Session has expired."
            raise Refused(self.error(190, message, subcode=463))
        if token == UNAPPROVED:
            message = "(#10) This endpoint requires a permission or feature that the app has not been approved for."
            raise Refused(self.error(10, message))
        return token

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]:
        return {}

    def no_such_path(self) -> Answer:
        return self.error(2500, "Unknown path components")

    def error(
        self, code: int, message: str, *, subcode: int | None = None, status: int = 400, **more: object
    ) -> Answer:
        error = {"message": message, "type": self.error_type, "code": code, **more, "fbtrace_id": "AtRaCeOfNoMeAnInG"}
        return Answer(status, {"error": error if subcode is None else error | {"error_subcode": subcode}})

    def not_found(self, asked: str) -> Answer:
        """Return what is answered for objects that aren't there, aren't public or aren't allowed: nothing tells them apart."""
        message = (
            f"Unsupported get request. Object with ID '{asked}' does not exist, cannot be loaded due to missing "
            "permissions, or does not support this operation"
        )
        return self.error(100, message, subcode=33)

    def fields(self, request: Request) -> Sequence[Field]:
        """Return the fields that a request asks for. Raises Refused if they can't be read."""
        text = request.first("fields")
        if not text:
            return ()
        fields, end = self._fields_from(text, 0, depth=1)
        if end < len(text):
            raise self._unreadable(end)
        return fields

    def selected(self, node: str, item: Mapping[str, Any], fields: Iterable[Field]) -> dict[str, Any]:
        """Return the parts of an item that were asked for; those that are None are left out.

        Raises Refused for a field that such an item doesn't have.
        """
        shown = {}
        for field in fields:
            if field.name not in item:
                message = f"(#100) Tried accessing nonexisting field ({field.name}) on node type ({node})"
                raise Refused(self.error(100, message))
            if item[field.name] is not None:
                shown[field.name] = item[field.name]
        return shown

    def listed(self, account: Account, at: datetime, *, limit: str, after: str) -> tuple[list[Post], dict[str, Any]]:
        """Return one page of posts, newest first, and its `paging`; without `after` there are no more."""
        if not re.fullmatch(r"[1-9][0-9]{0,2}", limit) or int(limit) > _MOST_POSTS:
            raise Refused(self.error(100, f"(#100) Param limit must be between 1 and {_MOST_POSTS}"))
        if not re.fullmatch(rf"({_CURSOR}[0-9a-f]{{1,8}})?", after):
            raise Refused(self.error(100, "(#100) Invalid cursor"))
        before = int(after.removeprefix(_CURSOR), 16) if after else None
        posts = account.page(at, most=int(limit), before=before)
        if not posts:
            return [], {}
        cursors = {"before": f"{_CURSOR}{posts[0].index:x}"}
        if posts[-1].index:
            cursors["after"] = f"{_CURSOR}{posts[-1].index:x}"
        return posts, {"cursors": cursors}

    def _fields_from(self, text: str, at: int, *, depth: int) -> tuple[Sequence[Field], int]:
        """Read the fields that begin at `at`; return them and where they end."""
        fields = []
        while True:
            match = _FIELD.match(text, at)
            if match is None or depth > _DEEPEST:
                raise self._unreadable(at)
            at = match.end()
            within: Sequence[Field] = ()
            if text[at : at + 1] == "{":
                within, at = self._fields_from(text, at + 1, depth=depth + 1)
                if text[at : at + 1] != "}":
                    raise self._unreadable(at)
                at += 1
            fields.append(Field(match[1], dict(_ARGUMENT.findall(match[2])), within))
            if text[at : at + 1] != ",":
                return fields, at
            at += 1

    def _unreadable(self, at: int) -> Refused:
        return Refused(self.error(2500, f"Syntax error at character {at}: fields"))


def finds(name: str) -> bool:
    """Say whether a call by name finds a public account (Instagram, Threads); nothing says why it doesn't.

    A renamed account isn't found: there is no call by id.
    """
    outcomes = ("missing", "suspended", "private", "renamed")
    return re.fullmatch(r"[a-z0-9._]{1,30}", name) is not None and not any(is_marked(name, one) for one in outcomes)


def percent_used(allowance: Allowance) -> int:
    used = allowance.limit.requests - allowance.remaining
    return 100 * used // allowance.limit.requests if allowance.granted else 100


def graph_time(moment: datetime) -> str:
    """Return a time as Graph writes it: `2026-03-02T12:00:00+0000`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")
