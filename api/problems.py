"""Errors as RFC 9457 problems (`application/problem+json`): each names the fault, and none is a 500 by a client's doing."""

import http
from collections.abc import Callable, Sequence
from typing import Any

import falcon
import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import UNSET, Struct, UnsetType

from db.engine import DatabaseError, PoolTimeout

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
_UNSAID = {
    404: "There is nothing at this address.",
    405: "This address does not take this method; Allow lists those it takes.",
}


class Fault(Struct, frozen=True):
    """One thing that is wrong in a request: where, and why."""

    field: str
    reason: str


class ProblemBody(Struct, frozen=True, kw_only=True):
    """What was wrong (RFC 9457). `errors` are the parts of the request at fault, each with its reason."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[Fault, ...] | UnsetType = UNSET


class Problem(falcon.HTTPError):
    """An answer that says what is wrong. `faults` are the parts of the request at fault."""

    def __init__(
        self, status: int, detail: str, *, faults: Sequence[Fault] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, title=http.HTTPStatus(status).phrase, description=detail, headers=headers)
        self.faults = tuple(faults)


class Absent(Problem):
    """There is no account of that name: an answer that may be kept until one is added or gets another name."""

    def __init__(self, detail: str) -> None:
        super().__init__(404, detail)


def refuse(*faults: Fault) -> Problem:
    """Return the 400 that names everything wrong with a request."""
    return Problem(400, "; ".join(f"{fault.field}: {fault.reason}" for fault in faults), faults=faults)


Show = Callable[[Response, falcon.HTTPError], None]


def is_for_people(req: Request) -> bool:
    """Tell whether a browser shows the answer to somebody: outside the API, and HTML is asked for by name."""
    return "text/html" in (req.get_header("Accept") or "") and not req.path.startswith("/api/")


def install(app: "falcon.asgi.App[Any, Any]", show: Show) -> None:
    """Make every error that leaves the app a problem; `show` writes the page that people get instead."""

    def serialize(req: Request, resp: Response, error: falcon.HTTPError) -> None:
        resp.set_header("Cache-Control", "no-store")
        if is_for_people(req):
            show(resp, error)
        else:
            resp.data = body_of(error)
            resp.content_type = MEDIA_TYPE

    app.set_error_serializer(serialize)
    app.add_error_handler(DatabaseError, _database_away)
    app.add_error_handler(PoolTimeout, _database_away)
    app.add_error_handler(Exception, _our_fault)


def body_of(error: falcon.HTTPError) -> bytes:
    """Return the JSON that says what is wrong."""
    return msgspec.json.encode(said(error))


def said(error: falcon.HTTPError) -> ProblemBody:
    """Return what an error says is wrong."""
    status = error.status_code
    phrase = http.HTTPStatus(status).phrase
    faults = error.faults if isinstance(error, Problem) else ()
    return ProblemBody(
        type="about:blank",
        title=phrase,
        status=status,
        detail=error.description or _UNSAID.get(status) or phrase,
        errors=faults or UNSET,
    )


async def _database_away(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    log.error("database_failed", error=type(error).__name__, exc_info=error)
    raise Problem(503, "The database can't be read at the moment.", headers={"Retry-After": "5"})


async def _our_fault(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    log.error("request_failed", exc_info=error)
    raise Problem(500, "Something went wrong on our side; the log knows it by the X-Request-ID of this answer.")
