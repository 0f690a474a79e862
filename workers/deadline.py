"""Connections whose answers arrive within one deadline, however slowly a server drips its bytes.

A socket's own timeout begins anew with each byte, so a server that sends one every few seconds holds a thread for
hours. Here every read gets what is left of the time that the first read was given.
"""

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

_HOSTS = 64  # servers that a platform of many servers (Mastodon) keeps connections to
_CONNECTIONS_PER_HOST = 16


class _Reader(io.RawIOBase):
    """Reads from a socket until a moment on the monotonic clock; then raises TimeoutError."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, ends_at: float) -> None:
        self._raw = raw
        self._sock = sock
        self._ends_at = ends_at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer took too long")
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()  # the socket counts its readers
        super().close()


class _Response(HTTPResponse):
    """An answer whose headers and body share the time that urllib3 left on the socket for the first read."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        time_s = sock.gettimeout()
        if time_s is not None:
            self.fp.close()
            raw = sock.makefile("rb", buffering=0)
            self.fp = io.BufferedReader(_Reader(raw, sock, time.monotonic() + time_s))


class _Connection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def make_pool() -> PoolManager:
    """Return a pool of kept-alive connections, for all threads of a process.

    Give its requests `Timeout(total=…)`: that is the deadline of a whole answer.
    """
    pool = PoolManager(num_pools=_HOSTS, maxsize=_CONNECTIONS_PER_HOST)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pool
