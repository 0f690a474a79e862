"""The parts of a JSON value by their paths, to change one and leave the rest as it is."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[str | int, ...]


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every part with its path, the whole first."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from walk(part, (*path, key))


def changed(value: Any, path: Path, change: Callable[[Any, Any], None]) -> Any:
    """Return a copy in which `change` was given the container and the key of the part at `path`, which isn't the whole."""
    found = copied = copy.deepcopy(value)
    for key in path[:-1]:
        found = found[key]
    change(found, path[-1])
    return copied


def replaced(value: Any, path: Path, part: Any) -> Any:
    return changed(value, path, lambda container, key: container.__setitem__(key, part)) if path else part


def without(value: Any, path: Path) -> Any:
    return changed(value, path, lambda container, key: container.__delitem__(key))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy in which every object and list, the innermost first, is what `change` makes of it."""
    if isinstance(value, dict):
        return change({key: mapped(part, change) for key, part in value.items()})
    if isinstance(value, list):
        return change([mapped(part, change) for part in value])
    return value
