"""JSON Schemas of the Structs that cross the API's door."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

Schema = dict[str, Any]
Components = dict[str, Schema]

PLACE = "#/components/schemas/"


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type that it is."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def of_types(annotations: Sequence[Any]) -> tuple[list[Schema], Components]:
    """Return the schema of each type, and the components that these refer to."""
    schemas, components = msgspec.json.schema_components(annotations, ref_template=PLACE + "{name}")
    return list(schemas), {name: _told(schema) for name, schema in components.items()}


def resolved(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    """Return what a schema refers to, or itself."""
    return components[name] if (name := name_of(schema)) else schema


def name_of(schema: Schema) -> str | None:
    """Return the name of the component that a schema refers to."""
    reference = str(schema.get("$ref", ""))
    return reference.removeprefix(PLACE) if reference.startswith(PLACE) else None


def mentioned(part: Any) -> Iterator[str]:
    """Yield the name of every component that a part of the document refers to."""
    if isinstance(part, dict):
        if name := name_of(part):
            yield name
        for inner in part.values():
            yield from mentioned(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from mentioned(inner)


def renamed(part: Any, names: Mapping[str, str]) -> Any:
    """Return a part of the document that refers to other components."""
    if isinstance(part, list):
        return [renamed(inner, names) for inner in part]
    if not isinstance(part, dict):
        return part
    name = name_of(part) or ""
    changed = {"$ref": PLACE + names[name]} if name in names else {}
    return {key: renamed(inner, names) for key, inner in part.items()} | changed


def prose(docstring: str | None) -> str:
    """Return a docstring as a reader of JSON understands it."""
    return re.sub(r"\bNone\b", "null", inspect.cleandoc(docstring or ""))


def _told(schema: Schema) -> Schema:
    """Return a Struct's schema with its docstring as prose, and with the format of its times."""
    if "description" in schema:
        schema["description"] = prose(schema["description"])
    for name, of_field in schema.get("properties", {}).items():
        # msgspec leaves it out where a type doesn't name a zone; ours are aware, and named so (STYLE: `_at`).
        if name.endswith("_at") or name == "as_of":
            for kind in of_field.get("anyOf", [of_field]):
                if kind.get("type") == "string":
                    kind["format"] = "date-time"
    return schema
