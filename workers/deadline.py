"""Connections whose answers arrive within one deadline, however slowly a server drips its bytes.

A socket's own timeout begins anew with each byte, so a server that sends one every few seconds holds a thread for
hours. Here every read gets what is left of the time that the first read was given. A pool also knows the proxy, and
may be kept to the public internet where strangers name the servers. Certificates are always verified, against the
system's authorities or those that SSL_CERT_FILE names.
"""

import io
import socket
import time
from collections.abc import Sequence
from http.client import HTTPResponse
from typing import Any
from urllib.parse import unquote, urlsplit

from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    ProxyManager,
    make_headers,
)
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util import parse_url

from workers.addresses import public_addresses

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
        if self._proxied is None or parts.scheme != "https" or _is_listed(parts.hostname or "", self._no_proxy):
            return self._direct
        return self._proxied


def _is_listed(host: str, no_proxy: str) -> bool:
    """Say whether a list as in NO_PROXY holds a host: `example.org` means everything below it too, `*` all."""
    listed = [entry.strip().lower().lstrip(".") for entry in no_proxy.split(",")]
    return any(entry in ("*", host) or host.endswith(f".{entry}") for entry in listed if entry)


def make_pool(*, https_proxy: str | None = None, no_proxy: str = "", public_only: bool = False) -> Pool:
    """Return a pool that reaches `https` addresses through the proxy, except those that `no_proxy` lists.

    With `public_only` it raises NotPublic for a host whose name leads elsewhere than to the public internet.
    """
    classes: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": _TlsPool}
    if public_only:
        classes = {"http": _GuardedPool, "https": _GuardedTlsPool}
    managers = [PoolManager(num_pools=_HOSTS, maxsize=_CONNECTIONS_PER_HOST)]
    if https_proxy:
        login = parse_url(https_proxy).auth
        headers = make_headers(proxy_basic_auth=unquote(login)) if login else None
        managers.append(
            ProxyManager(https_proxy, num_pools=_HOSTS, maxsize=_CONNECTIONS_PER_HOST, proxy_headers=headers)
        )
    for manager in managers:
        manager.pool_classes_by_scheme = classes
    return Pool(managers[0], managers[1] if https_proxy else None, no_proxy)
