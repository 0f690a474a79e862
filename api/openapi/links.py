"""Where an answer leads: from a list to its accounts, from them to their histories, from what was asked for to its job."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from api.openapi import parameters
from api.openapi.schemas import Components, Schema, resolved


def add(paths: Mapping[str, Mapping[str, Any]], components: Components) -> None:
    """Say of each answer where it leads: to every other address whose parameters it holds."""
    targets = [
        (path, methods["get"]) for path, methods in paths.items() if "get" in methods and parameters.names_in(path)
    ]
    for methods in paths.values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                schema = response.get("content", {}).get("application/json", {}).get("schema", {})
                onward = [target for target in targets if target[1] is not operation]
                found = dict(_links(schema, components, onward)) if status.startswith("2") else {}
                if found:
                    response["links"] = found


def _links(
    schema: Schema, components: Components, targets: Sequence[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[str, Any]]:
    places = list(_places(schema, components))
    for path, target in targets:
        needed = parameters.names_in(path)
        for place, properties in places:
            if set(needed) <= properties.keys():
                link = {name: f"$response.body#{place}/{name}" for name in needed}
                yield target["operationId"], {"operationId": target["operationId"], "parameters": link}
                break


def _places(schema: Schema, components: Components) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield where in an answer objects are, with their properties: the answer, and what it holds or lists."""
    for part in resolved(schema, components).get("anyOf", [schema]):
        properties = resolved(part, components).get("properties", {})
        yield "", properties
        for name, inner in properties.items():
            whole = resolved(inner, components)
            place, held = (f"/{name}/0", whole["items"]) if "items" in whole else (f"/{name}", whole)
            yield place, resolved(held, components).get("properties", {})
