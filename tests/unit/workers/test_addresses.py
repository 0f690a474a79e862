"""Strangers' host names lead to the public internet or nowhere."""

import socket

import pytest

from workers.addresses import NotPublic, is_public, public_addresses


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "64:ff9b::101:101"])
def test_an_address_of_the_public_internet_is_one(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("127.8.9.10", id="loopback, further"),
        pytest.param("::1", id="loopback, IPv6"),
        pytest.param("10.0.0.1", id="private"),
        pytest.param("172.31.255.1", id="private, 172"),
        pytest.param("192.168.1.1", id="private, 192"),
        pytest.param("fd00::1", id="private, IPv6"),
        pytest.param("fec0::1", id="site-local"),
        pytest.param("169.254.169.254", id="link-local: a cloud's metadata"),
        pytest.param("fe80::1", id="link-local, IPv6"),
        pytest.param("fe80::1%1", id="link-local, with its scope"),
        pytest.param("224.0.0.251", id="multicast"),
        pytest.param("ff02::1", id="multicast, IPv6"),
        pytest.param("0.0.0.0", id="unspecified"),
        pytest.param("::", id="unspecified, IPv6"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("240.0.0.1", id="reserved"),
        pytest.param("100.64.0.1", id="a provider's own"),
        pytest.param("192.0.2.7", id="documentation"),
        pytest.param("192.88.99.1", id="relays"),
        pytest.param("198.18.0.1", id="benchmarks"),
        pytest.param("2001:db8::1", id="documentation, IPv6"),
        pytest.param("::ffff:10.0.0.1", id="private, mapped into IPv6"),
        pytest.param("::10.0.0.1", id="private, compatible with IPv6"),
        pytest.param("64:ff9b::a00:1", id="private, behind NAT64"),
        pytest.param("2002:a00:1::1", id="private, by 6to4"),
        pytest.param("2001:0:4136:e378:8000:63bf:3fff:fdd2", id="Teredo"),
    ],
)
def test_any_other_address_is_not(address: str) -> None:
    assert not is_public(address)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(host: str, port: int, **_: object) -> list:
        kinds = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(kinds[":" in a], socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_all_addresses_of_a_name_are_returned_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "2606:4700::1111", "1.1.1.1", "1.1.1.1")
    assert public_addresses("pond.example", 443) == ["2606:4700::1111", "1.1.1.1"]


def test_one_private_address_among_public_ones_is_enough_to_refuse_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "1.1.1.1", "10.0.0.1")
    with pytest.raises(NotPublic):
        public_addresses("pond.example", 443)


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433", "017700000001"])
def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(NotPublic):
        public_addresses(host, 443)
