"""Answers as they look, made from their schemas: for people who read, and never out of step with the types."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from api.openapi.schemas import Components, Schema, resolved

_DAY = date(2026, 3, 1)
# By the name of a field, or by its Struct's and its own.
_PLAUSIBLE: Mapping[str, Any] = {
    "Fault.reason": "'zero' is not a page number (from 1)",
    "Gap.reason": "collector not running",
    "account": "x/hhsgov",
    "account_key": 17,
    "account_type": "agency",
    "account_url": "https://x.com/HHSGov",
    "accounts": 102,
    "avatar_url": "https://pbs.twimg.com/profile_images/17/hhs.jpg",
    "bio": "Protecting the health of all Americans.",
    "captured_at": "2026-03-02T06:00:04Z",
    "carried": 1,
    "compared": 101,
    "consecutive_failures": 0,
    "delta": 412,
    "delta_1d": 57,
    "delta_7d": 412,
    "delta_30d": 1904,
    "detail": "page: 'zero' is not a page number (from 1)",
    "display_name": "HHS.gov",
    "engagement": 3120,
    "field": "page",
    "followers": 912_345,
    "following": 214,
    "growth_7d_pct": 0.05,
    "group": "platform",
    "handle": "hhsgov",
    "href": "/api/jobs/0198c9a4-7a53-7c1e-9d0b-3f6a2b8e4c11",
    "is_active": True,
    "job_id": "0198c9a4-7a53-7c1e-9d0b-3f6a2b8e4c11",
    "kind": "profiles",
    "next": None,
    "next_cursor": None,
    "note": "Campaign began",
    "org_name": "Department of Health and Human Services",
    "owner_team": "Digital Communications",
    "page": 1,
    "per_page": 50,
    "platform": "x",
    "posts": 18_420,
    "precision": "exact",
    "queue": "x.user_requested",
    "read_interval_s": None,
    "reason": None,
    "result": "ok",
    "source": "live",
    "state": "succeeded",
    "status": "fresh",
    "title": "Bad Request",
    "total": 1,
    "type": "about:blank",
    "url": "https://x.com/HHSGov",
    "verified": True,
}
_FORMATS = {"date": _DAY.isoformat(), "date-time": "2026-03-02T06:00:04Z", "uri": "https://x.com/HHSGov"}


def example(schema: Schema, components: Components, name: str = "") -> Any:
    """Return a value that the schema allows; `name` is the field's that holds it. Columns are of equal length."""
    if "examples" in schema:  # of this use of a component
        return schema["examples"][0]
    schema = resolved(schema, components)
    plausible = _PLAUSIBLE.get(name)
    if name in _PLAUSIBLE and _fits(plausible, schema):
        return plausible
    if "examples" in schema:
        return schema["examples"][0]
    if "anyOf" in schema:
        return example(schema["anyOf"][0], components, name)
    if "enum" in schema or "const" in schema:
        return schema.get("const", next(iter(schema.get("enum", ())), None))
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return {
            key: example(inner, components, own if (own := f"{schema.get('title')}.{key}") in _PLAUSIBLE else key)
            for key, inner in schema.get("properties", {}).items()
        }
    if kind == "array":
        return _items(schema, components, name)
    scalars = {"integer": schema.get("minimum", 3), "number": 0.5, "boolean": False, "null": None}
    return scalars[kind] if kind in scalars else _FORMATS.get(schema.get("format", ""), "…")


def _items(schema: Schema, components: Components, name: str) -> list[Any]:
    first = example(schema.get("items", {}), components, name)
    if isinstance(first, dict) or "…" in str(first):
        return [first]
    if isinstance(first, int):
        return [first, first + 57]
    return [first, (_DAY + timedelta(days=1)).isoformat()] if first == _DAY.isoformat() else [first]


def _fits(value: Any, schema: Schema) -> bool:
    """Tell whether a plausible value is one of this field's."""
    if "anyOf" in schema:
        return any(_fits(value, member) for member in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return bool(schema.get("type") == kinds[type(value)])
