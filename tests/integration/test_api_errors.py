"""Whatever a client sends to real gunicorn workers is answered, never with a 500."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from db import keys
from db.engine import Engine, transaction
from tests.serving import Gunicorn, add_account, gunicorn, wait_for

GET = [
    ("/api/nothing", 404),
    ("/api/summary/", 404),
    ("/api/summary?page=0", 400),
    ("/api/summary?page=-1", 400),
    ("/api/summary?page=2", 400),
    ("/api/summary?page=1000000000", 400),
    ("/api/summary?page=" + "9" * 400, 400),
    ("/api/summary?per_page=1001", 400),
    ("/api/summary?per_page=NaN", 400),
    ("/api/summary?q=", 400),
    ("/api/summary?q=" + "a" * 201, 400),
    ("/api/summary?q=%00", 400),
    ("/api/summary?q=%ff", 400),
    ("/api/summary?q=%", 200),
    ("/api/summary?q=%25%5f%5c", 200),
    ("/api/summary?q='%20OR%201=1;--", 200),
    ("/api/summary?q=%F0%9F%A6%84", 200),
    ("/api/summary?org=%ED%A0%80", 400),
    ("/api/summary?colour=red", 400),
    ("/api/summary?format=csv", 200),
    ("/api/summary?format=CSV", 400),
    ("/api/summary?format=xlsx", 400),
    ("/api/summary?format=", 400),
    ("/api/accounts/x/agency?format=csv", 400),
    ("/api/history/x/agency?format=csv", 400),
    ("/api/grid", 200),
    ("/api/grid?per_page=1001", 400),
    ("/api/grid?sort=followers", 400),
    ("/api/grid?from=2026-02-30", 400),
    ("/api/grid?from=1900-01-01", 400),
    ("/api/grid?from=2026-03-02&to=2026-03-01", 400),
    ("/api/grid?page=2", 400),
    ("/api/grid?cursor=abc", 400),
    # ["snapshot_date", true, "2026-03-02", 99999999999999999999]
    ("/api/grid?cursor=WyJzbmFwc2hvdF9kYXRlIix0cnVlLCIyMDI2LTAzLTAyIiw5OTk5OTk5OTk5OTk5OTk5OTk5OV0", 400),
    # ["snapshot_date", true, "0001-01-01", 7]
    ("/api/grid?cursor=WyJzbmFwc2hvdF9kYXRlIix0cnVlLCIwMDAxLTAxLTAxIiw3XQ", 200),
    ("/api/movers", 200),
    ("/api/movers?days=2", 400),
    ("/api/movers?by=size", 400),
    ("/api/movers?per_page=501", 400),
    ("/api/movers?page=1", 400),
    ("/api/movers?platform=orkut", 400),
    ("/api/posts/x/agency", 200),
    ("/api/posts/x/nobody", 404),
    ("/api/posts/x/%00", 404),
    ("/api/posts/orkut/agency", 400),
    ("/api/posts/x/agency?sort=text", 400),
    ("/api/posts/x/agency?per_page=501", 400),
    ("/api/posts/x/agency?platform=x", 400),
    ("/api/jobs", 200),
    ("/api/jobs/", 404),
    ("/api/jobs?platform=orkut", 400),
    ("/api/jobs?lane=fast", 400),
    ("/api/jobs?state=done", 400),
    ("/api/jobs?kind=followers", 400),
    ("/api/jobs?page=1000000000", 400),
    # ["created_at", true, "2026-03-02T12:00:00Z", "no id"]
    ("/api/jobs?cursor=WyJjcmVhdGVkX2F0Iix0cnVlLCIyMDI2LTAzLTAyVDEyOjAwOjAwWiIsIm5vIGlkIl0", 400),
    ("/api/totals?format=xml", 400),
    ("/api/summary?page=1&page=1", 400),
    ("/api/summary?platform=orkut", 400),
    ("/api/summary?status=alive", 400),
    ("/api/summary?core=1", 400),
    ("/api/summary?sort=password", 400),
    ("/api/summary?fields=password", 400),
    ("/api/summary?fields=", 400),
    ("/api/summary?cursor=", 400),
    ("/api/summary?cursor=%00", 400),
    ("/api/summary?cursor=WyJhY2NvdW50X2tleSIsZmFsc2UsMiwtMV0", 400),
    ("/api/summary?&&&=&", 400),
    ("/api/summary?=", 400),
    ("/api/accounts?per_page=501", 400),
    ("/api/accounts/x", 404),
    ("/api/accounts/x/nobody", 404),
    ("/api/accounts/x/%00", 404),
    ("/api/accounts/x/%ff%fe", 404),
    ("/api/accounts/x/%F0%9F%A6%84", 404),
    ("/api/accounts/x/" + "a" * 2000, 404),
    ("/api/accounts/x/..%2f..%2fetc%2fpasswd", 404),
    ("/api/accounts/orkut/agency", 400),
    ("/api/accounts/%00/agency", 400),
    ("/api/accounts/mastodon/agency@", 404),
    ("/api/accounts/mastodon/@@@", 404),
    ("/api/history/x/agency?from=2020-13-01", 400),
    ("/api/history/x/agency?from=0000-00-00", 400),
    ("/api/history/x/agency?from=0001-01-01", 400),
    ("/api/history/x/agency?to=9999-12-31", 400),
    ("/api/history/x/agency?from=2000-01-01&to=2099-12-31", 400),
    ("/api/history/x/agency?interval=year", 400),
    ("/api/history/x/agency?fields=dates,dates", 400),
    ("/api/history/x/agency?interval=month&from=2026-01-01&to=2026-01-01", 200),
    ("/api/jobs/1", 404),
    ("/api/jobs/%00", 404),
    ("/api/jobs/00000000-0000-0000-0000-000000000000", 404),
    ("/api/jobs/00000000-0000-0000-0000-000000000000?x=1", 400),
    ("/api/refresh", 405),
    ("/?page=1", 400),
    ("/accounts?page=0", 400),
    ("/accounts?sort=bio", 400),
    ("/?utm_source=mail", 400),
]
RAW = [
    b"GET /api/summary?q=\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /api/summary?q=caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /api/accounts/x/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b'GET /api/summary HTTP/1.1\r\nHost: a\r\nAccept-Encoding: \xff\r\nIf-None-Match: \xff"\r\n\r\n',
    b"GET /api/summary HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xfe\r\nX-Request-ID: \xff\r\n\r\n",
    b"GET /api/summary HTTP/1.1\r\nHost: a\r\nAccept: \xff/\xfe;q=\xfd, text/csv;q=9\r\n\r\n",
    b"GET /api/jobs HTTP/1.1\r\nHost: a\r\nAccept: " + b"text/csv;q=0.1, " * 400 + b"\r\n\r\n",
    b"GET /api/summary HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n",
    b"GET /api/summary HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /api/summary HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    b"GET /api/summary HTTP/9.9\r\nHost: a\r\n\r\n",
    b"WEBSOCKET /api/summary HTTP/1.1\r\nHost: a\r\n\r\n",
    b"BREW /api/summary HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET " + b"/a" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/api/summary HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
]


@pytest.fixture
def server(database_url: str, redis_url: str, engine: Engine, tmp_path: Path) -> Iterator[Gunicorn]:
    with transaction(engine) as conn:
        add_account(conn, "x/agency")
    with gunicorn(database_url, redis_url, tmp_path, workers=1) as server:
        yield server


def test_every_wrong_address_is_a_problem_that_names_the_fault(server: Gunicorn) -> None:
    for path, expected in GET:
        status, headers, body = server.get(path)
        assert status == expected, f"{path}: {status} {body!r}"
        if status >= 400:
            assert headers["content-type"] == "application/problem+json", path
            problem = json.loads(body)
            assert (problem["status"], bool(problem["title"]), bool(problem["detail"])) == (status, True, True), path
            assert (status == 400) == bool(problem.get("errors")), path


def test_no_bytes_on_the_socket_are_answered_with_a_500(server: Gunicorn, tmp_path: Path) -> None:
    for request in RAW:
        answer = _exchange(server.port, request)
        assert answer, f"{request[:60]!r} got no answer"
        status = int(answer.split(b" ", 2)[1])
        assert status < 500 or status in (501, 505), f"{request[:60]!r}: {answer[:200]!r}"
    assert server.get("/healthz")[0] == 200
    assert "Traceback" not in (tmp_path / "api.log").read_text()


def test_a_body_beyond_the_limit_is_refused_announced_or_not(server: Gunicorn, engine: Engine) -> None:
    with transaction(engine) as conn:
        token = keys.create(conn, name="writer", scopes=["refresh"]).encode()
    head = b"POST /api/refresh HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + token + b"\r\n"
    announced = head + b"Content-Length: 1048577\r\n\r\n" + b" " * 1048577
    chunked = (
        head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17 + b"0\r\n\r\n"
    )
    for request in (announced, chunked):
        assert _exchange(server.port, request).split(b" ", 2)[1] == b"413"


def _exchange(port: int, request: bytes) -> bytes:
    """Send bytes and return what comes back first."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with suppress(ConnectionError):  # refused before all of it was sent; the answer is there to read
            connection.sendall(request)
        return connection.recv(65_536)


def test_each_request_has_its_closing_line_without_its_query(server: Gunicorn, tmp_path: Path) -> None:
    server.get("/api/summary?q=confidential", X_Request_ID="trace-7")

    def lines_of_it() -> list[str]:
        return [line for line in (tmp_path / "api.log").read_text().splitlines() if "trace-7" in line]

    wait_for(lines_of_it, "the line")
    lines = lines_of_it()
    assert len(lines) == 1
    for part in (
        "method=GET",
        "path=/api/summary",
        "status=200",
        "endpoint=/api/summary",
        "cache=miss",
        "key=None",
        "took_s=",
    ):
        assert part in lines[0]
    assert "confidential" not in (tmp_path / "api.log").read_text()


def test_a_missing_setting_ends_the_api_with_one_clear_message(tmp_path: Path, project: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "api"], cwd=tmp_path, env={"PYTHONPATH": str(project)}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "DATABASE_URL" in ended.stderr
    assert "Traceback" not in ended.stderr
