"""The simulator's sockets: HTTP/1.1 with keep-alive, and every way an answer can break on its way."""

import socket
import sys
from contextlib import suppress
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self

import msgspec

from deploy.simulator.faults import Fault
from deploy.simulator.simulation import Simulation
from deploy.simulator.site import Answer

_MOST_BODY_BYTES = 1 << 20
_POLL_S = 0.05  # how soon `stop` is seen


class Simulator:
    """A running simulator. `port` 0 takes a free one; `url` is the address it then has.

    `simulation` answers in the place of the ordinary one of this seed.
    """

    def __init__(
        self, port: int = 0, *, host: str = "127.0.0.1", seed: int = 1, simulation: Simulation | None = None
    ) -> None:
        self._server = _Server((host, port), simulation or Simulation(seed))
        self._thread = Thread(target=self._server.serve_forever, args=(_POLL_S,), name="simulator", daemon=True)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Serve from a thread of its own until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop at once: open connections are closed, and a late answer is not waited for."""
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], simulation: Simulation) -> None:
        self.simulation = simulation
        self.stopping = Event()
        self._connections: set[socket.socket] = set()
        self._lock = Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking the name service what this machine is called, as HTTPServer does."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Wake every thread that waits for its client, or to be late."""
        self.stopping.set()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; anything else is our own fault and keeps its traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # so that a line of nonsense gets an answer with a head
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self._body()
        if body is not None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(*self.server.simulation.answer(self.command, self.path, headers, body))

    def _body(self) -> bytes | None:
        """Return the request's body; None if it can't be read, which is answered here."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.send_error(411)
        elif not (length.isascii() and length.isdigit()):
            self.send_error(400, "Content-Length is not a number")
        elif len(length) > 9 or int(length) > _MOST_BODY_BYTES:
            self.send_error(413)
        else:
            return self.rfile.read(int(length))
        return None

    def _send(self, answer: Answer, fault: Fault | None = None) -> None:
        if fault:
            self.server.stopping.wait(fault.latency_s)
            answer = fault.spoil(answer)
        if fault and fault.kind == "dropped":
            self.close_connection = True
            return
        is_html = isinstance(answer.body, str)
        body = answer.body.encode() if is_html else msgspec.json.encode(answer.body)
        self.send_response_only(answer.status, _phrase(answer.status))
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", f"{'text/html' if is_html else 'application/json'}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if fault and fault.kind == "truncated":
            body = body[: len(body) // 2]
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that can't be understood, and close: where the next one begins is unknown."""
        self.close_connection = True
        self._send(Answer(code, {"error": message or _phrase(code)}))

    def log_message(self, format: str, *args: object) -> None:
        """Write no line per request: /_simulator/ counts them."""


def _phrase(status: int) -> str:
    return responses.get(status, "Unknown")
