"""What a request may say: the parameters of a query, an address and the headers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, Union

from msgspec import NODEFAULT, structs, to_builtins

from api.naming import PATH_PARAMETERS
from api.openapi.schemas import Schema, alternatives, of_types
from api.operations import Operation

Parameter = dict[str, Any]

HEADERS: Mapping[str, Parameter] = {
    "If-None-Match": {
        "description": "The `ETag` of an answer that you have: a 304 says that it still holds.",
        "schema": {"type": "string"},
    },
    "Accept-Encoding": {
        "description": "The codings that you read: zstd, br, gzip or identity, with weights if you like.",
        "schema": {"type": "string"},
    },
    "X-Request-ID": {
        "description": "Your name for this request, which the answer and our log repeat: up to 128 of A-Z a-z 0-9 _ . : / + = -."
        " Another one gets a new name.",
        "schema": {"type": "string"},
    },
}
NO_NUL = "^[^\\u0000]*$"
# What a parameter of such a name means everywhere, where its type doesn't say it.
_MEANINGS = {
    "fields": "Only these fields, in this order. Without it, all of them.",
    "sort": "The field that the list is sorted by; with `-` before it, the other way round. Unknown values come last.",
    "cursor": "The `next_cursor` of the part before, under the same filters and order: costs the same however deep."
    " Goes without `page`.",
    "page": "Which page, from 1. One beyond the last is refused.",
    "per_page": "How many items at most.",
    "platform": "Only accounts of this platform.",
    "org": "Only accounts of this organisation, by its whole name.",
    "core": "Only core accounts, or only the others.",
    "status": "Only accounts that stand so.",
    "q": "Only accounts whose handle, name or organisation contains this, in any case.",
    "from": "The first day of the range, in UTC. Without it, 365 days before the last.",
    "to": "The last day of the range, in UTC. Without it, today.",
    "interval": "One number per day, week (from Monday) or month: the last reading in it.",
    "group": "What the figures are of.",
    "format": "What the answer is written as. Without it the header `Accept` decides.",
    "days": "Over how many days.",
    "by": "Whether changes are compared by number or by percent.",
    "kind": "Only jobs that ask for this.",
    "lane": "Only jobs of these queues.",
    "state": "Only jobs that stand so.",
}
# The same in the words of JSON Schema, where those of Python's types don't reach.
_NARROWER: Mapping[str, Schema] = {"cursor": {"pattern": "^[A-Za-z0-9_-]+$"}}


def of_query(operation: Operation, platforms: Sequence[str], fields: Sequence[str]) -> Iterator[Parameter]:
    """Yield the parameters of an operation's query; `fields` are those that it may choose."""
    if operation.query is None:
        return
    for field in structs.fields(operation.query):
        name = field.encode_name
        schema = _schema(field.type)
        described = schema.pop("description", "")
        parameter: Parameter = {
            "name": name,
            "in": "query",
            "description": _MEANINGS.get(name) or described[:1].upper() + described[1:],
            "schema": _narrowed(name, schema, operation.sorts, platforms, fields),
        }
        if name == "fields":
            parameter |= {"style": "form", "explode": False}
        if field.required:
            parameter["required"] = True
        elif field.default not in (None, NODEFAULT):
            parameter["schema"]["default"] = to_builtins(field.default)
        yield parameter


def of_path(path: str, platforms: Sequence[str]) -> Iterator[Parameter]:
    """Yield the parameters in an address; what they mean stands beside the code that reads them."""
    for name in names_in(path):
        schema = _schema(PATH_PARAMETERS.get(name, str))
        if name == "platform":
            schema["enum"] = list(platforms)
        described = schema.pop("description", "")
        examples = schema.pop("examples", [])
        parameter = {"name": name, "in": "path", "required": True, "description": described, "schema": schema}
        if examples:
            parameter["example"] = examples[0]
        yield parameter


def names_in(path: str) -> list[str]:
    """Return the names of an address's parameters, in their order."""
    return re.findall(r"{(\w+)(?::\w+)?}", path)


def _narrowed(
    name: str, schema: Schema, sorts: Sequence[str], platforms: Sequence[str], fields: Sequence[str]
) -> Schema:
    """Return the schema of a query's parameter with what its type doesn't say."""
    if name == "fields":
        items = {"type": "string", "enum": list(fields)} if fields else {"type": "string"}
        return {"type": "array", "items": items, "minItems": 1, "uniqueItems": True}
    if name == "platform":
        return schema | {"enum": list(platforms)}
    if name == "sort" and sorts:
        return schema | {"enum": [way + column for column in sorts for way in ("", "-")]}
    if name in _NARROWER:
        return schema | _NARROWER[name]
    is_free = schema.get("type") == "string" and not {"enum", "pattern", "format"} & schema.keys()
    return schema | {"pattern": NO_NUL} if is_free else schema


def _schema(annotation: Any) -> Schema:
    """Return the schema of one value. An optional parameter is left out, never null."""
    given: Any = tuple(part for part in alternatives(annotation) if part is not NoneType)
    [schema], _ = of_types([given[0] if len(given) == 1 else Union[given]])  # noqa: UP007
    for kind, name in ((str, "string"), (int, "integer")):  # msgspec leaves it out where there are names
        if "enum" in schema and all(isinstance(value, kind) for value in schema["enum"]):
            schema["type"] = name
    return schema
