"""Content codings: which one a client takes, and the bytes in it."""

import gzip
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import lru_cache

import brotli  # type: ignore[import-untyped]
import zstandard

# In our order of preference.
CODINGS = ("zstd", "br", "gzip", "identity")
# A miss is compressed while someone waits for it, so each works at a quick level.
_QUICKLY: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstandard.compress(body, 3),
    "br": lambda body: brotli.compress(body, quality=4),
    "gzip": lambda body: gzip.compress(body, 1, mtime=0),
    "identity": lambda body: body,
}
# What is asked for again and again is worth more time (a page of 1,000: 15 to 60 ms) for a seventh fewer bytes.
_WELL: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstandard.compress(body, 12),
    "br": lambda body: brotli.compress(body, quality=9),
    "gzip": lambda body: gzip.compress(body, 6, mtime=0),
    "identity": lambda body: body,
}
_UNDO: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.decompress,
    "br": brotli.decompress,
    "gzip": gzip.decompress,
    "identity": lambda body: body,
}


@lru_cache(maxsize=256)  # browsers send few different ones
def negotiate(accepted: str | None) -> str:
    """Return the coding for an Accept-Encoding header: the client's weights decide, then our order.

    Without a header, or when nothing that we have is accepted, the body goes out as it is.
    """
    weights: dict[str, float] = {}
    for part in (accepted or "").lower().split(","):
        name, _, parameters = part.partition(";")
        weights[name.strip()] = _weight(parameters)
    rest = weights.get("*", 0.0)
    best = max(CODINGS, key=lambda name: weights.get(name, rest))
    return best if weights.get(best, rest) > 0 else "identity"


def compress(body: bytes, coding: str, *, well: bool = False) -> bytes:
    """Return the body in a coding: soon, or in fewer bytes."""
    return (_WELL if well else _QUICKLY)[coding](body)


def decompress(body: bytes, coding: str) -> bytes:
    return _UNDO[coding](body)


def compressed(pieces: Iterable[bytes], encoding: str) -> Generator[bytes, None, None]:
    """Yield the bytes of a long body in a coding, the first as soon as there are any."""
    if encoding == "identity":
        yield from pieces
        return
    add, flush, finish = _STREAMS[encoding]()
    is_first = True
    for piece in pieces:
        out = add(piece)
        if is_first:
            out += flush()
        is_first = False
        if out:
            yield out
    yield finish()


_Stream = tuple[Callable[[bytes], bytes], Callable[[], bytes], Callable[[], bytes]]


def _zstd_stream() -> _Stream:
    stream = zstandard.ZstdCompressor(level=3).compressobj()
    return stream.compress, lambda: stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), stream.flush


def _br_stream() -> _Stream:
    # A window of 1 MB (2 ** 20) instead of 4.
    stream = brotli.Compressor(quality=4, lgwin=20)
    return stream.process, stream.flush, stream.finish


def _gzip_stream() -> _Stream:
    stream = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return stream.compress, lambda: stream.flush(zlib.Z_SYNC_FLUSH), stream.flush


_STREAMS: dict[str, Callable[[], _Stream]] = {"zstd": _zstd_stream, "br": _br_stream, "gzip": _gzip_stream}


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0
