"""How traces are made and sent, with OpenTelemetry. Imported only where an endpoint is set (pipeline/tracing.py)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import structlog
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from db import traced
from pipeline.settings import Settings

log = structlog.get_logger()

# How long spans wait to be sent together, and how long a collector may take for them.
TOGETHER_S = 2.0
SEND_S = 2.0
_KINDS = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}


class Traces:
    """The spans of this process. They are sent by a thread of their own, and thrown away where that doesn't keep up."""

    def __init__(self, settings: Settings, process: str) -> None:
        self._exporter = _Exporter(settings.otel_exporter_otlp_endpoint, settings.otlp_headers)
        named = {"service.name": f"rollcall-{process}", "service.version": version("rollcall")}
        provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._processor = BatchSpanProcessor(self._exporter, schedule_delay_millis=TOGETHER_S * 1000)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("rollcall")
        self._carried = TraceContextTextMapPropagator()
        traced.watch(self._statement)

    @contextmanager
    def span(self, name: str, kind: str, attributes: Mapping[str, Any]) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            name, kind=_KINDS[kind], attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as exc:
                _failed(span, type(exc).__name__)
                raise

    def tell(self, attributes: Mapping[str, Any], name: str | None) -> None:
        span = trace.get_current_span()
        if name is not None:
            span.update_name(name)
        span.set_attributes({key: value for key, value in attributes.items() if value is not None})

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        self._carried.inject(carrier)
        return carrier

    @contextmanager
    def continued(self, headers: Mapping[str, Any]) -> Iterator[None]:
        carried = {name: value for name in self._carried.fields if isinstance(value := headers.get(name), str)}
        token = context.attach(self._carried.extract(carried))
        try:
            yield
        finally:
            context.detach(token)

    def close(self) -> None:
        self._exporter.is_last = True
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _statement(self, text: str, fingerprint: str) -> Callable[[str | None], None] | None:
        """Begin the span of a statement; none where it would stand alone, as what a process does by itself would."""
        if not trace.get_current_span().get_span_context().is_valid:
            return None
        attributes = {"db.system.name": "postgresql", "db.query.text": text, "rollcall.fingerprint": fingerprint}
        span = self._tracer.start_span(text.partition(" ")[0], kind=SpanKind.CLIENT, attributes=attributes)

        def end(error: str | None) -> None:
            if error is not None:
                _failed(span, error)
            span.end()

        return end


def _failed(span: trace.Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))


class _Exporter(SpanExporter):
    """Sends spans to a collector, once each: what it doesn't take is lost, and a log says so when it begins.

    OpenTelemetry's own tries again and again, with a line each time, and keeps a process from stopping meanwhile.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._host = urlsplit(endpoint).hostname
        self._headers = {**headers, "Content-Type": "application/x-protobuf"}
        self._http = PoolManager(timeout=SEND_S, retries=False)
        self._is_away = False
        self.is_last = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._is_away and self.is_last:  # the process ends, and each further try would keep it
            return SpanExportResult.FAILURE
        said = self._send(encode_spans(spans).SerializeToString())
        if said and not self._is_away:
            log.warning("traces_lost", collector=self._host, reason=said)
        elif not said and self._is_away:
            log.info("traces_arrive", collector=self._host)
        self._is_away = bool(said)
        return SpanExportResult.FAILURE if said else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._http.clear()

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    def _send(self, body: bytes) -> str | None:
        """Return what went wrong, in words without the address's and the headers' text."""
        try:
            answer = self._http.request("POST", self._url, body=body, headers=self._headers, redirect=False)
        except HTTPError as exc:
            return type(exc).__name__
        return None if answer.status < 300 else f"answered {answer.status}"
