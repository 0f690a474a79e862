"""An OpenTelemetry collector for tests: takes spans over HTTP, as they are on the wire."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Span(NamedTuple):
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, str]
    is_error: bool


class Collector:
    """What came so far: the spans, all bytes of them, and the headers that they came with."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []
        self.wire = b""

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces"
        found: Any = ExportTraceServiceRequest()
        found.ParseFromString(body)
        self.headers.append(headers)
        self.wire += body
        for resource in found.resource_spans:
            of = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_span(of["service.name"], span) for span in scope.spans]


def _span(service: str, span: Any) -> Span:
    attributes = {one.key: str(getattr(one.value, one.value.WhichOneof("value"))) for one in span.attributes}
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    return Span(service, span.name, *ids, attributes, span.status.code == 2)


@contextmanager
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        came = Collector(server.server_port)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield came
        server.shutdown()
        thread.join()
