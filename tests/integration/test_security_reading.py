"""What a platform's server, and whoever names one, can't make a worker do: ask a machine of ours, unpack without end."""

import gzip
import socket
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from pytest_httpserver import HTTPServer

from pipeline import addresses, platforms
from pipeline.errors import BadPage, NotAllowed, PlatformDown, ScrapeError, TimedOut
from tests import fakes
from workers.clients import make_clients
from workers.http import LARGEST_BODY_BYTES, HttpClient

NOWHERE = {"database_url": "postgresql:///nowhere", "redis_url": "redis://nowhere"}
# All of them are this machine, its neighbours, or a cloud's metadata, in some spelling.
PRIVATE = [
    "127.0.0.1",
    "127.1",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "0.0.0.0",
    "169.254.169.254",
    "10.0.0.1",
    "100.64.0.1",
    "192.168.1.1",
    "localhost.",
    "a.localhost",
    "ip6-localhost",
    "2130706433",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[fe80::1]",
    "social.example@127.0.0.1",
    "127.0.0.1#social.example",
    "127.0.0.1?social.example",
    "127.0.0.1/social.example",
    "127.0.0.1\\social.example",
    "social.example\r\nHost: 127.0.0.1",
    "①②⑦.0.0.1",
]


def mastodon(**environ: str) -> HttpClient:
    known = platforms.load()["mastodon"]
    (make,) = make_clients(fakes.settings(**NOWHERE, **environ), known).values()
    return make(lambda allowed: None)


@pytest.mark.parametrize("host", PRIVATE, ids=range(len(PRIVATE)))
def test_no_name_of_a_server_leads_to_a_machine_of_ours(host: str) -> None:
    """Either the name is no server's to whoever lists accounts, or its reading asks nobody, for any port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        listening.settimeout(0)
        for name in (host, f"{host}:{port}"):
            for written in (f"mastodon/agency@{name}", f"https://{name}/@agency"):
                try:
                    named = addresses.of_text(written, platforms.load())
                except addresses.Unclear:
                    continue
                with pytest.raises((NotAllowed, TimedOut)):
                    mastodon().get("/api/v1/accounts/lookup", host=named.host)
            # Whatever got past the list, or was in it before.
            with pytest.raises(ScrapeError):
                mastodon().get("/api/v1/accounts/lookup", host=name)
        with pytest.raises(BlockingIOError):
            listening.accept()


def twice(body: bytes) -> bytes:
    return gzip.compress(gzip.compress(body))


def deep(levels: int) -> Callable[[bytes], bytes]:
    def compress(body: bytes) -> bytes:
        for _ in range(levels):
            body = gzip.compress(body, 1)
        return body

    return compress


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstandard.compress),
        ("gzip, gzip", twice),
        (", ".join(["gzip"] * 40), deep(40)),
    ],
    ids=["gzip", "deflate", "zstd", "twice", "forty times"],
)
def test_an_answer_that_unpacks_without_end_is_left(
    httpserver: HTTPServer, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    bomb = compress(bytes(12 * LARGEST_BODY_BYTES))
    httpserver.expect_request("/api/v1/accounts/lookup").respond_with_data(bomb, headers={"Content-Encoding": coding})
    http = mastodon(MASTODON_BASE_URL=httpserver.url_for(""))
    tracemalloc.start()
    try:
        with pytest.raises((BadPage, PlatformDown)):
            http.get("/api/v1/accounts/lookup")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * LARGEST_BODY_BYTES


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b"9" * 1_000_000,
        b'{"followers_count": 1' + b"0" * 5000 + b"}",
        b"-" * 9,
        b"NaN",
    ],
    ids=["deep lists", "deep objects", "a huge number", "a huge count", "dashes", "no number"],
)
def test_an_answer_that_no_reader_can_hold_is_an_error_like_any_other(httpserver: HTTPServer, body: bytes) -> None:
    httpserver.expect_request("/api/v1/accounts/lookup").respond_with_data(body)
    http = mastodon(MASTODON_BASE_URL=httpserver.url_for(""))
    try:
        page = http.get("/api/v1/accounts/lookup")
    except (BadPage, PlatformDown):
        return
    assert not isinstance(page.body, dict | list)
