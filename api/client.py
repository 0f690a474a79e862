"""Where a request comes from: the client's address, and whether it speaks https, seen through proxies that are trusted."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from falcon.asgi import Request

from pipeline.settings import Network


class Proxies:
    """Believes X-Forwarded-For and X-Forwarded-Proto of trusted proxies, and of nobody else."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._is_trusted = lru_cache(4096)(self._look_up)

    def trusts(self, peer: str) -> bool:
        """Tell whether a peer is a proxy that is believed."""
        return bool(self._trusted) and self._is_trusted(peer)

    def address(self, req: Request) -> str:
        """Return the address of who asks: the nearest one that no trusted proxy has."""
        return self.address_from(req.remote_addr, req.get_header("X-Forwarded-For"))

    def address_from(self, peer: str, forwarded: str | None) -> str:
        """Return the same from the peer's address and X-Forwarded-For."""
        if not self.trusts(peer):
            return peer
        # Each proxy adds the address that it was asked from at the end; what stands before is anybody's word.
        for address in reversed((forwarded or "").split(",")):
            address = _without_port(address.strip())
            if not _is_address(address):
                break
            if not self._is_trusted(address):
                return address
            peer = address
        return peer

    def is_https(self, req: Request) -> bool:
        """Tell whether the client came by https: to a trusted proxy that says so."""
        return self.is_https_from(req.remote_addr, req.get_header("X-Forwarded-Proto"))

    def is_https_from(self, peer: str, proto: str | None) -> bool:
        """Tell the same from the peer's address and X-Forwarded-Proto."""
        return proto == "https" and self.trusts(peer)

    def site(self, req: Request) -> str:
        """Return the site as the client calls it: `https://rollcall.example`."""
        return f"{'https' if self.is_https(req) else req.scheme}://{req.netloc}"

    def _look_up(self, address: str) -> bool:
        if not _is_address(address):
            return False
        found = ipaddress.ip_address(address)
        return any(found in network for network in self._trusted)


@lru_cache(4096)
def household(address: str) -> str:
    """Return what an address counts as: IPv6 gives each customer a /64 at least, so its 2**64 addresses are one."""
    if not _is_address(address):
        return address
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))


def _without_port(text: str) -> str:
    """Return an address without the port that some proxies write behind it: `203.0.113.9:4711`, `[2001:db8::1]:4711`."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


@lru_cache(4096)
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
