"""What every simulated platform is made of: requests, answers, and routes from the one to the other."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

from deploy.simulator.limits import Allowance, Limit

EXPIRED = "expired"
UNAPPROVED = "unapproved"
"""Credentials that a platform refuses in its own way: as no longer valid, and as one that may not ask for this."""


class Request(NamedTuple):
    """A request below a platform's base URL, with header names in lower case. `at` is the world's time."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    body: bytes
    at: datetime
    base_url: str

    def first(self, name: str) -> str:
        """Return the first value of a parameter, empty if there is none."""
        return self.query.get(name, ("",))[0]

    def listed(self, name: str) -> list[str]:
        """Return the values of a parameter that is written as a comma-separated list, each once."""
        return list(dict.fromkeys(filter(None, self.first(name).split(","))))

    def form(self) -> Mapping[str, str]:
        """Return the fields of a form in the body."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))


class Answer(NamedTuple):
    """`body` is sent as JSON, or as HTML if it is text."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


class Refused(Exception):
    """Ends the work on a request with an answer of its own."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class Route(NamedTuple):
    """`endpoint` is how requests are counted; `answer` gets the request and the groups of the pattern."""

    endpoint: str
    pattern: re.Pattern[str]
    answer: Callable[..., Answer]
    method: str = "GET"
    where: tuple[str, str] | None = None
    """A parameter that must have this value (Flickr names its calls so)."""
    batch: str = ""
    """The parameter that lists what is asked for, where a request carries many."""

    def match(self, request: Request) -> re.Match[str] | None:
        if request.method != self.method or (self.where and request.first(self.where[0]) != self.where[1]):
            return None
        return self.pattern.fullmatch(request.path)

    def size(self, request: Request) -> int:
        """Return how many accounts (or videos) a request carries."""
        return sum(len(value.split(",")) for value in request.query.get(self.batch, ())) or 1


class Site(Protocol):
    """One platform."""

    @property
    def name(self) -> str: ...

    @property
    def routes(self) -> Sequence[Route]: ...

    def check_credential(self, request: Request) -> str:
        """Return the credential whose allowance a request uses, empty where the platform needs none.

        Raises Refused for one that is missing, no longer valid or not allowed to ask.
        """

    def limit(self, endpoint: str, request: Request) -> tuple[str, Limit] | None:
        """Return the bucket that a request draws from and the limit that is published for it, None if there is none."""

    def limit_headers(self, allowance: Allowance) -> Mapping[str, str]: ...

    def limit_reached(self, allowance: Allowance) -> Answer: ...

    def no_such_path(self) -> Answer: ...


def bearer(request: Request) -> str | None:
    """Return the bearer token of a request, None if it carries none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def amount(request: Request, name: str, *, default: int, least: int, most: int) -> int | None:
    """Return a parameter that is a number, None if it is none or out of range."""
    text = request.first(name) or str(default)
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) and least <= int(text) <= most else None
