import gzip

import brotli
import pytest
import zstandard

from api.encodings import compress, negotiate

BODY = b'{"followers": 1234}' * 50


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("gzip, deflate, br", "br"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("ZSTD", "zstd"),
        ("zstd;q=0.1, gzip;q=0.9", "gzip"),
        ("zstd;q=0, br;q=0", "identity"),
        ("*", "zstd"),
        ("*;q=0.5, zstd;q=0", "br"),
        ("gzip;q=0.5, identity;q=0.9", "identity"),
        ("deflate, compress", "identity"),
        ("gzip;q=much", "identity"),
        ("gzip;q=nan", "identity"),
        (",,;;=,q=1", "identity"),
    ],
)
def test_the_clients_weights_decide_then_our_order(header: str | None, encoding: str) -> None:
    assert negotiate(header) == encoding


def test_every_coding_gives_the_body_back() -> None:
    assert gzip.decompress(compress(BODY, "gzip")) == BODY
    assert brotli.decompress(compress(BODY, "br")) == BODY
    assert zstandard.decompress(compress(BODY, "zstd")) == BODY
    assert compress(BODY, "identity") == BODY


def test_equal_bodies_compress_to_equal_bytes_whenever_and_wherever() -> None:
    assert all(compress(BODY, name) == compress(BODY, name) for name in ("gzip", "br", "zstd"))
    assert compress(BODY, "gzip")[4:8] == b"\0\0\0\0", "no time of day in it"
