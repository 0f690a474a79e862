"""What a method of an address takes and answers, as data: access, OpenAPI and the readable page follow from it."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from db.keys import Scope


class Operation(Struct, frozen=True, kw_only=True):
    """One method of a resource. `summary` is one line; what is optional in `query` is so by its Struct.

    `answer` is the type of the JSON that a success has (None: another media type, or no body; a union where a parameter
    decides), `also` are further statuses that have it. `fields=` chooses from `record`: by itself from the answer's
    `items`, or from the answer where it has none. `sort=` takes one of `sorts`. `scope` is what a key must allow, None
    where reading is all that happens; `always_open` answers without a key even where reading needs one.
    `kept_s` is for how long the caches keep an answer, None where there are none. `problems` say when a status comes
    that doesn't follow from all this, `headers` what a success bears of its own.
    """

    summary: str
    answer: Any = None
    record: type[Struct] | None = None
    query: type[Struct] | None = None
    sorts: tuple[str, ...] = ()
    body: Any = None
    status: int = 200
    also: tuple[int, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)
    headers: Mapping[str, str] = {}
    problems: Mapping[int, str] = {}
    scope: Scope | None = None
    always_open: bool = False
    kept_s: float | None = None


class Operations(Struct, frozen=True, kw_only=True):
    """What a resource does, by method: its class attribute `operations`. HEAD is as GET."""

    get: Operation | None = None
    post: Operation | None = None
    patch: Operation | None = None
    delete: Operation | None = None


def operation_of(resource: object, method: str) -> Operation | None:
    """Return what a resource says of a method; None where it doesn't have it."""
    name = method.lower()
    found: Operation | None = getattr(getattr(resource, "operations", None), "get" if name == "head" else name, None)
    return found
