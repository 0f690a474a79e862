"""Tells whoever traces of each statement that SQLAlchemy sends: its text without the values, and how it ended."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, event

from db.profiler import fingerprint, without_values

# Begins with the text and its fingerprint; what it returns is called at the end, with the class of an error.
Begin = Callable[[str, str], Callable[[str | None], None] | None]


def watch(begin: Begin) -> None:
    """Tell `begin` of every statement of this process from now on."""

    def began(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        context.rollcall_end = begin(*_said(statement))

    def ended(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        _end(context, None)

    def failed(met: Any) -> None:
        _end(met.execution_context, type(met.original_exception).__name__)

    event.listen(Engine, "before_cursor_execute", began)
    event.listen(Engine, "after_cursor_execute", ended)
    event.listen(Engine, "handle_error", failed)


def _end(context: Any, error: str | None) -> None:
    end = getattr(context, "rollcall_end", None)  # no context where a connection failed, and no span
    if end is not None:
        context.rollcall_end = None
        end(error)


@lru_cache(2_000)
def _said(statement: str) -> tuple[str, str]:
    text = without_values(statement)
    return text, fingerprint(text)
