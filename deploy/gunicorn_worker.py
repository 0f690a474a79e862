"""gunicorn's own asyncio worker, with an end for clients that keep a connection and bring or take nothing.

As it comes (gunicorn 27.0), the first request of a connection may take for ever to send its headers, `worker_connections`
limits nothing, and who doesn't read its answer is waited for without end. tests/integration/test_api_clients.py holds
what this adds against real sockets.

And it leaves without a failed request. As it comes, it closes a connection that it has just told the client to keep, when
SIGTERM falls between the beginning of an answer and its end. tests/faults/test_rolling_restart.py holds that.

It also asks the app's front (api/front.py) by itself. A hit then costs no task, no scope and no second look at headers
that are known to be right; and one that comes again in the same bytes isn't parsed, and wakes nobody. Together these took
two thirds of a hit.
"""

import asyncio
import time
from typing import Any

from gunicorn.asgi import protocol
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from api import front
from api.request import MET, STALL, Met
from api.streams import Streams

# Who is refused in the middle of a body is heard out for so long, that the answer can arrive.
LINGER_S = 2.0
LOOK_S = 0.1
# What came while the loop stood still is read within so long of its going on.
GRACE_S = 0.1
# How long the app may take to end, once no connection is left.
CLOSING_S = 4


class _Unparsed:
    """A request that was taken up by its bytes, as gunicorn sees it: HTTP/1.1, and not the last of its connection."""

    version = (1, 1)

    def __init__(self, question: front.Question, data: bytes, began: float) -> None:
        self.question = question
        self.data = data
        self.began = began

    def may_upgrade(self) -> bool:
        return False

    def should_close(self) -> bool:
        return False


class Protocol(ASGIProtocol):  # type: ignore[misc]  # gunicorn has no types
    """One connection."""

    _stalled: asyncio.TimerHandle | None = None
    # For how long a client may take nothing: gunicorn's timeout, or what the app said with its newest answer here.
    _stall_s: float
    # What the client was told of this connection with the present answer; None before that.
    _closes: bool | None = None
    # Whether the answer has been given, and what still comes is thrown away.
    _lingers = False
    # Who asks; known with the first request.
    _peer: str | None = None
    # Whether bytes of a request were parsed that isn't complete yet.
    _is_begun = False
    # The bytes that a request began with, if they came by themselves: maybe all of it.
    _came: bytes | None = None
    # The present request, as long as it hasn't been parsed.
    _unparsed: _Unparsed | None = None
    # What the present request met ahead of the app.
    _met: Met | None = None
    # When a request was last answered without being parsed, by the loop's clock.
    _answered_at = float("-inf")
    # Whether it has lain idle for as long as it may, and is looked at once more.
    _is_overdue = False

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self._set_stall(self.cfg.timeout)
        # An app around ours, as a benchmark has, has none.
        self._ahead: front.Front | None = getattr(worker.asgi, "front", None)
        self.app = getattr(worker.asgi, "behind", worker.asgi)

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self.worker.nr_conns > self.worker.worker_connections:
            self._send_error_response(503, "Too many connections", [("Retry-After", "5")])
            self._close_transport()
            return
        # The headers of a first request have as long as those of any other one: gunicorn's keepalive, which it arms itself
        # from the second on, and takes back when they are there.
        self._arm_keepalive_timer()

    def data_received(self, data: bytes) -> None:
        """Answer what came, if it's a whole request that was a hit before, in these very bytes; else parse it.

        One that was asked before but for its query is taken up unparsed, too: its answer is looked for, or made.
        """
        if self._lingers:
            return
        began = time.perf_counter()
        # Between two requests: the loop waits for one, and none of it has come.
        is_first = self._awaiting_request and not self._is_begun and not self._request_ready.is_set()
        self._came = data if is_first else None
        if not (is_first and self._answers_known(data, began)):
            self._parse_after_all()  # what comes now stands behind it
            super().data_received(data)

    def _feed_callback_parser(self, data: bytes) -> bool:
        self._is_begun = True
        return bool(super()._feed_callback_parser(data))

    def _on_message_complete(self) -> None:
        self._is_begun = False
        super()._on_message_complete()

    def _answers_known(self, data: bytes, began: float) -> bool:
        worker = self.worker
        is_last = worker.is_leaving or not worker.alive or worker.nr + 1 >= worker.max_requests
        if self._ahead is None or self._peer is None or is_last or self._closed or self._flow_control.write_paused:
            return False
        question = self._ahead.recall(data, self._peer)
        if question is None:
            return False
        ready = self._ahead.give(question, self._peer, began)
        if ready is None:
            return self._takes_up(_Unparsed(question, data, began))
        self._answered_at = worker.loop.time()
        self.req_count += 1
        worker.nr += 1
        self._write(ready, (1, 1), is_last=False)
        return True

    def _takes_up(self, unparsed: _Unparsed) -> bool:
        """Hand a request on to the task of this connection, which waits for one, if the front can have it answered."""
        if unparsed.question.place is None:
            return False
        self._came = None
        self._unparsed = self._current_request = unparsed
        self._request_ready.set()
        return True

    def _parse_after_all(self) -> None:
        unparsed, self._unparsed = self._unparsed, None
        if unparsed is not None:
            self._feed_callback_parser(unparsed.data)

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> bool:
        """Answer one request; return whether the connection may be kept."""
        self._closes = None
        self._peer = peer = peername[0] if peername else "127.0.0.1"
        if isinstance(request, _Unparsed):
            is_kept = await self._serve(request, request.question, peer, request.began)
            if is_kept is None:
                self._parse_after_all()
                request = self._current_request
        else:
            is_kept = await self._serve_hit(request, peer)
        return bool(await super()._serve_http_request(request, sockname, peername)) if is_kept is None else is_kept

    async def _serve_hit(self, request: Any, peer: str) -> bool | None:
        """Answer one that the front can; None if it can't: it isn't here as a whole, say, or the client takes nothing."""
        began = time.perf_counter()
        ahead = self._ahead
        came, self._came = self._came, None
        if ahead is None or not self._body_receiver._complete or self._flow_control.write_paused:
            return None
        query = request.query.encode("latin-1") if request.query else b""
        question = ahead.understand(request.method, request.path, query, request.headers_bytes, peer)
        is_kept = None if question is None else await self._serve(request, question, peer, began)
        if came and question and is_kept and request.version == (1, 1) and not self._callback_parser.remaining():
            ahead.remember(came, peer, question)
        return is_kept

    async def _serve(self, request: Any, question: front.Question, peer: str, began: float) -> bool | None:
        assert self._ahead
        ready = await self._ahead.answer(question, peer, began)
        if ready is None or isinstance(ready, Met):
            self._met = ready
            return None
        self._unparsed = None
        is_last = self._will_close(request, False)
        self._write(ready, request.version, is_last=is_last)
        return not is_last

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        if self._met is not None:
            scope[MET], self._met = self._met, None
        self._set_stall(self.cfg.timeout)
        scope[STALL] = self._set_stall
        return scope

    def _set_stall(self, seconds: float) -> None:
        self._stall_s = seconds

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        """Tell the same at the end of an answer as at its beginning, when the client was told."""
        if self._closes is None:
            self._closes = self.worker.is_leaving or bool(super()._will_close(request, response_requires_close))
        return self._closes

    def _write(self, ready: front.Ready, version: tuple[int, int], *, is_last: bool) -> None:
        self._safe_write(
            b"".join(
                (
                    protocol._get_cached_status_line(version, ready.status),
                    ready.lines,
                    protocol._CACHED_SERVER_HEADER,
                    protocol._get_cached_date_header(),
                    b"Connection: close\r\n\r\n" if is_last else b"\r\n",
                    ready.body,
                )
            )
        )

    def _arm_keepalive_timer(self) -> None:
        self._is_overdue = False
        super()._arm_keepalive_timer()

    def _keepalive_timeout(self) -> None:
        """Close an idle connection, unless its next request came in time, and only the loop stood still: a loop's timers go first."""
        left_s = self._answered_at + self._keepalive - self.worker.loop.time()
        if left_s <= 0 and self._is_overdue:
            super()._keepalive_timeout()
            return
        self._is_overdue = left_s <= 0
        # What was answered meanwhile gunicorn hasn't heard of.
        self._keepalive_handle = self.worker.loop.call_later(max(left_s, GRACE_S), self._keepalive_timeout)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._end_wait()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_wait()
        super().connection_lost(exc)

    def _close_transport(self) -> None:
        is_first = not self._closed
        if is_first and self._body_receiver is not None and not self._body_receiver._complete:
            self._linger()
            return
        super()._close_transport()
        if is_first and self.transport.get_write_buffer_size():  # it closes when that has been read
            self._await_reader()

    def _linger(self) -> None:
        """End what is written, and close later: a close while a body is coming takes the answer away (RFC 9112 9.6)."""
        self._closed = self._lingers = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._resume_reading()
        self.worker.loop.call_later(LINGER_S, self.transport.abort)

    def _await_reader(self) -> None:
        """Break off an answer of which the client takes nothing for so long; one that reads slowly goes on."""
        self._end_wait()
        self._stalled = self.worker.loop.call_later(self._stall_s, self.transport.abort)

    def _end_wait(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """The worker; it makes its connections from a name in its module, which no setting changes."""

    is_leaving = False
    nr_conns: int

    def init_process(self) -> None:
        gasgi.ASGIProtocol = Protocol
        super().init_process()

    def handle_exit_signal(self) -> None:
        """Take no new connection, and end when those that are there have ended: with their next answer, or idle.

        Until then it is alive to gunicorn, which else closes connections that nobody was told to leave. Streams have no
        end of their own: they are ended now.
        """
        if self.is_leaving:
            return
        self.is_leaving = True
        streams: Streams | None = getattr(self.asgi, "streams", None)
        if streams is not None:
            streams.close()
        self._leaving = self.loop.create_task(self._leave())

    async def _leave(self) -> None:
        for server in self.servers:
            server.close()
        self.log.info("Leaving when %d connections have ended", self.nr_conns)
        gives_up_at = self.loop.time() + self.cfg.graceful_timeout - CLOSING_S
        while self.nr_conns > 0 and self.loop.time() < gives_up_at:
            await asyncio.sleep(LOOK_S)
        self.nr_conns = 0  # what is left is broken off: the app must come to its end before gunicorn's master kills
        self.alive = False
