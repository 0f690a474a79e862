"""One JSON object of an answer, which knows where it stands: what is missing in it can be named by its path."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from db.lines import without_controls
from pipeline.errors import BadPage

_LARGEST_COUNT = 2**63 - 1  # the database's bigint


class Node:
    """Reads fields of one object. Unknown fields are ignored, an absent one or null is None, never 0 or "".

    A field of another type than documented raises BadPage with its path, as does an absent one that is asked for
    with a `need_` method. What should be an object and isn't one reads as an empty one.
    """

    def __init__(self, platform: str, value: Any, path: str = "") -> None:
        self._platform = platform
        self._fields: Mapping[str, Any] = value if isinstance(value, dict) else {}
        self._path = path

    def node(self, name: str) -> "Node":
        return Node(self._platform, self._fields.get(name), self._at(name))

    def nodes(self, name: str) -> Sequence["Node"]:
        """Return the objects of a list, none when it is absent."""
        found = self._fields.get(name)
        if found is None:
            return []
        if not isinstance(found, list):
            raise self.bad(name)
        return [Node(self._platform, value, f"{self._at(name)}[{i}]") for i, value in enumerate(found)]

    def need_nodes(self, name: str) -> Sequence["Node"]:
        """Return the objects of a list that must be there, if only as an empty one."""
        if not self.has(name):
            raise self.bad(name)
        return self.nodes(name)

    def has(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def text(self, name: str) -> str | None:
        """Return a text that PostgreSQL can keep and no terminal obeys; a number (an id beyond 2^53) as its digits."""
        found = self._fields.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, str | int):
            raise self.bad(name)
        return without_controls(str(found)).encode("utf-8", "replace").decode()

    def need_text(self, name: str) -> str:
        """Return a text that is there and not empty."""
        found = self.text(name)
        if not found:
            raise self.bad(name)
        return found

    def count(self, name: str) -> int | None:
        """Return a count, also one written as digits in a string. Below zero means that it isn't told: None."""
        found = self._fields.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, str | int):
            raise self.bad(name)
        try:
            count = int(found)
        except ValueError as exc:
            raise self.bad(name) from exc
        if count > _LARGEST_COUNT:
            raise self.bad(name)
        return count if count >= 0 else None

    def need_count(self, name: str) -> int | None:
        """Return a count that the platform always sends: None only where it sends one below zero."""
        if not self.has(name):
            raise self.bad(name)
        return self.count(name)

    def flag(self, name: str) -> bool | None:
        found = self._fields.get(name)
        return found if isinstance(found, bool) else None

    def time(self, name: str) -> datetime:
        """Return an ISO 8601 time that must be there, in UTC."""
        try:
            moment = datetime.fromisoformat(self.need_text(name))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError) as exc:
            raise self.bad(name) from exc

    def epoch(self, name: str) -> datetime:
        """Return a time that must be there, written as seconds since 1970: a number, or one in a string."""
        found = self._fields.get(name)
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise self.bad(name)
        try:
            return datetime.fromtimestamp(float(found), UTC)
        except (ValueError, OverflowError, OSError) as exc:
            raise self.bad(name) from exc

    def bad(self, name: str) -> BadPage:
        """Return the error that says that this field isn't as documented."""
        return BadPage(self._platform, self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


class Index:
    """The objects of a list by the text of one field."""

    def __init__(self, nodes: Sequence[Node], field: str, *, ignore_case: bool = False) -> None:
        self._fold = str.lower if ignore_case else str
        self._found: dict[str, Node] = {}
        self._nameless: BadPage | None = None
        for node in nodes:
            try:
                self._found[self._fold(node.need_text(field))] = node
            except BadPage as exc:
                self._nameless = exc

    def get(self, text: str) -> Node | None:
        """Return the object, or None when the list surely doesn't hold it.

        Raises BadPage when an object can't be told by its field: it may be the one that is looked for.
        """
        found = self._found.get(self._fold(text))
        if found is None and self._nameless is not None:
            raise BadPage(self._nameless.platform, self._nameless.path)
        return found
