"""What a message carries beside its work, by which logs and traces go on from a request to what it set off."""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from structlog.contextvars import bound_contextvars, get_contextvars

from pipeline import tracing

REQUEST_ID = "request_id"
_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


def is_id(text: str) -> bool:
    """Tell whether a request may be called so: a log needs no quotes around it."""
    return _ID.fullmatch(text) is not None


def new_id(prefix: str) -> str:
    """Return an id for what no request of the API asks for."""
    return f"{prefix}-{secrets.token_hex(8)}"


def headers() -> dict[str, str]:
    """Return the headers of a message that is sent in this context."""
    bound = get_contextvars()
    return ({REQUEST_ID: bound[REQUEST_ID]} if REQUEST_ID in bound else {}) | dict(tracing.headers())


@contextmanager
def followed(headers: Mapping[str, Any]) -> Iterator[None]:
    """Let what the block logs and sends belong to the request whose message bore these headers."""
    request_id = headers.get(REQUEST_ID)
    bound = {REQUEST_ID: request_id} if isinstance(request_id, str) and is_id(request_id) else {}
    with tracing.continued(headers), bound_contextvars(**bound):
        yield
