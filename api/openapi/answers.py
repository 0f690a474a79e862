"""What operations answer as JSON, and what `fields` leaves of it."""

from collections.abc import Sequence

from msgspec import Struct, structs

from api.openapi.schemas import Components, Schema, alternatives, name_of, of_types, renamed, resolved
from api.operations import Operation


def of_operations(operations: Sequence[Operation]) -> tuple[list[tuple[Schema, list[str]]], Components]:
    """Return each operation's answer with the fields that it may choose, and the components of all."""
    kinds = [alternatives(operation.answer) for operation in operations]
    records = [() if operation.record is None else (operation.record,) for operation in operations]
    schemas, components = of_types([kind for some in (*kinds, *records) for kind in some if kind is not None])
    left = iter(schemas)
    parts = [[next(left) for kind in some if kind is not None] for some in kinds]
    given = [[next(left) for _ in some] for some in records]
    found = []
    for operation, some, record in zip(operations, parts, given, strict=True):
        fields: list[str] = []
        if operation.query is not None and _chooses(operation.query):
            chosen = [name for part in record or some if (name := name_of(_record(part, components, bool(record))))]
            fields = list(dict.fromkeys(field for name in chosen for field in components[name]["properties"]))
            some = [_with_chosen(part, chosen, components) for part in some]
        found.append(({"anyOf": some} if len(some) > 1 else next(iter(some), {}), fields))
    return found, components


def _chooses(query: type[Struct]) -> bool:
    return any(field.encode_name == "fields" for field in structs.fields(query))


def _record(answer: Schema, components: Components, is_record: bool) -> Schema:
    """Return what `fields` chooses from: the items of a list, or the answer itself."""
    items = resolved(answer, components).get("properties", {}).get("items", {}).get("items", {})
    return items if items and not is_record else answer


def _with_chosen(answer: Schema, records: Sequence[str], components: Components) -> Schema:
    """Return the answer in which records may lack fields, since `fields` leaves them out; add its components."""
    names = {name: f"{name}_chosen" for name in records}
    for name, chosen in names.items():
        whole = components[name]
        note = "`fields` chooses among these; without it all are there."
        told = "\n\n".join(filter(None, (whole.get("description"), note)))
        components[chosen] = {key: part for key, part in whole.items() if key != "required"} | {"description": told}
    whole_answer = name_of(answer)
    if whole_answer is not None and whole_answer not in names:
        names[whole_answer] = f"{whole_answer}_chosen"
        components[names[whole_answer]] = renamed(components[whole_answer], names)
    return dict(renamed(answer, names))
