"""Whatever bytes a request holds, the answer is one that the document names, and a refusal says what is wrong.

Addresses, queries, headers and bodies are made by hypothesis and sent to a real gunicorn as they are, with nothing in
between that would make them tidy. FUZZ_EXAMPLES asks for more of them.
"""

import gzip
import http.client
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from db import keys
from db.engine import Engine, transaction
from tests.serving import Gunicorn, add_account, days_ago, gunicorn, keep

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
MANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
DECODE = {"identity": bytes, "gzip": gzip.decompress, "br": brotli.decompress, "zstd": zstandard.decompress}

# What may stand in a request line: anything else is no HTTP, and gunicorn's to refuse.
RAW = st.binary(max_size=60).map(lambda some: bytes(byte for byte in some if byte > 0x20 and byte not in b"\x7f#?&"))
ESCAPED = st.binary(max_size=40).map(lambda some: quote_from_bytes(some, safe="").encode())
TEXT = st.text(max_size=40).map(
    lambda some: quote_from_bytes(some.encode("utf-8", "surrogatepass"), safe="").encode()
)
VALUES = st.one_of(
    RAW,
    ESCAPED,
    TEXT,
    st.sampled_from(
        [b"", b"1", b"0", b"-1", b"true", b"null", b"NaN", b"1e9", b"9" * 30, b"x", b"2026-02-30", b"%", b"%0"]
    ),
    st.sampled_from(
        [b"followers", b"-followers", b"platform,handle", b",", b"day", b"WyJhY2NvdW50X2tleSIsZmFsc2UsMSwxXQ"]
    ),
)
HEADERS = (
    *("Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Content-Type", "Cookie"),
    *(
        "If-Match",
        "If-Modified-Since",
        "If-None-Match",
        "If-Range",
        "Origin",
        "Range",
        "X-Forwarded-For",
        "X-Request-ID",
    ),
)
HEADER_VALUES = st.one_of(
    st.binary(max_size=60).map(lambda some: bytes(byte for byte in some if byte >= 0x20 and byte != 0x7F).strip()),
    st.sampled_from(
        [
            *(
                b"*",
                b'W/"a"',
                b'"',
                b'"a", "b',
                b"*/*",
                b"gzip;q=0, *;q=0",
                b"br;q=abc",
                b"identity;q=0",
                b"gzip;q=1e999",
            ),
            *(
                b"Sun, 06 Nov 1994 08:49:37 GMT",
                b"Sun, 99 Nov 1994",
                b"bytes=0-1",
                b"bytes=-",
                b"Bearer",
                b"Bearer rc_",
            ),
            *(b"text/html;q=0.5, application/json", b"text/csv", b"application/x-ndjson", b";;;", b"a" * 300),
        ]
    ),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["x/hhsgov", "x/", "/"]),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8) | st.just("accounts"), inner, max_size=4)
    ),
    max_leaves=20,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda some: json.dumps(some).encode()),
    JSON.map(lambda some: json.dumps({"accounts": some}, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.lists(JSON, max_size=8).map(lambda some: json.dumps({"accounts": some}).encode()),
    st.sampled_from(
        [b"[" * 50_000, b'{"accounts":' * 9_000, b'{"accounts": ["x/\\ud800"]}', b'{"accounts": ["x/\\u0000"]}']
    ),
    st.sampled_from(
        [b'{"accounts": [1' + b"0" * 5000 + b"]}", b"\xef\xbb\xbf{}", b'{"accounts": [], "accounts": ["x/hhsgov"]}']
    ),
)


PATHS = [
    *(b"/api/summary", b"/api/accounts/x/hhsgov", b"/api/history/x/hhsgov", b"/openapi.json", b"/docs", b"/"),
    b"/healthz",
]


# Well below the server's `keepalive`: a busy machine takes seconds between two examples.
IDLE_S = 2


class Wire:
    """A connection that sends bytes as they are."""

    def __init__(self, server: Gunicorn, token: str) -> None:
        self.token = token
        self.told: Mapping[str, Any] = server.json("/openapi.json")
        self._port = server.port
        self._socket: socket.socket | None = None
        self._answered_at = time.monotonic()

    def ask(
        self, method: str, target: bytes, headers: Mapping[str, bytes] | None = None, body: bytes = b""
    ) -> tuple[int, Mapping[str, str], bytes]:
        lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: rollcall"]
        lines += [name.encode() + b": " + value for name, value in (headers or {}).items()]
        if body or method in ("POST", "PATCH"):
            lines.append(b"Content-Length: " + str(len(body)).encode())
        if time.monotonic() - self._answered_at > IDLE_S:  # the server may close it at any moment
            self.close()
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        self._socket.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        answer = http.client.HTTPResponse(self._socket, method=method)
        answer.begin()
        said = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        self._answered_at = time.monotonic()
        if answer.will_close:
            self.close()
        return said

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def statuses(self, method: str, path: str) -> set[int]:
        """Return what an address may answer; one that isn't described is not there, or no such method."""
        for template, methods in self.told["paths"].items():
            # A handle may hold slashes.
            if re.fullmatch(
                re.sub(r"{\w+}", ".+", re.escape(template).replace(r"\{", "{").replace(r"\}", "}")), path, re.S
            ):
                found = methods.get(method.lower().replace("head", "get"))
                return {int(status) for status in found["responses"]} if found else {400, 404, 405}
        return {400, 404, 405}


@pytest.fixture
def wire(database_url: str, redis_url: str, engine: Engine, tmp_path: Path) -> Iterator[Wire]:
    with transaction(engine) as conn:
        for name in ("x/hhsgov", "mastodon/agency@social.example"):
            keep(conn, add_account(conn, name, org_name="HHS"), 100, days_ago(1))
        token = keys.create(conn, name="fuzzer", scopes=["admin", "refresh"])
    more = {"SIMULATOR_URL": "http://127.0.0.1:9", "LIVE_STREAM_S": "0.2"}  # what is due here is never read
    with gunicorn(database_url, redis_url, tmp_path, workers=1, **more) as server:
        wire = Wire(server, token)
        yield wire
        wire.close()
    log = (tmp_path / "api.log").read_text()
    assert "Traceback" not in log
    assert "request_failed" not in log


def check(wire: Wire, method: str, target: bytes, said: tuple[int, Mapping[str, str], bytes]) -> None:
    status, headers, body = said
    path = target.partition(b"?")[0]
    if not target.isascii() and headers["content-type"] == "text/plain":
        assert status == 400, said  # an address is ASCII (RFC 3986): this isn't HTTP, and gunicorn's to refuse
        return
    if target.startswith(b"/docs") or path == b"/":
        assert status in (200, 304, 400), said
    else:
        decoded = unquote_to_bytes(path).decode("utf-8", "replace")
        assert status in wire.statuses(method, decoded), (status, target, body[:300])
    assert re.fullmatch(r"[\w.:/+=-]{1,128}", headers.get("x-request-id", "")), (target, said)
    if method == "HEAD" or status == 304:
        assert body == b""
        return
    plain = DECODE[headers.get("content-encoding", "identity")](body)
    if status < 400:
        if headers.get("content-type") == "application/json":
            json.loads(plain)
        return
    assert headers["content-type"] == "application/problem+json", said
    problem = json.loads(plain)
    assert (problem["status"], bool(problem["title"]), bool(problem["detail"])) == (status, True, True), problem
    if status == 400:
        assert all(error["field"] and error["reason"] for error in problem["errors"]), problem
        assert problem["errors"], problem


def addresses(wire: Wire) -> st.SearchStrategy[bytes]:
    """Return addresses that there are, with anything in the places of their parameters, and some that there aren't."""
    described = [path.encode() for path in wire.told["paths"]] + [b"/", b"/docs"]
    filled = (
        st.sampled_from([b"x", b"hhsgov", b"mastodon", b"agency@social.example", b"..", b"%2f", b"//", b"%00"])
        | VALUES
    )

    @st.composite
    def address(draw: st.DrawFn) -> bytes:
        path = draw(st.sampled_from(described))
        return re.sub(rb"{\w+}", lambda _: draw(filled), path)

    return st.one_of(address(), address(), (RAW | ESCAPED | TEXT).map(lambda some: b"/" + some))


def test_any_address_and_query_has_an_answer_that_is_described(wire: Wire) -> None:
    named = {
        p["name"].encode()
        for path in wire.told["paths"].values()
        for p in path.get("get", {}).get("parameters", [])
        if "name" in p
    }
    pair = st.tuples(st.sampled_from(sorted(named)) | VALUES, VALUES).map(lambda pair: b"=".join(pair))
    query = st.lists(pair | RAW, max_size=6).map(b"&".join)

    @MANY
    @given(addresses(wire), query, st.sampled_from(["GET", "GET", "HEAD"]))
    def ask(path: bytes, query: bytes, method: str) -> None:
        target = path + (b"?" + query if query else b"")
        check(wire, method, target, wire.ask(method, target))

    ask()


def test_any_headers_have_an_answer_that_is_described(wire: Wire) -> None:

    @MANY
    @given(
        st.sampled_from(PATHS),
        st.dictionaries(st.sampled_from(HEADERS), HEADER_VALUES, max_size=5),
        st.sampled_from(["GET", "HEAD"]),
    )
    def ask(path: bytes, headers: dict[str, bytes], method: str) -> None:
        said = wire.ask(method, path, headers)
        check(wire, method, path, said)
        assert said[0] in (200, 304), said  # none of these is a reason to refuse what is open to all

    ask()


def test_any_body_has_an_answer_that_is_described(wire: Wire) -> None:
    key = {"Authorization": b"Bearer " + wire.token.encode()}
    named = {"platform": "x", "handle": "hhsgov"}
    written = [
        (method.upper(), re.sub(r"{(\w+)}", lambda found: named.get(found[1], "1"), path).encode())
        for path, methods in wire.told["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    ]

    @MANY
    @given(
        st.sampled_from(written),
        BODIES,
        st.sampled_from([b"application/json", b"text/plain", b"", b"multipart/form-data"]),
    )
    def ask(operation: tuple[str, bytes], body: bytes, media_type: bytes) -> None:
        method, path = operation
        check(wire, method, path, wire.ask(method, path, {**key, "Content-Type": media_type}, body))

    ask()


def test_head_is_get_without_its_body(wire: Wire) -> None:
    varying = {"x-request-id", "date"}
    for path in [*PATHS, b"/api/totals", b"/api/nothing"]:
        wire.ask("GET", path)  # so that both come from the same cache
        status, headers, body = wire.ask("GET", path)
        again, same, nothing = wire.ask("HEAD", path)
        assert (again, nothing) == (status, b""), path
        assert same.items() - headers.items() <= {(name, same[name]) for name in varying & same.keys()}, path
        assert same.keys() == headers.keys(), path
        assert int(same["content-length"]) == len(body) > 0, path


def test_a_range_is_not_served_and_not_promised(wire: Wire) -> None:
    status, headers, body = wire.ask("GET", b"/api/summary", {"Range": b"bytes=0-1", "If-Range": b'"a"'})
    assert (status, headers.get("accept-ranges"), headers.get("content-range")) == (200, None, None)
    assert len(body) == int(headers["content-length"]) > 2


def test_options_says_which_methods_there_are_without_a_key(wire: Wire) -> None:
    for path, methods in wire.told["paths"].items():
        status, headers, _ = wire.ask("OPTIONS", re.sub(r"{\w+}", "x", path).encode())
        offered = set(headers["allow"].replace(" ", "").split(","))
        assert (status, offered - {"HEAD", "OPTIONS"}) == (200, {method.upper() for method in methods}), path


def test_a_date_is_no_condition(wire: Wire) -> None:
    """An answer can change without a newer reading: a 304 by date would call an old one new."""
    _, headers, _ = wire.ask("GET", b"/api/accounts/x/hhsgov")
    newest = headers["last-modified"].encode()
    assert wire.ask("GET", b"/api/accounts/x/hhsgov", {"If-Modified-Since": newest})[0] == 200
    both = {"If-Modified-Since": b"Sun, 06 Nov 1994 08:49:37 GMT", "If-None-Match": headers["etag"].encode()}
    assert wire.ask("GET", b"/api/accounts/x/hhsgov", both)[0] == 304
