"""The way out through HTTPS_PROXY: which hosts are reached without it, and what it wants to see first."""

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from urllib3 import PoolManager, ProxyManager, make_headers
from urllib3.util import parse_url

from pipeline.settings import Settings


def is_listed(host: str, no_proxy: str) -> bool:
    """Say whether a list as in NO_PROXY holds a host: `example.org` means everything below it too, `*` all."""
    listed = [entry.strip().lower().lstrip(".") for entry in no_proxy.split(",")]
    return any(entry in ("*", host) or host.endswith(f".{entry}") for entry in listed if entry)


def login_headers(https_proxy: str) -> Mapping[str, str] | None:
    """Return the headers that carry the user and password of a proxy's address; None where it has none."""
    login = parse_url(https_proxy).auth
    return make_headers(proxy_basic_auth=unquote(login)) if login else None


def pool(settings: Settings, url: str, headers: Mapping[str, str]) -> PoolManager:
    """Return connections to an address, through the proxy where that is the way out."""
    parts = urlsplit(url)
    is_near = parts.scheme != "https" or is_listed(parts.hostname or "", settings.no_proxy)
    if settings.https_proxy is None or is_near:
        return PoolManager(headers=headers)
    proxy = settings.https_proxy.get_secret_value()
    return ProxyManager(proxy, headers=headers, proxy_headers=login_headers(proxy))
