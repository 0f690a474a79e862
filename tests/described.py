"""What schemathesis checks beyond its own: answers hold all that is described and no more, refusals say why.

The schemathesis command loads it by its name (`tests/integration/schemathesis.toml`).
"""

import re
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, Response

# What is refused though each parameter is right: pages and cursors of no list, ranges of no days, and fields of another
# group. JSON Schema describes parameters one by one.
TOGETHER = {"page", "cursor", "from", "to", "fields"}

# JSON Schema's patterns know no classes of Unicode that every reader of them knows, too.
NO_LINE = "is not a line of text"

# Accounts that the test has made: invented ones are nearly all a 404, which leads no further.
ACCOUNTS = ["x/hhsgov", "youtube/hhsgov", "mastodon/agency@social.example"]


@schemathesis.hook
def map_body(ctx: schemathesis.HookContext, body: Any) -> Any:
    """Put accounts that there are in the place of every second list of invented ones that is written rightly."""
    accounts = body.get("accounts") if isinstance(body, dict) else None
    if not isinstance(accounts, list) or body.keys() != {"accounts"} or not 0 < len(accounts) <= 100:
        return body
    are_names = all(isinstance(name, str) and re.match("[a-z]+/", name) and len(name) <= 300 for name in accounts)
    return {"accounts": ACCOUNTS[: len(accounts)]} if are_names and sum(map(len, accounts)) % 2 else body


@schemathesis.check
def refusals_name_what_is_wrong(ctx: CheckContext, response: Response, case: Case) -> None:
    """A 400 says which parts are wrong; of a right request it says only what can't be described."""
    if response.status_code != 400:
        return
    errors = response.json().get("errors", [])
    assert errors, f"names nothing: {response.text}"
    if case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE:
        undescribed = [error for error in errors if error["field"] not in TOGETHER and error["reason"] != NO_LINE]
        assert not undescribed, f"a request as described is refused: {undescribed}"


@schemathesis.check
def answers_hold_what_is_described(ctx: CheckContext, response: Response, case: Case) -> None:
    """An answer has no field that isn't described and, unless `fields` chooses, each that is."""
    if not 200 <= response.status_code < 300 or response.request.method != case.operation.method.upper():
        return  # such as OPTIONS, of which nothing is described
    if response.headers.get("content-type") != ["application/json"]:
        return
    described = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    schema = described.get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return
    components = case.operation.schema.raw_schema["components"]["schemas"]
    chosen = "fields" in (case.query or {})
    faults = list(_faults(response.json(), schema, components, "$", whole=not chosen))
    assert not faults, faults


@schemathesis.check
def headers_are_described(ctx: CheckContext, response: Response, case: Case) -> None:
    """An answer bears none of the headers that have a description without it being described to do so."""
    if response.request.method != case.operation.method.upper() or response.status_code == 405:
        return
    raw = case.operation.schema.raw_schema
    known = {name.lower() for name in raw["components"]["headers"]}
    described = case.operation.definition.raw["responses"].get(str(response.status_code), {}).get("headers", {})
    undescribed = known & set(response.headers) - {name.lower() for name in described}
    assert not undescribed, undescribed


def _faults(value, schema, components, place, *, whole):
    if "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        found = [list(_faults(value, member, components, place, whole=whole)) for member in schema["anyOf"]]
        yield from min(found, key=len)
    elif isinstance(value, dict) and "properties" in schema:
        described = schema["properties"]
        yield from (f"{place}.{name} isn't described" for name in value if name not in described)
        if whole:
            absent = [name for name in described if name not in value]
            yield from (f"{place}.{name} is absent" for name in absent)
        for name, inner in value.items():
            yield from _faults(inner, described.get(name, {}), components, f"{place}.{name}", whole=whole)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _faults(inner, schema.get("items", {}), components, f"{place}[{index}]", whole=whole)
    elif isinstance(value, dict) != (schema.get("type") == "object") and schema:
        yield f"{place} is no {schema.get('type')}"
