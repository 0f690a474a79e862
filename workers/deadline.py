"""Connections whose answers arrive within one deadline, however slowly a server drips its bytes.

A socket's own timeout begins anew with each byte, so a server that sends one every few seconds holds a thread for
hours. Here every read gets what is left of the time that the first read was given. A pool also knows the proxy, and
may be kept to the public internet where strangers name the servers. Certificates are always verified, against the
system's authorities or those that SSL_CERT_FILE names.

A request goes through the gate that its thread has put up: between connecting and sending, since a limit counts when
bytes arrive, and connecting takes as long as it takes.
"""

import io
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any, Protocol
from urllib.parse import urlsplit

from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    ProxyManager,
)
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from pipeline.proxy import is_listed, login_headers
from workers.addresses import public_addresses

_HOSTS = 64  # servers that a platform of many servers (Mastodon) keeps connections to
_CONNECTIONS_PER_HOST = 16


class Gate(Protocol):
    """Says when a request may leave, and hears when it has."""

    def wait(self) -> None:
        """Return when it may; it is connected by now. What this raises comes out of `Pool.request`."""

    def sent(self) -> None: ...


_gate: ContextVar[Gate | None] = ContextVar("gate", default=None)


@contextmanager
def gated(gate: Gate | None) -> Iterator[None]:
    """Let this thread's requests pass the gate, or none at all, until the block ends."""
    token = _gate.set(gate)
    try:
        yield
    finally:
        _gate.reset(token)


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


class _Gated(HTTPConnection):
    """Connects, waits at the gate, sends."""

    def request(self, *args: Any, **options: Any) -> None:
        super().request(*args, **options)
        if gate := _gate.get():
            gate.sent()

    def endheaders(self, *args: Any, **options: Any) -> None:
        if gate := _gate.get():
            if self.sock is None:
                self.connect()
            gate.wait()
        super().endheaders(*args, **options)


class _Connection(_Gated):
    response_class = _Response


class _TlsConnection(_Gated, HTTPSConnection):
    response_class = _Response


class _Guard(HTTPConnection):
    """Connects to addresses of the public internet only, and to the very ones that were looked at."""

    def _new_conn(self) -> socket.socket:
        if self.proxy:
            return super()._new_conn()
        name = self._dns_host
        try:
            return self._connect(public_addresses(name, self.port))
        except (socket.gaierror, UnicodeError) as exc:
            raise NewConnectionError(self, "the name can't be resolved") from exc
        finally:
            self._dns_host = name  # the one that the certificate is for

    def _connect(self, addresses: Sequence[str]) -> socket.socket:
        """Connect to the first address that answers."""
        for address in addresses:
            self._dns_host = address
            try:
                return super()._new_conn()
            except (ConnectTimeoutError, NewConnectionError):
                if address == addresses[-1]:
                    raise
        raise AssertionError("a resolved name has an address")


class _GuardedConnection(_Guard, _Connection):
    pass


class _GuardedTlsConnection(_Guard, _TlsConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _GuardedPool(HTTPConnectionPool):
    ConnectionCls = _GuardedConnection


class _GuardedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTlsConnection

    def _prepare_proxy(self, conn: HTTPSConnection) -> None:  # type: ignore[override]  # as urllib3's own
        # The proxy looks the name up again, so what it may reach is in the end its own affair.
        public_addresses(self.host, self.port or 443)
        super()._prepare_proxy(conn)


class Pool:
    """Kept-alive connections for all threads of a process. Give requests `Timeout(total=…)`: a whole answer's deadline."""

    def __init__(self, direct: PoolManager, proxied: PoolManager | None, no_proxy: str) -> None:
        self._direct = direct
        self._proxied = proxied
        self._no_proxy = no_proxy

    def request(self, method: str, url: str, **options: Any) -> BaseHTTPResponse:
        """Make a request as PoolManager does. Raises its errors, and NotPublic where the pool is guarded."""
        return self._manager(url).request(method, url, **options)

    def _manager(self, url: str) -> PoolManager:
        parts = urlsplit(url)
        if self._proxied is None or parts.scheme != "https" or is_listed(parts.hostname or "", self._no_proxy):
            return self._direct
        return self._proxied


def make_pool(*, https_proxy: str | None = None, no_proxy: str = "", public_only: bool = False) -> Pool:
    """Return a pool that reaches `https` addresses through the proxy, except those that `no_proxy` lists.

    With `public_only` it raises NotPublic for a host whose name leads elsewhere than to the public internet.
    """
    classes: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": _TlsPool}
    if public_only:
        classes = {"http": _GuardedPool, "https": _GuardedTlsPool}
    managers = [PoolManager(num_pools=_HOSTS, maxsize=_CONNECTIONS_PER_HOST)]
    if https_proxy:
        headers = login_headers(https_proxy)
        managers.append(
            ProxyManager(https_proxy, num_pools=_HOSTS, maxsize=_CONNECTIONS_PER_HOST, proxy_headers=headers)
        )
    for manager in managers:
        manager.pool_classes_by_scheme = classes
    return Pool(managers[0], managers[1] if https_proxy else None, no_proxy)
