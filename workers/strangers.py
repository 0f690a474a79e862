"""Which messages of a lane are ours. Whoever can write to the broker could send others, and Celery takes most of them.

It would run what a message says is to follow (callbacks, errbacks, chains), end over a body of another form, and write
what it refuses into the log. Pure.
"""

from collections.abc import Container
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

_Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class _Headers(Struct, frozen=True):
    """What Celery writes into the headers of a job of ours, as far as a worker acts on it."""

    task: str
    id: _Id
    eta: None = None
    expires: None = None
    group: None = None
    shadow: None = None
    retries: Annotated[int, Meta(ge=0)] = 0
    timelimit: tuple[None, None] = (None, None)
    root_id: _Id | None = None
    parent_id: _Id | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: Annotated[int, Meta(ge=0)] = 0
    stamped_headers: None = None
    stamps: dict[str, None] | None = None
    compression: None = None


class _Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments by name."""


class _Following(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be done afterwards: nothing."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


_decoder = msgspec.json.Decoder(tuple[tuple[_Id], _Nothing, _Following])


def fault(message: Any, tasks: Container[str]) -> str | None:
    """Return what makes a message none of ours, without its words; None for a job's id, sent to one of these tasks."""
    if message.content_type != "application/json" or message.content_encoding != "utf-8":
        return "it isn't JSON in UTF-8"
    try:
        headers = msgspec.convert(message.headers, _Headers)
        (job_id,), _, _ = _decoder.decode(message.body)
    except (msgspec.MsgspecError, TypeError, RecursionError):
        return "its headers or its body have another form"
    if headers.task not in tasks:
        return "its task is none of this worker's"
    return None if headers.id == job_id else "it says two ids"
