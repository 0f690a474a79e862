"""What the API's processes have counted of their statements, each in a key of its own in Redis.

A process writes its whole report anew every few seconds; what one that ended had counted stays for an hour. Their names
stand in a set: to look for them would be to look at every answer that is cached.
"""

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec
from redis import Redis

from db.profiler import Report

KEY = "rollcall:profile:"
NAMES_KEY = "rollcall:profiles"
KEPT_S = 3600

_decoder = msgspec.msgpack.Decoder(Report)


def own_key() -> str:
    """Return the key of this process."""
    return f"{KEY}{socket.gethostname()}:{os.getpid()}"


def packed(report: Report) -> bytes:
    return msgspec.msgpack.encode(report)


def unpacked(values: Iterable[bytes | None]) -> list[Report]:
    """Return the reports that are kept under some keys; those of another version are left out."""
    found = []
    for value in values:
        with suppress(msgspec.DecodeError):
            found.append(_decoder.decode(value or b""))  # None where it has just expired
    return found


def kept(redis: Redis) -> list[Report]:
    """Return every report that is kept."""
    names: Any = redis.zrange(NAMES_KEY, 0, -1)
    values: Any = redis.mget(names) if names else []
    return unpacked(values)
