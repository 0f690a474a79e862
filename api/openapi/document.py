"""The OpenAPI 3.1 document: every address of the API with all that it takes and answers, made from the code alone.

Nothing in it is written for the document where the code says it already: queries, bodies and answers are the Structs
that requests are read into and answers are written from, statuses and headers follow from a resource's operations.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from msgspec import Struct, structs

from api.limiting import UNCOUNTED
from api.openapi import answers, links, parameters, responses
from api.openapi.schemas import Components, Schema, mentioned, of_types, prose
from api.operations import Operation, Operations
from api.problems import ProblemBody
from api.room import Room

METHODS = ("get", "post", "patch", "delete")
ABOUT = """\
Followers, posts and engagement of every social account that an organisation runs, read from the platforms each day and
kept for good.

JSON in UTF-8, times in UTC. `null` is a number that is unknown or that the platform doesn't offer; `0` is what the
platform said. Nothing is invented: a day without a reading is `null`.
"""
KEY = "key"


class Described(Struct, frozen=True):
    """One method of one address."""

    path: str
    method: str
    operation: Operation
    resource: type


def document(room: Room) -> dict[str, Any]:
    """Return the document of all addresses. Pages for people, and what they load, aren't in it."""
    platforms = list(room.platforms)
    told = [one for path, resource in room.routes for one in _methods(path, resource) if _is_api(one)]
    told.sort(key=lambda one: one.operation.always_open)  # what tells of the service itself comes last
    answered, components = answers.of_operations([one.operation for one in told])
    [_, *bodies], more = of_types(
        [ProblemBody, *[one.operation.body for one in told if one.operation.body is not None]]
    )
    components = more | components
    _name_accounts(components, f"^({'|'.join(platforms)})/")
    body_of = iter(bodies)
    paths: dict[str, dict[str, Any]] = {}
    for one, (answer, fields) in zip(told, answered, strict=True):
        body = next(body_of) if one.operation.body is not None else None
        described = _operation(one, answer, fields, body, components, room)
        paths.setdefault(_plain(one.path), {})[one.method] = described
    links.add(paths, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rollcall", "version": version("rollcall"), "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": list(_tags(told)),
        "paths": paths,
        "components": {
            "schemas": _used(paths, components),
            "headers": {
                name: dict(header)
                for name, header in responses.HEADERS.items()
                if name not in responses.LIMITS or _has_limits(room)
            },
            "parameters": {
                name: {"name": name, "in": "header", **parameter} for name, parameter in parameters.HEADERS.items()
            },
            "securitySchemes": {
                KEY: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`rollcall keys create --name NAME --scope refresh` shows one once.",
                }
            },
        },
    }


def _methods(path: str, resource: object) -> Iterator[Described]:
    declared = getattr(resource, "operations", None) or Operations()
    for method in METHODS:
        if operation := getattr(declared, method, None):
            whole = _whole(operation, resource) if method == "get" else operation
            yield Described(path, method, whole, type(resource))


def _whole(operation: Operation, resource: object) -> Operation:
    """Return an operation with what its resource says for itself, as lists do."""
    sorts = operation.sorts or tuple(getattr(resource, "sortable", ()))
    kept_s = getattr(resource, "ttl_s", None) if operation.kept_s is None else operation.kept_s
    return structs.replace(operation, sorts=sorts, kept_s=kept_s)


def _is_api(one: Described) -> bool:
    return one.resource.__module__.startswith("api.resources.")


def _operation(
    one: Described,
    answer: Schema,
    fields: Sequence[str],
    body: Schema | None,
    components: Components,
    room: Room,
) -> dict[str, Any]:
    operation = one.operation
    platforms = list(room.platforms)
    needs_key = operation.scope is not None or (room.settings.api_require_key and not operation.always_open)
    is_limited = _has_limits(room) and one.path not in UNCOUNTED
    said: dict[str, Any] = {
        "operationId": _name(one),
        "summary": operation.summary,
        "description": prose(one.resource.__doc__),
        "tags": [_tag(one)],
        "parameters": [
            *parameters.of_path(one.path, platforms),
            *parameters.of_query(operation, platforms, fields),
            *({"$ref": f"#/components/parameters/{name}"} for name in _headers(operation)),
        ],
        "responses": responses.of_operation(
            operation, one.path, answer, components, needs_key=needs_key, is_limited=is_limited
        ),
    }
    if body is not None:
        said["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if needs_key:
        said["security"] = [{KEY: [] if operation.scope is None else [operation.scope]}]
    return said


def _has_limits(room: Room) -> bool:
    return bool(room.settings.api_rate_limit or room.settings.api_rate_limit_key)


def _headers(operation: Operation) -> tuple[str, ...]:
    return ("X-Request-ID",) if operation.kept_s is None else tuple(parameters.HEADERS)


def _name_accounts(part: Any, pattern: str) -> None:
    """Say wherever an account is named by a text what that looks like."""
    if isinstance(part, dict):
        if part.get("format") == "account-name":
            part["pattern"] = pattern
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            _name_accounts(inner, pattern)


def _used(paths: Mapping[str, Any], components: Components) -> Components:
    """Return the components that the document refers to, each before what it refers to."""
    used: dict[str, Schema] = {}
    ahead = list(mentioned(dict(paths)))
    while ahead:
        name = ahead.pop(0)
        if name not in used:
            used[name] = components[name]
            ahead.extend(mentioned(components[name]))
    return used


def _tags(told: Sequence[Described]) -> Iterator[dict[str, str]]:
    """Yield a tag per file of resources; its docstring says after the addresses what they are about."""
    for module, one in {one.resource.__module__: one for one in told}.items():
        _, _, about = prose(sys.modules[module].__doc__).partition("\n")[0].partition(": ")
        yield {"name": _tag(one), "description": about[:1].upper() + about[1:]}


def _tag(one: Described) -> str:
    return one.resource.__module__.rpartition(".")[2].replace("_", " ")


def _name(one: Described) -> str:
    """Return a name for code: `getHistoryByPlatformAndHandle`."""
    words = [word for word in _plain(one.path).removeprefix("/api").replace(".", "/").split("/") if word]
    nouns = "".join(word.title() for word in words if not word.startswith("{"))
    by = "And".join(name.title().replace("_", "") for name in parameters.names_in(one.path))
    return one.method + nouns + (f"By{by}" if by else "")


def _plain(path: str) -> str:
    """Return an address as OpenAPI writes it, without Falcon's converters."""
    for name in parameters.names_in(path):
        path = path.replace(f"{{{name}:path}}", f"{{{name}}}")
    return path
