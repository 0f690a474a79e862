"""A platform, proxy, CDN and collector that answers every request with all that it was told, in each shape of an error."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any


class Hostile:
    """Where it listens, and the words of all requests that came. `token` is what it gives access by."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.token = token
        self.heard: list[str] = []
        self.turns = count()


def _bodies(echo: str) -> list[Any]:
    """Return errors as the platforms write them, with `echo` wherever a text stands."""
    meta = [
        {"error": {"message": f"(#{code}) {echo}", "type": echo, "code": code, "fbtrace_id": echo}}
        for code in (190, 100, 10, 4, 803)
    ]
    google = [
        {"error": {"code": 403, "message": echo, "status": echo, "errors": [{"reason": reason, "message": echo}]}}
        for reason in ("keyInvalid", "quotaExceeded", "forbidden", echo)
    ]
    return [
        *meta,
        *google,
        {"errors": [{"title": echo, "detail": echo, "type": echo, "value": echo, "message": echo}]},
        {"title": echo, "detail": echo, "type": echo, "status": 401},
        {"error": echo, "message": echo, "error_description": echo, "reason": echo},
        {"stat": "fail", "code": 100, "message": echo},
        {"error": {"code": "access_token_invalid", "message": echo, "log_id": echo}, "data": {}},
        {"message": echo, "status": 403, "code": echo, "serviceErrorCode": 65600},
        {echo: [echo]},
        [echo],
        echo,
    ]


@contextmanager
def hostile(token: str) -> Iterator[Hostile]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            told = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
            words = " ".join([self.path, *self.headers.values(), told])
            # What is told in base64 is said in plain words.
            basic = re.findall(r"Basic ([\w+/=]+)", words)
            words = " ".join([words, *(base64.b64decode(one).decode(errors="replace") for one in basic)])
            one.heard.append(words)
            if "token" in self.path.partition("?")[0] and self.command == "POST":
                self._send(200, json.dumps({"access_token": one.token, "token_type": "bearer", "expires_in": 3600}))
                return
            turn = next(one.turns)
            bodies = _bodies(words)
            if turn % 7 == 6:
                self._send(500, f"<html><title>{words}</title></html>", "text/html")
            else:
                status = (400, 401, 403, 404, 200, 500, 302)[turn % 7]
                self._send(status, json.dumps(bodies[turn % len(bodies)]))

        def _send(self, status: int, text: str, media_type: str = "application/json") -> None:
            echo = re.sub(r"[^ -~]", " ", text)[:2000]
            self.send_response(status, echo)
            self.send_header("Content-Type", media_type)
            self.send_header("Location", f"http://127.0.0.1:9/{echo}")
            self.send_header("WWW-Authenticate", f'Bearer error_description="{echo}"')
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_PURGE = do_CONNECT = _answer  # the names that its base looks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        one = Hostile(server.server_port, token)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield one
        server.shutdown()
        thread.join()
