"""Content codings: which one a client takes, and the bytes in it."""

import gzip
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import zstandard

# In our order of preference. A miss is compressed while someone waits for it, so each works at a quick level.
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstandard.compress(body, 3),
    "br": lambda body: brotli.compress(body, quality=4),
    "gzip": lambda body: gzip.compress(body, 1, mtime=0),
    "identity": lambda body: body,
}


def negotiate(accepted: str | None) -> str:
    """Return the coding for an Accept-Encoding header: the client's weights decide, then our order.

    Without a header, or when nothing that we have is accepted, the body goes out as it is.
    """
    weights: dict[str, float] = {}
    for part in (accepted or "").lower().split(","):
        name, _, parameters = part.partition(";")
        weights[name.strip()] = _weight(parameters)
    rest = weights.get("*", 0.0)
    best = max(_COMPRESS, key=lambda name: weights.get(name, rest))
    return best if weights.get(best, rest) > 0 else "identity"


def compress(body: bytes, encoding: str) -> bytes:
    return _COMPRESS[encoding](body)


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0
