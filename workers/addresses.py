"""Which servers a stranger's host name may lead to: those of the public internet, not the machines around us."""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")  # IPv6 for an IPv4 address, which stands in the last 32 bits
_RELAYS = IPv4Network("192.88.99.0/24")


class NotPublic(Exception):
    """A name leads to an address that isn't one of the public internet."""


def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host name. Raises NotPublic if any of its addresses isn't public, OSError if it can't be resolved.

    Connect to what is returned: another look-up may answer differently (DNS rebinding).
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    if not all(is_public(address) for address in addresses):
        raise NotPublic(host)
    return addresses


def is_public(text: str) -> bool:
    """Say whether an address is one that anybody on the internet can reach, with what it embeds."""
    return all(_is_public(address) for address in _with_embedded(ip_address(text)))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        return address in _GLOBAL_UNICAST and address.is_global
    return address.is_global and not address.is_multicast and address not in _RELAYS


def _with_embedded(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """Yield what an address stands for: an IPv4 address in IPv6 clothing alone, of a 6to4 address both."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.sixtofour:
            yield address.sixtofour
    yield address
