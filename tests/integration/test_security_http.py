"""No request hides another one, and none is answered with what another one made of it: bare, behind nginx, behind Varnish."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from db import keys
from db.engine import make_engine, transaction
from tests import databases
from tests.nginx import Nginx, nginx, nginx_program
from tests.serving import Gunicorn, add_account, gunicorn, keep, wait_for
from tests.varnish import Varnish, free_port, varnish, varnishd

PATIENCE_S = 20
HOST = b"Host: rollcall.example\r\n"
HIT = b"GET /api/totals HTTP/1.1\r\n" + HOST
SMUGGLED = b"GET /api/smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
END = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(SMUGGLED)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
# Framed so that whoever passes the inner request on has read the outer one otherwise than whoever stands before or behind.
HIDING = {
    "length and chunks": (LENGTH + CHUNKED, SMUGGLED),
    "chunks and length": (CHUNKED + LENGTH, b"0\r\n\r\n" + SMUGGLED),
    "two lengths": (b"Content-Length: 0\r\n" + LENGTH, SMUGGLED),
    "two lengths in one": (LENGTH.replace(b": ", b": 0, "), SMUGGLED),
    "a length with a sign": (LENGTH.replace(b": ", b": +"), SMUGGLED),
    "a length in other digits": (LENGTH.replace(b": ", b": 0x"), SMUGGLED),
    "a length after a space": (LENGTH.replace(b":", b" :"), SMUGGLED),
    "a length in a fold": (b"X-A: b\r\n " + LENGTH, SMUGGLED),
    "a length behind a bare line feed": (b"X-A: b\n" + LENGTH, SMUGGLED),
    "a length behind a bare carriage return": (b"X-A: b\r" + LENGTH, SMUGGLED),
    "chunks after a space": (CHUNKED.replace(b":", b" :") + LENGTH, SMUGGLED),
    "chunks in a fold": (b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH, SMUGGLED),
    "chunks behind a vertical tab": (CHUNKED.replace(b": ", b": \x0b") + LENGTH, SMUGGLED),
    "chunks by another name": (CHUNKED.replace(b"-", b"_") + LENGTH, SMUGGLED),
    "chunks twice": (CHUNKED + b"Transfer-Encoding: x\r\n", CHUNK),
    "chunks and what nobody knows": (b"Transfer-Encoding: xchunked\r\n" + LENGTH, SMUGGLED),
    "chunks that end early": (CHUNKED, b"5\r\nGET /" + CHUNK),
    "chunks behind bare line feeds": (CHUNKED, CHUNK.replace(b"\r\n", b"\n", 1)),
    "a chunk with a line feed in its extension": (CHUNKED, CHUNK.replace(b"\r\n", b";\n\r\n", 1)),
    "a whole body of a length": (LENGTH, SMUGGLED),
    "a whole body in chunks": (CHUNKED, CHUNK),
    "an upgrade": (
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n" + LENGTH,
        SMUGGLED,
    ),
    "a web socket": (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + LENGTH,
        SMUGGLED,
    ),
    "who waits to be asked": (b"Expect: 100-continue\r\n" + LENGTH, SMUGGLED),
    "who mustn't": (b"Authorization: Bearer rc_none\r\n" + LENGTH, SMUGGLED),
}
EVIL = "evil.example"
POISON = {
    "Host": EVIL,
    "X-Forwarded-Host": EVIL,
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": f"//{EVIL}",
    "X-Original-URL": "/metrics",
    "X-Rewrite-URL": "/metrics",
    "X-HTTP-Method-Override": "POST",
    "Forwarded": f"host={EVIL};proto=https",
    "Script-Name": f"/{EVIL}",
    "Accept": "text/csv;q=0.1, application/json",
    "Origin": f"https://{EVIL}",
    "Referer": f"https://{EVIL}/",
}


class Site(NamedTuple):
    api: Gunicorn
    folder: Path
    token: str
    nginx: Nginx | None
    varnish: Varnish | None

    @property
    def log(self) -> str:
        return (self.folder / "api.log").read_text()


@pytest.fixture(scope="module")
def site(postgres: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("http")
    folder.chmod(0o755)
    with databases.copied(postgres) as url:
        engine = make_engine(url, application_name="tests")
        with transaction(engine) as conn:
            keep(conn, add_account(conn, "x/goose", org_name="Geese"), 1000)
            token = keys.create(conn, name="tests", scopes=["admin"])
        engine.dispose()
        with ExitStack() as running:
            api = running.enter_context(
                gunicorn(
                    url,
                    redis_server,
                    folder,
                    workers=1,
                    TRUSTED_PROXIES="127.0.0.2",
                    CORS_ORIGINS="https://a.example",
                )
            )
            proxy = running.enter_context(nginx([api.port], folder / "proxy")) if nginx_program() else None
            cache = running.enter_context(varnish(free_port(), api.port, folder)) if varnishd() else None
            yield Site(api, folder, token, proxy, cache)


def connected(site: Site, front: str) -> socket.socket:
    """Return a connection to the API, or to what stands before it."""
    if front == "nginx":
        if site.nginx is None:
            pytest.skip("nginx is not installed")
        plain = socket.create_connection(("127.0.0.1", site.nginx.port), PATIENCE_S)
        return site.nginx.context.wrap_socket(plain, server_hostname="rollcall.example")
    if front == "varnish":
        if site.varnish is None:
            pytest.skip("Varnish is not installed")
        return socket.create_connection(("127.0.0.1", site.varnish._port), PATIENCE_S)
    return socket.create_connection(("127.0.0.1", site.api.port), PATIENCE_S)


def exchange(site: Site, front: str, sent: bytes) -> bytes:
    """Send bytes and return all that comes until the other side ends."""
    came = b""
    with connected(site, front) as connection, suppress(ConnectionError, TimeoutError):
        connection.sendall(sent)
        while piece := connection.recv(65_536):
            came += piece
    return came


def until_logged(site: Site, front: str, name: str) -> str:
    """Return the log once a request is in it that came after all others."""
    exchange(site, front, END.replace(HOST, HOST + b"X-Request-ID: %s\r\n" % name.encode()))
    wait_for(lambda: f"request_id={name}" in site.log, "the last request to be logged")
    return site.log


@pytest.mark.parametrize("front", ["gunicorn", "nginx", "varnish"])
def test_no_request_hides_another(site: Site, front: str) -> None:
    for _ in range(4):  # so that it is known by its words, and by its bytes
        exchange(site, front, HIT + b"\r\n" + END)
    before = until_logged(site, front, f"{front}-1").count("/api/smuggled")
    answered = 0
    for headers, body in HIDING.values():
        for method in (b"GET /api/totals", b"POST /api/batch", b"GET /healthz"):
            answer = exchange(site, front, method + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body + END)
            answered += answer.count(b"HTTP/1.1 404")
    seen = until_logged(site, front, f"{front}-2").count("/api/smuggled") - before

    # Varnish takes a folded line for one, as RFC 9112 5.2 lets it: then the inner request is one of its own to both.
    assert seen == answered == (3 if front == "varnish" else 0)
    assert exchange(site, front, HIT + b"\r\n" + END).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("front", ["gunicorn", "nginx", "varnish"])
def test_nobody_is_answered_with_what_another_one_said(site: Site, front: str) -> None:
    paths = ["/api/summary?fields=handle", "/", "/accounts/x/goose", "/docs", "/openapi.json", "/exports"]
    for number, path in enumerate(paths):
        for name, value in POISON.items():
            once = f"{path}{'&' if '?' in path else '?'}" if path == "/api/summary?fields=handle" else path
            asked = f"{once}per_page={number + 10}" if once != path else path
            host = HOST.decode() if name != "Host" else ""
            head = f"GET {asked} HTTP/1.1\r\n{host}Connection: close\r\n"
            exchange(site, front, f"{head}{name}: {value}\r\n\r\n".encode())
            clean = exchange(
                site, front, f"GET {asked} HTTP/1.1\r\n{HOST.decode()}Connection: close\r\n\r\n".encode()
            )
            assert clean.startswith(b"HTTP/1.1 200"), (path, name, clean[:300])
            assert EVIL.encode() not in clean, (path, name)
            assert b"content-type: text/csv" not in clean.lower()
            assert b"strict-transport-security" not in clean.lower() or front == "nginx", (path, name)


def test_nginx_answers_to_its_own_names_alone(site: Site) -> None:
    if site.nginx is None:
        pytest.skip("nginx is not installed")
    assert site.nginx.ask("/api/summary", Host=EVIL)[0] == 421
    with socket.create_connection(("127.0.0.1", site.nginx.plain_port), PATIENCE_S) as plain:
        plain.sendall(f"GET / HTTP/1.1\r\nHost: {EVIL}\r\nConnection: close\r\n\r\n".encode())
        assert b" 421 " in plain.recv(4096).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../setup.cfg",
        "/static/v/../../../../etc/passwd",
        "/static/v/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/v/..%2f..%2f..%2fetc%2fpasswd",
        "/static/v/%252e%252e/etc/passwd",
        "/static/v//etc/passwd",
        "/static/v/..\\..\\setup.cfg",
        "/static/v/app.css%00.js",
        "/static/v/service-worker.js/../app.py",
        "/api/accounts/x/..%2f..%2f..%2fetc%2fpasswd",
        "/api/accounts/x/goose%0d%0aSet-Cookie:%20a=b",
        "/sign-in?next=/%0d%0aSet-Cookie:%20a=b",
        "/edit/x/%0d%0aSet-Cookie:%20a=b",
        "/api/%2e%2e/metrics",
        "//evil.example/%2e%2e",
    ],
)
def test_no_path_leads_out_and_none_ends_a_header(site: Site, path: str) -> None:
    answer = exchange(site, "gunicorn", f"GET {path} HTTP/1.1\r\n{HOST.decode()}Connection: close\r\n\r\n".encode())
    head = answer.partition(b"\r\n\r\n")[0].lower()

    assert answer[9:10] in (b"2", b"3", b"4")
    assert b"root:" not in answer
    assert b"[metadata]" not in answer
    assert b"\r\nset-cookie" not in head
    if answer[9:10] == b"3":
        assert b"\r\nlocation: /" in head
        assert b"\r\nlocation: //" not in head


def test_no_header_makes_another_method_of_a_request(site: Site) -> None:
    note = json.dumps({"from": "2026-03-01", "note": "a", "all": True})
    head = f"{HOST.decode()}Authorization: Bearer {site.token}\r\nContent-Type: application/json\r\n"
    kept = exchange(
        site,
        "gunicorn",
        f"POST /api/annotations HTTP/1.1\r\n{head}Content-Length: {len(note)}\r\nConnection: close\r\n\r\n{note}".encode(),
    )
    place = re.search(rb"\r\nlocation: (\S+)", kept, re.IGNORECASE)
    assert place, kept
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        asked = (
            f"GET {place[1].decode()}?_method=DELETE HTTP/1.1\r\n{head}{name}: DELETE\r\nConnection: close\r\n\r\n"
        )
        assert exchange(site, "gunicorn", asked.encode())[9:12] == b"400"
        asked = asked.replace("?_method=DELETE", "")
        assert exchange(site, "gunicorn", asked.encode())[9:12] == b"200"


def test_no_key_is_worth_more_in_a_request_that_looks_the_same(site: Site) -> None:
    body = b'{"accounts": ["x/goose"]}'
    for said in (
        "",
        "Bearer",
        "Bearer rc_none",
        f"Basic {site.token}",
        f"Bearer {site.token[:-1]}",
        f"Bearer {site.token}, x",
    ):
        asked = (
            f"POST /api/refresh HTTP/1.1\r\n{HOST.decode()}Authorization: {said}\r\nConnection: close\r\n".encode()
        )
        answer = exchange(site, "gunicorn", asked + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert answer[9:12] == b"401", said
    twice = (
        f"GET /api/annotations HTTP/1.1\r\n{HOST.decode()}Authorization: Bearer {site.token}\r\nAuthorization: x\r\n"
    )
    assert exchange(site, "gunicorn", f"{twice}Connection: close\r\n\r\n".encode())[9:10] in (b"2", b"4")
