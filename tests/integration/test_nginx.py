"""`deploy/nginx.conf` in a real nginx before a real API."""

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from db import keys
from db.engine import make_engine, transaction
from tests import databases
from tests.nginx import HOW_TO_GET_IT, Nginx, nginx, nginx_program
from tests.serving import Gunicorn, add_account, gunicorn, keep

pytestmark = pytest.mark.skipif(nginx_program() is None, reason=HOW_TO_GET_IT)
STATIC = "https://static.rollcall.example"


class Site(NamedTuple):
    proxy: Nginx
    api: Gunicorn
    token: str


@pytest.fixture(scope="module")
def site(postgres: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    with databases.copied(postgres) as url:
        engine = make_engine(url, application_name="tests")
        with transaction(engine) as conn:
            for number in range(60):
                keep(conn, add_account(conn, f"x/goose{number}", org_name="Geese"), 1000 + number)
            token = keys.create(conn, name="tests", scopes=["admin"])
        engine.dispose()
        environ = {"STATIC_URL": STATIC, "TRUSTED_PROXIES": "127.0.0.1", "SIMULATOR_URL": "http://127.0.0.1:9"}
        with (
            gunicorn(url, redis_server, folder, workers=1, API_RATE_LIMIT="400/1000d", **environ) as api,
            nginx([api.port], folder / "proxy") as proxy,
        ):
            yield Site(proxy, api, token)


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip", "identity"])
def test_answers_pass_as_the_api_compressed_them(site: Site, coding: str) -> None:
    path = "/api/summary?per_page=60"
    status, headers, _ = site.proxy.ask(path, Accept_Encoding=coding)
    direct = {k.lower(): v for k, v in site.api.get(path, Accept_Encoding=coding)[1].items()}

    assert status == 200
    assert headers.get("content-encoding", "identity") == coding
    assert (headers["etag"], headers["vary"]) == (direct["etag"], direct["vary"])
    assert not headers["etag"].startswith("W/")
    assert site.proxy.ask(path, Accept_Encoding=coding, If_None_Match=headers["etag"])[0] == 304


def test_the_api_hears_of_the_clients_address_and_of_tls(site: Site) -> None:
    _, headers, _ = site.proxy.ask("/api/summary")
    assert headers["strict-transport-security"]
    # Each address has an allowance of its own, and what a client itself says of where it comes from isn't believed.
    left = [
        int(site.proxy.ask("/api/summary", source="127.0.0.2", **said)[1]["ratelimit-remaining"])
        for said in ({}, {"X_Forwarded_For": "203.0.113.9"}, {"X_Forwarded_For": "127.0.0.1"})
    ]
    assert left == [399, 398, 397]


def test_plain_http_is_sent_to_tls(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.proxy.plain_port, timeout=30)
    connection.request("GET", "/accounts?q=a", headers={"Host": "rollcall.example"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Location")) == (308, "https://rollcall.example/accounts?q=a")
    connection.close()


def test_bodies_and_addresses_have_the_apis_limits_and_its_words(site: Site) -> None:
    auth = {"Authorization": f"Bearer {site.token}", "Content_Type": "application/json"}
    status, headers, body = site.proxy.ask("/api/refresh", "POST", b" " * (1 << 20) + b"{}", **auth)
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert json.loads(body)["status"] == 413
    small = json.dumps({"from": "2026-03-01", "note": "A day", "all": True}).encode()
    assert site.proxy.ask("/api/annotations", "POST", small, **auth)[0] == 201
    assert site.proxy.ask(f"/api/summary?q={'a' * 150}&fields={','.join(['handle'] * 1)}&x={'y' * 7000}")[0] == 400
    assert site.proxy.ask("/api/summary", "POST", b"x" * (9 << 20))[0] == 413  # and this nginx itself


def test_static_files_come_from_the_address_that_the_pages_name(site: Site) -> None:
    page = site.proxy.ask("/")[2].decode()
    name = page.split(f'href="{STATIC}', 1)[1].split('"', 1)[0]
    status, headers, body = site.proxy.ask(name, Host="static.rollcall.example", Accept_Encoding="br")
    assert (status, headers["access-control-allow-origin"], headers["content-encoding"]) == (200, "*", "br")
    assert "immutable" in headers["cache-control"] and body
    assert site.proxy.ask("/api/summary", Host="static.rollcall.example")[0] == 404


def test_an_export_comes_whole(site: Site) -> None:
    status, headers, body = site.proxy.ask("/api/export/summary?format=csv")
    assert (status, body.count(b"\n")) == (200, 61)
    assert "attachment" in headers["content-disposition"]


def test_what_a_stream_says_arrives_at_once(tmp_path: Path) -> None:
    """A server of its own, whose second event waits until the first has arrived behind nginx."""
    arrived = threading.Event()

    class Events(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"data: one\n\n")
            self.wfile.flush()
            if self.path != "/healthz":
                assert arrived.wait(30)
            self.wfile.write(b"data: two\n\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Events) as backend:
        serving = threading.Thread(target=backend.serve_forever)
        serving.start()
        try:
            with nginx([backend.server_port], tmp_path / "proxy") as proxy:
                connection = proxy.connect(timeout_s=20)
                connection.request("GET", "/events", headers={"Host": "rollcall.example"})
                answer = connection.getresponse()
                assert answer.readline() == b"data: one\n"
                arrived.set()
                assert b"data: two" in answer.read()
                connection.close()
        finally:
            arrived.set()
            backend.shutdown()
            serving.join()
