"""The way out through HTTPS_PROXY: which hosts are reached without it, and what it wants to see first."""

from collections.abc import Mapping
from urllib.parse import unquote

from urllib3 import make_headers
from urllib3.util import parse_url


def is_listed(host: str, no_proxy: str) -> bool:
    """Say whether a list as in NO_PROXY holds a host: `example.org` means everything below it too, `*` all."""
    listed = [entry.strip().lower().lstrip(".") for entry in no_proxy.split(",")]
    return any(entry in ("*", host) or host.endswith(f".{entry}") for entry in listed if entry)


def login_headers(https_proxy: str) -> Mapping[str, str] | None:
    """Return the headers that carry the user and password of a proxy's address; None where it has none."""
    login = parse_url(https_proxy).auth
    return make_headers(proxy_basic_auth=unquote(login)) if login else None
