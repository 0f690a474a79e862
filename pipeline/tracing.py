"""Traces: a request, the jobs that it sets off, their calls and statements, as one tree of spans.

On only where OTEL_EXPORTER_OTLP_ENDPOINT is set. Without it nothing of OpenTelemetry is imported, and a span costs a
look at a variable. No span bears an address with its query, a value of a statement, or the text of an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.otel import Traces

Attributes = Mapping[str, str | int | float | None]
Kind = Literal["server", "client", "producer", "consumer"]

_NO_SPAN = nullcontext()
_traces: Traces | None = None


def configure(settings: Settings, process: str) -> None:
    """Trace this process from now on, if that is wanted. After the fork: it starts a thread."""
    global _traces
    if settings.otel_exporter_otlp_endpoint and _traces is None:
        from pipeline.otel import Traces

        _traces = Traces(settings, process)


def close() -> None:
    """Send what is left; not for longer than a few seconds."""
    if _traces is not None:
        _traces.close()


def is_on() -> bool:
    return _traces is not None


def span(name: str, kind: Kind, attributes: Attributes = MappingProxyType({})) -> AbstractContextManager[None]:
    """Return a context whose block is a span. What it raises is told by its class alone."""
    return _NO_SPAN if _traces is None else _traces.span(name, kind, attributes)


def tell(attributes: Attributes, *, name: str | None = None) -> None:
    """Say more of the present span, which may get another name. What is None isn't said."""
    if _traces is not None:
        _traces.tell(attributes, name)


def headers() -> Mapping[str, str]:
    """Return the headers of a message by which whoever receives it goes on with this trace."""
    return {} if _traces is None else _traces.headers()


def continued(headers: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return a context in which spans belong to the trace that a message or request came from, if it says so."""
    return _NO_SPAN if _traces is None else _traces.continued(headers)
