"""Errors as RFC 9457 problems (`application/problem+json`): each names the fault, and none is a 500 by a client's doing."""

import http
from collections.abc import Sequence
from typing import Any

import falcon
import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import Struct

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


class Problem(falcon.HTTPError):
    """An answer that says what is wrong. `faults` are the parts of the request at fault."""

    def __init__(
        self, status: int, detail: str, *, faults: Sequence[Fault] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, title=http.HTTPStatus(status).phrase, description=detail, headers=headers)
        self.faults = tuple(faults)


def refuse(*faults: Fault) -> Problem:
    """Return the 400 that names everything wrong with a request."""
    return Problem(400, "; ".join(f"{fault.field}: {fault.reason}" for fault in faults), faults=faults)


def install(app: "falcon.asgi.App[Any, Any]") -> None:
    """Make every error that leaves the app a problem."""
    app.set_error_serializer(_serialize)
    app.add_error_handler(DatabaseError, _database_away)
    app.add_error_handler(PoolTimeout, _database_away)
    app.add_error_handler(Exception, _our_fault)


def _serialize(req: Request, resp: Response, error: falcon.HTTPError) -> None:
    status = error.status_code
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": error.description or _UNSAID.get(status) or http.HTTPStatus(status).phrase,
    }
    if isinstance(error, Problem) and error.faults:
        problem["errors"] = error.faults
    resp.data = msgspec.json.encode(problem)
    resp.content_type = MEDIA_TYPE
    resp.set_header("Cache-Control", "no-store")


async def _database_away(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    log.error("database_failed", error=type(error).__name__, exc_info=error)
    raise Problem(503, "The database can't be read at the moment.", headers={"Retry-After": "5"})


async def _our_fault(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    log.error("request_failed", exc_info=error)
    raise Problem(500, "Something went wrong on our side; the log knows it by the X-Request-ID of this answer.")
