"""GET /docs: the OpenAPI document for people. Rendered here, without a script in the browser."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from falcon.asgi import Request, Response
from markupsafe import Markup, escape
from msgspec import Struct

from api.cached import HTML
from api.dashboard.look import Look, look
from api.fixed import Fixed
from api.openapi.document import METHODS, document
from api.openapi.examples import example
from api.openapi.parameters import NO_NUL
from api.openapi.schemas import Components, Schema, name_of, resolved
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse

HOST = "https://rollcall.example"
# What a request shows of what could be asked: the first that the address has.
_ASKED = (("sort", "-followers"), ("platform", "x"), ("days", "7"))
_SHORT_LIST = re.compile(r"\[\s+([^][{}]{1,60}?)\s+\]")
_JSON = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?)')


class Row(Struct, frozen=True, kw_only=True):
    """A parameter, or a field of a body or an answer. `names` are all that it may be."""

    name: str
    kind: str
    limits: Sequence[str] = ()
    names: Sequence[str] = ()
    default: str | None = None
    description: str = ""
    is_required: bool = False


class Endpoint(Struct, frozen=True, kw_only=True):
    """A method of an address, as it is shown."""

    name: str
    method: str
    path: str
    summary: str
    description: str
    scope: str | None
    needs_key: bool
    in_path: Sequence[Row]
    in_query: Sequence[Row]
    in_body: Sequence[Row]
    curl: str
    status: str
    media_types: Sequence[str]
    example: str | None
    fields: Sequence[Row]
    statuses: Mapping[str, str]
    is_kept: bool


class Reference:
    """The page of the API."""

    operations = Operations(
        get=Operation(
            summary="What the API takes and answers, for people.",
            query=NoQuery,
            media_types=(HTML,),
            always_open=True,
            kept_s=math.inf,
        )
    )

    def __init__(self, room: Room) -> None:
        self._look = look(room)

        def make() -> bytes:
            return page(document(room), self._look).encode()

        self._fixed = Fixed(make, media_type=HTML, tag="openapi", threads=room.threads)

    async def on_get(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        self._look.guard(resp)
        await self._fixed.give(req, resp)

    on_head = on_get


def page(told: Mapping[str, Any], look: Look) -> str:
    """Render a document."""
    components = told["components"]
    schemas = components["schemas"]
    groups = [(tag, list(_endpoints(told["paths"], schemas, tag["name"]))) for tag in told["tags"]]
    problem = example(schemas["ProblemBody"], schemas) | {"status": 400}
    return look.render(
        "docs.html",
        here="/docs",
        freshness=None,  # this page is the same for as long as the process lives
        simulated=False,
        coloured=coloured,
        slashed=slashed,
        host=HOST,
        info=told["info"],
        groups=groups,
        statuses=_statuses(told["paths"]),
        problem=_pretty(problem),
        given=components["parameters"],
        answered=components["headers"],
    )


def _endpoints(paths: Mapping[str, Any], components: Components, tag: str) -> Iterator[Endpoint]:
    for path, methods in paths.items():
        for method in METHODS:
            if method in methods and tag in methods[method]["tags"]:
                yield _endpoint(path, method, methods[method], components)


def _endpoint(path: str, method: str, operation: Mapping[str, Any], components: Components) -> Endpoint:
    given = [parameter for parameter in operation["parameters"] if "name" in parameter]
    of_body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    status, response = next((code, said) for code, said in operation["responses"].items() if code.startswith("2"))
    content = response.get("content", {})
    shown = content.get("application/json", {})
    security = [scopes for need in operation.get("security", []) for scopes in need.values()]
    return Endpoint(
        name=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        description=operation["description"],
        scope=next((scope for scopes in security for scope in scopes), None),
        needs_key=bool(security),
        in_path=[_parameter(one, components) for one in given if one["in"] == "path"],
        in_query=[_parameter(one, components) for one in given if one["in"] == "query"],
        in_body=list(_rows(of_body, components)) if of_body else (),
        curl=_curl(path, method, given, of_body, components, needs_key=bool(security)),
        status=f"{status} {response['description']}",
        media_types=list(content),
        example=_pretty(shown["example"]) if shown.get("example") else None,
        fields=list(_rows(shown.get("schema", {}), components)),
        statuses={code: said["description"] for code, said in operation["responses"].items()},
        is_kept="304" in operation["responses"],
    )


def _parameter(parameter: Mapping[str, Any], components: Components) -> Row:
    schema = parameter["schema"]
    is_list = schema.get("type") == "array"
    names = [str(name) for name in (schema["items"] if is_list else schema).get("enum", ())]
    # `-name` is the other way round: said once, not for each name.
    named = [name for name in names if not (name.startswith("-") and name[1:] in names)]
    return Row(
        name=parameter["name"],
        kind="names, by commas" if is_list else _kind(schema, components),
        limits=list(_limits(schema)),
        names=named,
        default=None if "default" not in schema else str(schema["default"]),
        description=parameter["description"],
        is_required=parameter.get("required", False),
    )


def _rows(
    schema: Schema, components: Components, before: str = "", depth: int = 0, shown: dict[str, str] | None = None
) -> Iterator[Row]:
    """Yield the fields of an object, those of what it holds or lists behind it (`items[].handle`).

    `shown` is where the fields of each component stand already: they are named once.
    """
    shown = {} if shown is None else shown
    whole = resolved(_first(schema, components), components)
    for name, of_field in whole.get("properties", {}).items():
        inner = resolved(_first(of_field, components), components)
        listed = inner.get("items")
        held = _first(listed, components) if listed else _first(of_field, components)
        component, place = name_of(held), f"{before}{name}{'[]' if listed else ''}"
        stands_at = shown.get(component or "")
        yield Row(
            name=before + name,
            kind=f"as {stands_at}" if stands_at else _kind(of_field, components),
            names=of_field.get("enum", ()),
            limits=list(_limits(of_field)),
            description=_sentence((listed or _first(of_field, components)).get("description", "")),
            is_required=name in whole.get("required", ()),
        )
        if "properties" in resolved(held, components) and depth < 2 and not stands_at:
            if component:
                shown[component] = place
            yield from _rows(held, components, f"{place}.", depth + 1, shown)


def _first(schema: Schema, components: Components) -> Schema:
    """Return the first of what something may be: null stands last."""
    members: Sequence[Schema] = resolved(schema, components).get("anyOf", [schema])
    return members[0]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _kind(schema: Schema, components: Components) -> str:
    """Name a type as one says it."""
    schema = resolved(schema, components)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(member, components) for member in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), components)}"
    if "enum" in schema and "type" not in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    formats = {"date": "date", "date-time": "time", "uuid": "UUID"}
    kinds = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
    return formats.get(schema.get("format", ""), "") or kinds.get(schema.get("type", ""), "object")


def _limits(schema: Schema) -> Iterator[str]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None or most is not None:
        yield f"{least:,} to {most:,}" if most is not None else f"from {least:,}"
    if "maxLength" in schema:
        yield f"{schema.get('minLength', 0)} to {schema['maxLength']} characters"
    if "maxItems" in schema:
        yield f"at most {schema['maxItems']}"
    if schema.get("format") == "date":
        yield "YYYY-MM-DD"
    elif "pattern" in schema and schema["pattern"] != NO_NUL and "enum" not in schema:
        yield f"as {schema['pattern']}"


def _curl(
    path: str,
    method: str,
    given: Sequence[Mapping[str, Any]],
    body: Schema | None,
    components: Components,
    *,
    needs_key: bool,
) -> str:
    """Return the command that asks this, as one would type it."""
    values = {one["name"]: one.get("example", example(one["schema"], components, one["name"])) for one in given}
    for one in given:
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", quote(str(values[one["name"]]), safe=""))
    queried = {one["name"]: one["schema"] for one in given if one["in"] == "query"}
    asked = {name: value for name, value in _ASKED if value in map(str, queried.get(name, {}).get("enum", ()))}
    asked |= {one["name"]: values[one["name"]] for one in given if one["in"] == "query" and one.get("required")}
    query = f"?{urlencode(asked)}" if asked else ""
    parts = [f"curl --compressed '{HOST}{path}{query}'"]
    if method != "get":
        parts.append(f"-X {method.upper()}")
    if needs_key:
        parts.append("-H 'Authorization: Bearer rc_…'")
    if body is not None:
        sent = json.dumps(example(body, components), ensure_ascii=False)
        parts += ["-H 'Content-Type: application/json'", f"-d '{sent}'"]
    return " \\\n  ".join(parts)


def _statuses(paths: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what each status that is an error means, where several say it, the first."""
    found = {"405": "The address doesn't take this method; `Allow` lists those that it takes."}
    for methods in paths.values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if not status.startswith(("2", "3")) and "application/problem+json" in response.get("content", {}):
                    found.setdefault(status, response["description"])
    return dict(sorted(found.items()))


def _pretty(value: Any) -> str:
    """Write JSON for reading: short lists and columns in one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _SHORT_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def coloured(text: str) -> Markup:
    """Return JSON with its parts marked by what they are."""

    def mark(found: re.Match[str]) -> str:
        string, colon, word, number = found.groups()
        if string:
            return f'<span class="{"name" if colon else "string"}">{escape(string)}</span>{colon or ""}'
        return f'<span class="literal">{escape(word or number)}</span>'

    parts, end = [], 0
    for found in _JSON.finditer(text):
        parts += [str(escape(text[end : found.start()])), mark(found)]
        end = found.end()
    return Markup("".join([*parts, str(escape(text[end:]))]))  # noqa: S704  # every part is escaped above


def slashed(path: str) -> Markup:
    """Return an address that may be broken behind its slashes."""
    return Markup(str(escape(path)).replace("/", "/<wbr>"))  # noqa: S704  # escaped


def routes(room: Room) -> Iterator[Route]:
    yield "/docs", Reference(room)
